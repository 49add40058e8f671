"""CUB-200-2011: 200 species of birds, 5,994 training and 5,794 test images.

Layout of the original archive: ``images/<NNN.Class_name>/<image>``, and the lists ``images.txt``, ``classes.txt``,
``image_class_labels.txt`` and ``train_test_split.txt`` (id and value in each line; ids may have gaps). A class is
named by what follows the number of its folder, as in RaPO's lists. Parts, attributes and boxes are not read.
"""

import re
from dataclasses import dataclass, replace
from functools import partial

from task_streams.config import Count, SourceCilConfig
from task_streams.errors import shown
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import labelled_stream
from task_streams.sources.layout import existing_root, shared_names, with_all_classes
from task_streams.sources.listed_files import listed_files, numbered
from task_streams.sources.records import FileSource, Found, Record, Split

LISTS = {
    "images.txt": "path",
    "image_class_labels.txt": "class id",
    "train_test_split.txt": "1 or 0",
    "classes.txt": "NNN.Class_name",
}
LAYOUT = "images/<NNN.Class_name>/*.jpg, images.txt, image_class_labels.txt, train_test_split.txt and classes.txt"
WHERE = "https://www.vision.caltech.edu/datasets/cub_200_2011 (CUB_200_2011.tgz)"
SPLITS: dict[str, Split] = {"1": "train", "0": "test"}
CLASS = re.compile(r"\d+\.(.+)")


@dataclass(frozen=True, kw_only=True)
class Cub200Config(SourceCilConfig):
    """CUB-200-2011, new classes in each task; defaults are RaPO's protocol (arXiv 2605.09640)."""

    root: str = "data/CUB_200_2011"
    """Path of the folder CUB_200_2011 as the archive unpacks."""
    tasks: Count = 10
    """Number of tasks, >= 1; tasks x classes_per_task of the 200 classes are used."""
    classes_per_task: Count = 20
    shots: Count | None = 5
    """Training examples per class, >= 1; null = all (29 or 30)."""
    test_per_class: Count | None = None
    """Test examples per class, >= 1; null = the whole test split (11 to 30)."""


def cub200(config: Cub200Config) -> Found:
    """Both splits.

    Raises:
        UserError: the root is none, or a list cannot be read.
    """
    root = existing_root(config.root, LAYOUT, WHERE, ("images", *LISTS))
    tables, problems = {}, []
    for name, value in LISTS.items():
        tables[name], found_problems = numbered(root / name, value)
        problems += found_problems
    images, labels, splits, classes = tables.values()
    names = {number: match[1] for number, name in classes.items() if (match := CLASS.fullmatch(name))}
    odd = [f"{number} {name}" for number, name in classes.items() if number not in names]
    problems += [f"classes.txt: expected '<id> <NNN.Class_name>' a line; found {shown(odd, 5)}"] if odd else []
    strange = [f"{image} {label}" for image, label in labels.items() if label not in classes]
    neither = [f"{image} {split}" for image, split in splits.items() if split not in SPLITS]
    for sentence, ids in (
        ("image_class_labels.txt: no class for {} ids of images.txt: {}", [i for i in images if i not in labels]),
        ("train_test_split.txt: no split for {} ids of images.txt: {}", [i for i in images if i not in splits]),
        ("image_class_labels.txt: {} ids that images.txt does not list: {}", [i for i in labels if i not in images]),
        ("train_test_split.txt: {} ids that images.txt does not list: {}", [i for i in splits if i not in images]),
        ("image_class_labels.txt: {} ids with a class that classes.txt does not list: {}", strange),
        ("train_test_split.txt: {} ids with neither 1 (training) nor 0 (test): {}", neither),
    ):
        problems += [sentence.format(len(ids), shown(ids))] if ids else []
    problems += shared_names(names)
    records = []
    for image, path in images.items():
        label, split = names.get(labels.get(image, "")), SPLITS.get(splits.get(image, ""))
        if label and split:
            records.append(Record(f"images/{path}", label, FileSource(root / "images" / path), split))
    found = listed_files(root, records, "images.txt", config.on_damaged)
    problems += found.problems
    return with_all_classes(replace(found, problems=tuple(problems), classes=tuple(sorted(set(names.values())))))


CIL = StreamSpec(
    Cub200Config,
    partial(labelled_stream, "cub200_cil", cub200),
    "CUB-200-2011 (200 species of birds) from its original archive, new classes in each task",
    "non-commercial research and education",
    "Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001",
)
