"""ImageNet-R (30,000 renditions) and ImageNet-A (7,500 natural adversarial images), 200 classes of ImageNet each.

Two layouts, told apart by what is there: the official archive, ``<wnid>/<image>`` with a ``README.txt`` that lists the
wnids, and the release of class-incremental work, ``{train,test}/<class name or wnid>/<image>`` (ImageNet-R: 24,000 and
6,000 images). The official archive has no test split, so test items are held out by the seeded draw. Class names are
those of RaPO's lists in both (``wnids/*.tsv``), so a class order is the same for either copy.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from task_streams.config import Count, SourceCilConfig
from task_streams.errors import UserError
from task_streams.labels import normalise_label
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import labelled_stream
from task_streams.sources.class_folders import SPLITS, class_tree
from task_streams.sources.layout import existing_root, lines, shared_names, subfolders, with_all_classes
from task_streams.sources.records import Found

LAYOUT = "<wnid>/<image> (official archive) or {train,test}/<class>/<image> (class-incremental release)"
WHERE = {
    "imagenet_r": "https://github.com/hendrycks/imagenet-r (imagenet-r.tar)",
    "imagenet_a": "https://github.com/hendrycks/natural-adv-examples (imagenet-a.tar)",
}
NAMES = Path(__file__).parent / "wnids"
LISTED = re.compile(r"(n\d{8})\s+\S")


@dataclass(frozen=True, kw_only=True)
class ImageNetRaConfig(SourceCilConfig):
    """What ImageNet-R and ImageNet-A share; defaults are RaPO's protocol (arXiv 2605.09640)."""

    tasks: Count = 10
    """Number of tasks, >= 1; tasks x classes_per_task of the 200 classes are used."""
    classes_per_task: Count = 20
    shots: Count | None = 5
    """Training examples per class, >= 1; null = all that are not held out; ImageNet-A has classes short of 5."""
    test_per_class: Count | None = None
    """Test examples per class, >= 1; null = the whole test split (one fifth of the official archive)."""


@dataclass(frozen=True, kw_only=True)
class ImageNetRConfig(ImageNetRaConfig):
    """ImageNet-R, new classes in each task."""

    root: str = "data/imagenet-r"
    """Path of the folder that holds <wnid>/ or {train,test}/<class>/."""


@dataclass(frozen=True, kw_only=True)
class ImageNetAConfig(ImageNetRaConfig):
    """ImageNet-A, new classes in each task."""

    root: str = "data/imagenet-a"
    """Path of the folder that holds <wnid>/ or {train,test}/<class>/."""


def wnid_names(dataset: str) -> dict[str, str]:
    """Class name of each of the 200 wnids of ``imagenet_r`` or ``imagenet_a``."""
    return dict(line.split("\t") for _, line in lines(NAMES / f"{dataset}.tsv"))


def imagenet_ra(config: ImageNetRConfig | ImageNetAConfig) -> Found:
    """All images of either dataset, in either layout.

    Raises:
        UserError: no root, no image at all, one split without the other, or no folder that is a class.
    """
    dataset = "imagenet_r" if isinstance(config, ImageNetRConfig) else "imagenet_a"
    root = existing_root(config.root, LAYOUT, WHERE[dataset])
    names = wnid_names(dataset)
    forms = {normalise_label(name): name for name in names.values()}

    def label_of(folder: str) -> str:
        """Class of a folder named by its wnid or by its class in any spelling; empty when it is none."""
        return names.get(folder) or forms.get(normalise_label(folder), "")

    splits = [folder.name for folder in subfolders(root) if folder.name in SPLITS]
    problems: list[str] = []
    labelled = 0
    for split in splits or [""]:
        folders = [folder.name for folder in subfolders(root / split)]
        labels = {name: label for name in folders if (label := label_of(name))}
        for name in (name for name in folders if name not in labels):
            nearest = get_close_matches(name, names.values(), n=1, cutoff=0.6)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "expected a wnid such as n01443537 or a class name"
            path = f"{split}/{name}".lstrip("/")
            problems.append(f"folder {path!r} is none of the {len(names)} classes; {hint}")
        problems += shared_names(labels)
        labelled += len(labels)
    if not labelled:
        raise UserError(*(problems[:5] or [f"{root}: expected {LAYOUT}; found empty folders"]))
    try:
        found = class_tree(root, root, label_of=label_of)
    except UserError as error:
        raise UserError(*error.problems, *problems) from error
    notes, classes = found.notes, set(found.classes)
    if not splits:
        how = f"are held out by the seeded draw (draw_seed {config.draw_seed})"
        how = "are all that the list leaves" if config.shots_list else how
        notes = (f"the archive has no test split: test items {how}", *notes)
        readme = root / "README.txt"  # of the official archive: lists the wnids
        rows = lines(readme) if readme.is_file() else []
        wnids = [match[1] for _, line in rows if (match := LISTED.match(line))]
        problems += [f"README.txt: {wnid} is none of the {len(names)} classes" for wnid in wnids if wnid not in names]
        classes.update(names[wnid] for wnid in wnids if wnid in names)
    return with_all_classes(Found(found.records, notes, (*problems, *found.problems), tuple(sorted(classes))))


CIL_R = StreamSpec(
    ImageNetRConfig,
    partial(labelled_stream, "imagenet_r_cil", imagenet_ra),
    "ImageNet-R (art, sketches, toys … of 200 classes), new classes in each task",
    "none stated; the images remain with their owners",
    "Hendrycks et al., The Many Faces of Robustness, ICCV 2021",
)
CIL_A = StreamSpec(
    ImageNetAConfig,
    partial(labelled_stream, "imagenet_a_cil", imagenet_ra),
    "ImageNet-A (natural adversarial images of 200 classes), new classes in each task",
    "MIT for the repository; the images remain with their owners",
    "Hendrycks et al., Natural Adversarial Examples, CVPR 2021",
)
