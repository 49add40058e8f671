"""Items in class folders: ``<class>/<item>``, optionally below ``train`` and ``test``, a domain, or both.

Folders are listed, no item is opened or asked for its size: a tree of 100,000 images takes about a second.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from task_streams.errors import UserError, shown
from task_streams.sources.images import SUFFIXES
from task_streams.sources.layout import entries, is_folder, joined, link_problem, subfolders
from task_streams.sources.records import FileSource, Found, Record, Split

SPLITS: tuple[Split, ...] = ("train", "test")


def class_folders(
    root: Path,
    base: Path,
    split: Split = "",
    domain: str = "",
    label_of: Callable[[str], str] = str,
    inner: str = "",
    suffixes: Sequence[str] = SUFFIXES,
) -> Found:
    """Items of all class folders right below ``base``; a folder without any is among ``classes`` all the same.

    Args:
        root: keys are paths below it, and links must stay inside of it.
        base: holds the class folders.
        split: of the records.
        domain: of the records.
        label_of: folder name to class name; a folder with an empty one is passed over.
        inner: folder inside of each class folder that holds the items, e.g. ``images``.
        suffixes: how names of items end, in lower case.
    """
    records: list[Record] = []
    notes: list[str] = []
    problems: list[str] = []
    classes: set[str] = set()
    start = len(str(root)) + 1
    for folder in subfolders(base):
        items = f"{folder.path}/{inner}" if inner else folder.path
        label = label_of(folder.name)
        if label:
            classes.add(label)
        if not label or (inner and not os.path.isdir(items)):
            continue
        if problem := link_problem(root, items):
            problems.append(problem)
            continue
        others = 0
        for entry in entries(items):
            if not entry.name.lower().endswith(tuple(suffixes)) or is_folder(entry):
                others += 1
            elif entry.is_symlink() and (problem := link_problem(root, entry.path)):
                problems.append(problem)
            else:
                records.append(Record(entry.path[start:], label, FileSource(entry.path), split, domain))
        kind = "images" if tuple(suffixes) == SUFFIXES else f"items ({', '.join(suffixes)})"
        notes += [f"{items[start:]}: {others} entries that are no {kind} passed over"] if others else []
    return Found(tuple(records), tuple(notes), tuple(problems), tuple(sorted(classes)))


def class_tree(root: Path, base: Path, domain: str = "", label_of: Callable[[str], str] = str) -> Found:
    """Images of ``base/<class>/`` or of ``base/{train,test}/<class>/``; ``label_of`` is that of ``class_folders``.

    Raises:
        UserError: one split without the other, or no image at all.
    """
    names = [folder.name for folder in subfolders(base)]
    splits = [name for name in SPLITS if name in names]
    if len(splits) == 1:
        raise UserError(f"{base}: found {splits[0]}/ alone; expected both train/ and test/, or neither")
    beside = [name for name in names if splits and name not in splits]
    notes = [f"{domain or 'root'}: {shown(beside)} beside train and test left out"] if beside else []
    found = joined(class_folders(root, base / split, split, domain, label_of) for split in splits or [""])
    if not found.records and not found.problems:
        raise UserError(
            f"{base}: expected <class>/<image> with an image name ending in {', '.join(SUFFIXES)}; "
            f"found {shown(names, limit=5) or 'no folders'}, and no image in there"
        )
    return replace(found, notes=(*notes, *found.notes))
