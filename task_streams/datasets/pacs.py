"""PACS: 7 classes in 4 domains, 9,991 images.

Layout: ``<domain>/<class>/<image>`` below the root, ``kfold/``, ``images/`` or ``images/kfold/``. With the official
lists ``<domain>_{train,crossval}_kfold.txt`` beside it, in ``splits/`` or in ``pacs_label/`` the items of ``crossval``
are tested on (``<domain>_test_kfold.txt`` is the whole domain, and is not read); their lines are
``<domain>/<class>/<image> <class number>``. Without lists test items are held out by the seeded draw.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from task_streams.config import Count, SourceDilConfig
from task_streams.errors import UserError
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import labelled_stream
from task_streams.sources.class_folders import class_folders
from task_streams.sources.layout import existing_root, joined, with_all_classes
from task_streams.sources.listed_files import listed_domains
from task_streams.sources.records import Found

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
    published = DOMAINS


def pacs(config: PacsConfig) -> Found:
    """Items of the official lists of all domains, or of the folders where there are no lists.

    Raises:
        UserError: the root is none, some of the lists are missing, or one cannot be read.
    """
    domains = config.domains or DOMAINS
    given = Path(config.root).expanduser()
    images = next((folder for folder in IMAGE_FOLDERS if all((given / folder / name).is_dir() for name in domains)), "")
    root = existing_root(config.root, LAYOUT, WHERE, [images + name for name in domains])
    for folder in (root / name for name in LIST_FOLDERS):
        lists = {domain: (folder / TRAIN.format(domain), folder / TEST.format(domain)) for domain in domains}
        missing = [path.name for pair in lists.values() for path in pair if not path.is_file()]
        if not missing:
            return listed_domains(root, lists, images, config.on_damaged)
        if len(missing) < 2 * len(domains):
            raise UserError(f"{folder}: expected the lists of all domains, or none; missing: {', '.join(missing)}")
    parts = {domain: class_folders(root, root / images / domain, domain=domain) for domain in domains}
    return joined(with_all_classes(part, domain) for domain, part in parts.items())


DIL = StreamSpec(
    PacsConfig,
    partial(labelled_stream, "pacs_dil", pacs),
    "PACS (7 classes, 4 domains) from its folders and official lists, a new domain in each task",
    "none stated; published for research",
    "Li et al., Deeper, Broader and Artier Domain Generalization, ICCV 2017",
)
