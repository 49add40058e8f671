"""Items in class folders: ``<class>/<item>``, optionally below ``train`` and ``test``, a domain, or both.

Folders are listed, no item is opened or asked for its size: a tree of 100,000 images takes about a second.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from task_streams.errors import UserError, shown
from task_streams.sources import clips as clip_files
from task_streams.sources.images import SUFFIXES
from task_streams.sources.layout import entries, is_folder, joined, link_problem, subfolders
from task_streams.sources.records import FileSource, Found, Record, Split

SPLITS: Mapping[str, Split] = {"train": "train", "test": "test"}


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


def class_tree(
    root: Path,
    base: Path,
    domain: str = "",
    label_of: Callable[[str], str] = str,
    splits: Mapping[str, Split] = SPLITS,
    clips: bool = False,
) -> Found:
    """Images (or clips) of ``base/<class>/``, or of ``base/<split>/<class>/``; other arguments as ``class_folders``.

    ``splits`` are what the folders of the splits are called; of several names the first that is there is used.

    Raises:
        UserError: one split without the other, or no item at all.
    """
    suffixes = clip_files.SUFFIXES if clips else SUFFIXES
    names = [folder.name for folder in subfolders(base)]
    there: dict[Split, str] = {}
    for folder, split in splits.items():
        if folder in names:
            there.setdefault(split, folder)
    if len(there) == 1:
        expected = "train and test clips" if clips else "both train/ and test/"
        raise UserError(f"{base}: found {next(iter(there.values()))}/ alone; expected {expected}, or neither")
    beside = [name for name in names if there and name not in there.values()]
    where = "" if clips else f"{domain or 'root'}: "
    notes = [f"{where}{shown(beside)} beside {' and '.join(there.values())} left out"] if beside else []
    bases: dict[Split, Path] = {split: base / folder for split, folder in there.items()} or {"": base}
    found = joined(
        class_folders(root, folder, split, domain, label_of, suffixes=suffixes) for split, folder in bases.items()
    )
    if not found.records and not found.problems:
        item, whose = ("clip", "a clip's") if clips else ("image", "an image")
        raise UserError(
            f"{base}: expected <class>/<{item}> with {whose} name ending in {', '.join(suffixes)}; "
            f"found {shown(names, limit=5) or 'no folders'}, and no {item} in there"
        )
    return replace(found, notes=(*notes, *found.notes))
