"""PACS: 7 classes in 4 domains, 9,991 images.

Layout: ``<domain>/<class>/<image>`` below the root, ``kfold/``, ``images/`` or ``images/kfold/``. With the official
lists ``<domain>_{train,crossval}_kfold.txt`` beside it, in ``splits/`` or in ``pacs_label/`` the items of ``crossval``
are tested on (``<domain>_test_kfold.txt`` is the whole domain, and is not read); their lines are
``<domain>/<class>/<image> <class number>``. Without lists test items are held out by the seeded draw.
"""

from dataclasses import dataclass
from pathlib import Path

from task_streams.config import Count, SourceDilConfig
from task_streams.errors import UserError
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import dil_stream
from task_streams.sources.class_folders import class_folders
from task_streams.sources.layout import existing_root, joined, unknown_domains, with_all_classes
from task_streams.sources.listed_files import listed_domains
from task_streams.sources.records import Workspace
from task_streams.types import TaskStream

DOMAINS = ("art_painting", "cartoon", "photo", "sketch")
TRAIN, TEST = "{}_train_kfold.txt", "{}_crossval_kfold.txt"
IMAGE_FOLDERS = ("", "kfold/", "images/", "images/kfold/")
LIST_FOLDERS = ("", "splits", "pacs_label")
LAYOUT = "<domain>/<class>/<image>, domains art_painting, cartoon, photo and sketch"
WHERE = "https://dali-dl.github.io/project_iccv2017.html"


@dataclass(frozen=True, kw_only=True)
class PacsConfig(SourceDilConfig):
    """PACS, a new domain in each task; 5 shots as in RaPO (arXiv 2605.09640)."""

    root: str = "data/PACS"
    """Path of the folder that holds the four domains, and the official lists if there are any."""
    shots: Count | None = 5
    """Training examples per class and domain, >= 1; null = all not held out."""
    test_per_class: Count | None = None
    """Test examples per class and domain, >= 1; null = the crossval lists (about 1,000), or one fifth without lists."""

    def problems(self) -> list[str]:
        return super().problems() + unknown_domains(self.domains, DOMAINS)


def pacs_dil(config: PacsConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Domain-incremental stream of PACS."""
    domains = config.domains or DOMAINS
    given = Path(config.root).expanduser()
    images = next((folder for folder in IMAGE_FOLDERS if all((given / folder / name).is_dir() for name in domains)), "")
    root = existing_root(config.root, LAYOUT, WHERE, [images + name for name in domains])
    lists = _list_folder(root, domains)
    if lists is None:
        parts = {domain: class_folders(root, root / images / domain, domain=domain) for domain in domains}
        found = joined(with_all_classes(part, domain) for domain, part in parts.items())
    else:
        pairs = {domain: (lists / TRAIN.format(domain), lists / TEST.format(domain)) for domain in domains}
        found = listed_domains(root, pairs, images, config.on_damaged)
    return dil_stream("pacs_dil", found, config, order_seed, workspace)


def _list_folder(root: Path, domains: tuple[str, ...]) -> Path | None:
    """The folder with the official lists of all domains; None when there are no lists."""
    names = [name.format(domain) for domain in domains for name in (TRAIN, TEST)]
    for folder in (root / name for name in LIST_FOLDERS):
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(names):
            raise UserError(f"{folder}: expected the lists of all domains, or none; missing: {', '.join(missing)}")
    return None


DIL = StreamSpec(
    PacsConfig,
    pacs_dil,
    "PACS (7 classes, 4 domains) from its folders and official lists, a new domain in each task",
    "none stated; published for research",
    "Li et al., Deeper, Broader and Artier Domain Generalization, ICCV 2017",
)
