"""OfficeHome: 65 classes of things of office and home in 4 domains, 15,588 images.

Layout of the original archive: ``<domain>/<class>/<image>`` with the domains Art, Clipart, Product and Real World
(``Real_World`` in some copies; both are named ``Real_World`` here). There is no test split: test items are held out
by the seeded draw. ``ImageInfo.csv`` and other files beside the domains are not read.
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
from task_streams.sources.records import Found

DOMAINS = ("Art", "Clipart", "Product", "Real_World")
LAYOUT = "<domain>/<class>/<image>, domains Art, Clipart, Product and Real World (or Real_World)"
WHERE = "https://www.hemanthdv.org/officeHomeDataset.html"


@dataclass(frozen=True, kw_only=True)
class OfficeHomeConfig(SourceDilConfig):
    """OfficeHome, a new domain in each task; 5 shots as in RaPO (arXiv 2605.09640)."""

    root: str = "data/OfficeHome"
    """Path of the folder that holds the four domains."""
    shots: Count | None = 5
    """Training examples per class and domain, >= 1 (the smallest class has 15 images); null = all not held out."""
    test_per_class: Count | None = None
    """Held-out test examples per class and domain, >= 1; null = one fifth."""
    published = DOMAINS


def officehome(config: OfficeHomeConfig) -> Found:
    """Images of each domain, whichever way its folder is spelled in this copy."""
    given = Path(config.root).expanduser()
    folders: dict[str, str] = {}
    for domain in config.domains or DOMAINS:
        spaced = domain.replace("_", " ")
        there = [name for name in dict.fromkeys((spaced, domain)) if (given / name).is_dir()]
        if len(there) > 1:
            raise UserError(f"root {str(given)!r}: found both {there[0]!r} and {there[1]!r}; keep one of them")
        folders[domain] = there[0] if there else spaced
    root = existing_root(config.root, LAYOUT, WHERE, tuple(folders.values()))
    parts = {
        domain: with_all_classes(class_folders(root, root / folder, domain=domain), domain)
        for domain, folder in folders.items()
    }
    if empty := [folders[domain] for domain, part in parts.items() if not part.classes]:
        raise UserError(*(f"{root / folder}: expected <class>/<image>; found no folders" for folder in empty))
    return joined(parts.values())


DIL = StreamSpec(
    OfficeHomeConfig,
    partial(labelled_stream, "officehome_dil", officehome),
    "OfficeHome (65 classes, 4 domains) from its original folders, a new domain in each task",
    "non-commercial research and education",
    "Venkateswara et al., Deep Hashing Network for Unsupervised Domain Adaptation, CVPR 2017",
)
