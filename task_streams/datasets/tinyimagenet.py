"""TinyImageNet: 200 classes of ImageNet at 64 × 64, 500 training and 50 validation images each.

Layout of the original archive: ``wnids.txt``, ``words.txt``, ``train/<wnid>/images/*.JPEG``, ``val/images/*.JPEG`` with
``val/val_annotations.txt``. Validation images are the test items: ``test/`` has no labels and is not read. A class is
named by the first synonym of its wnid in ``words.txt``, as in RaPO's lists. Bounding boxes are not read.
"""

import re
from dataclasses import dataclass
from functools import partial

from task_streams.config import Count, SourceCilConfig, repeated
from task_streams.errors import shown
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import labelled_stream
from task_streams.sources.class_folders import class_folders
from task_streams.sources.layout import existing_root, lines, shared_names, subfolders, with_all_classes
from task_streams.sources.listed_files import listed_files
from task_streams.sources.records import FileSource, Found, Record

LAYOUT = "wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt"
WHERE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip (Stanford CS231n)"
NEEDS = ("wnids.txt", "words.txt", "train", "val/images", "val/val_annotations.txt")
ANNOTATIONS = "val/val_annotations.txt"
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True, kw_only=True)
class TinyImageNetConfig(SourceCilConfig):
    """TinyImageNet, new classes in each task; defaults are RaPO's protocol (arXiv 2605.09640)."""

    root: str = "data/tiny-imagenet-200"
    """Path of the folder tiny-imagenet-200 as the archive unpacks."""
    tasks: Count = 10
    """Number of tasks, >= 1; tasks x classes_per_task of the 200 classes are used."""
    classes_per_task: Count = 20
    shots: Count | None = 5
    """Training examples per class, >= 1; null = all 500."""
    test_per_class: Count | None = None
    """Test examples per class, >= 1; null = all 50 of the validation split."""


def tinyimagenet(config: TinyImageNetConfig) -> Found:
    """Both labelled splits; a class is named by the first synonym of its wnid, with underscores for spaces.

    Test items are those of ``val_annotations.txt``: file, wnid and a box in each line, tab-separated.

    Raises:
        UserError: the root is none, or a list cannot be read.
    """
    root = existing_root(config.root, LAYOUT, WHERE, NEEDS)
    wnids = [line for _, line in lines(root / "wnids.txt")]
    synonyms = dict(line.partition("\t")[::2] for _, line in lines(root / "words.txt"))
    first = {wnid: synonyms.get(wnid, "").split(",")[0].strip() for wnid in wnids}
    names = {wnid: name.replace(" ", "_") for wnid, name in first.items() if name}
    train = class_folders(root, root / "train", "train", label_of=lambda wnid: names.get(wnid, ""), inner="images")
    records, unknown, rows = [], [], []
    for number, line in lines(root / ANNOTATIONS):
        file, wnid, *_ = [*line.split("\t"), ""]
        key = f"val/images/{file}"
        if not wnid or "/" in file:
            rows.append(f"line {number} {line[:80]!r}")
        elif wnid not in names:
            unknown.append(f"{wnid} (line {number})")
        else:
            records.append(Record(key, names[wnid], FileSource(root / key), "test"))
    test = listed_files(root, records, ANNOTATIONS, config.on_damaged)
    strange = [folder.name for folder in subfolders(root / "train") if folder.name not in wnids]
    left_out = f"train: {len(strange)} folders that wnids.txt does not list left out: {shown(strange)}"
    odd = [wnid for wnid in wnids if not WNID.fullmatch(wnid)]
    nameless = [wnid for wnid in wnids if wnid not in names and wnid not in odd]
    twice = repeated(wnids)
    problems = [
        *([f"wnids.txt: expected one wnid a line, e.g. n02124075; found {shown(odd, limit=5)}"] if odd else []),
        *([f"words.txt: no name for {len(nameless)} wnids of wnids.txt: {shown(nameless)}"] if nameless else []),
        *([f"wnids.txt: {len(twice)} wnids are listed more than once: {shown(twice)}"] if twice else []),
        *shared_names(names),
        *train.problems,
        *([f"{ANNOTATIONS}: expected '<file> <wnid> …' with tabs between; found {shown(rows, 5)}"] if rows else []),
        *([f"{ANNOTATIONS}: wnids that wnids.txt does not list: {shown(unknown, 5)}"] if unknown else []),
        *test.problems,
    ]
    notes = (*([left_out] if strange else []), *train.notes, *test.notes)
    classes = tuple(sorted(set(names.values())))
    return with_all_classes(Found(train.records + test.records, notes, tuple(problems), classes))


CIL = StreamSpec(
    TinyImageNetConfig,
    partial(labelled_stream, "tinyimagenet_cil", tinyimagenet),
    "TinyImageNet (200 classes, 64 x 64 pixels) from its original archive, new classes in each task",
    "that of ImageNet: non-commercial research and education",
    "Le and Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS231n, 2015",
)
