"""Kinetics (Kay et al. 2017) and its subset Kinetics-200 (Xie et al. 2017): clips of some 10 seconds from YouTube.

Clips are called ``<youtube id>_<start>_<end>.mp4``, seconds in 6 digits. Two layouts:

- with the official lists ``train.csv`` and ``val.csv`` (or ``validate.csv``; columns label, youtube_id, time_start,
  time_end) in the root or in ``annotations/``: the clips may lie in the root, in folders, or in folders of folders,
  and are found by name. Videos vanish from YouTube, so listed clips that are not on disk are counted in the notes;
  a class without any is an error. Where ``train_ytid_list.txt`` and ``val_ytid_list.txt`` (a YouTube id a line, as
  Mini-Kinetics-200 has them) lie beside the lists, only those videos are used.
- without lists: class folders below ``train`` and ``val``, or class folders alone; any name ending like a clip counts.

The validation clips are the test clips, as usual. Deliberately absent: downloading, and the unlabelled test list.
"""

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from task_streams.datasets.clip_folders import ClipCilConfig, clip_stream
from task_streams.errors import UserError, shown
from task_streams.registry import StreamSpec
from task_streams.sources.class_folders import class_tree
from task_streams.sources.clips import SUFFIXES
from task_streams.sources.layout import entries, existing_root, joined, lines, link_problem, with_all_classes
from task_streams.sources.records import FileSource, Found, Record, Split

PAGE = "https://github.com/cvdfoundation/kinetics-dataset"
LAYOUT = "{train,val}.csv and clips <youtube id>_<start>_<end>.mp4, or {train,val}/<class>/<clip>, or <class>/<clip>"
FOLDERS: Mapping[str, Split] = {  # of several test splits the first is used
    "train": "train",
    "val": "test",
    "validate": "test",
    "validation": "test",
    "test": "test",
}
LISTS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "test": ("val", "validate", "validation")}
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
DEPTH = 3  # folders in folders that are searched for clips, the root included


@dataclass(frozen=True, kw_only=True)
class Kinetics200CilConfig(ClipCilConfig):
    """Kinetics-200 (or any copy of Kinetics), new classes in each task."""


def kinetics(config: Kinetics200CilConfig) -> Found:
    """Clips of the lists, or of the class folders where there are no lists.

    A clip that is listed twice is a problem (``on_copies=error``), or its first row counts (``skip``).

    Raises:
        UserError: no root, one list without the other, or no clips at all.
    """
    root = existing_root(config.root, LAYOUT, PAGE)
    lists: dict[Split, Path] = {}
    for split, names in LISTS.items():
        places = [folder / f"{name}.csv" for folder in (root, root / "annotations") for name in names]
        if path := next((path for path in places if path.is_file()), None):
            lists[split] = path
    if not lists:
        return with_all_classes(class_tree(root, root, splits=FOLDERS, clips=True))
    if len(lists) == 1:
        raise UserError(f"{root}: found {next(iter(lists.values())).name} alone; expected train.csv and val.csv")
    disk: dict[str, str] = {}  # path of every clip by its name without the ending
    links: list[str] = []
    folders = [str(root)]
    for _ in range(DEPTH):
        inner: list[str] = []
        for entry in (entry for folder in folders for entry in entries(folder)):
            if entry.is_symlink() and (problem := link_problem(root, entry.path)):
                links.append(problem)
            elif entry.is_dir():
                inner.append(entry.path)
            elif entry.name.lower().endswith(SUFFIXES):
                disk.setdefault(entry.name.rpartition(".")[0], entry.path)
        folders = inner
    taken: set[str] = set()
    parts = [_listed(root, path, split, config.on_copies, disk, taken) for split, path in lists.items()]
    return joined([Found((), (), tuple(links)), *parts])


def _listed(root: Path, path: Path, split: Split, on_copies: str, disk: Mapping[str, str], taken: set[str]) -> Found:
    """Clips of a list that are on disk, with notes on those that are not; a class without any is a problem.

    ``disk``: path of every clip by its name. ``taken``: clips that a list has named; those of this one are added.
    """
    subset = path.with_name("train_ytid_list.txt" if split == "train" else "val_ytid_list.txt")
    wanted = {line for _, line in lines(subset)} if subset.is_file() else None
    rows = [(number, next(csv.reader([line]))) for number, line in lines(path)]
    header = [name.strip().lower() for name in rows[0][1]] if rows else []
    if missing := [name for name in COLUMNS if name not in header]:
        expected = f"expected the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}"
        return Found((), (), (f"{path.name}: {expected}",))
    problems: list[str] = []
    notes: list[str] = []
    named: Counter[str] = Counter()  # listed clips of each class
    records: list[Record] = []
    twice: list[str] = []
    for number, row in rows[1:]:
        label, video, start, end = (row[i].strip() if i < len(row) else "" for i in map(header.index, COLUMNS))
        if not label or not video or not start.isdecimal() or not end.isdecimal():
            found = f"expected {','.join(COLUMNS)}; found {','.join(row)!r}"
            problems.append(f"{path.name}, line {number}: {found}")
            continue
        clip = f"{video}_{int(start):06d}_{int(end):06d}"
        if wanted is not None and video not in wanted:
            continue
        if clip in taken:
            twice.append(clip)
            continue
        taken.add(clip)
        named[label] += 1
        if clip in disk:
            key = disk[clip][len(str(root)) + 1 :]
            records.append(Record(key, label, FileSource(Path(disk[clip])), split))
    if empty := sorted(set(named) - {record.label for record in records}):
        problems.append(f"{path.name}: none of the listed clips of {len(empty)} classes are on disk: {shown(empty)}")
    if lost := named.total() - len(records):
        notes.append(f"{path.name}: {lost} of {named.total()} listed clips are not on disk")
    if twice:
        sentence = f"{path.name}: {len(twice)} clips are listed before: {shown(sorted(twice))}"
        problems += [sentence] if on_copies == "error" else []
        notes += [f"{sentence}; left out"] if on_copies == "skip" else []
    return Found(tuple(records), tuple(notes), tuple(problems), tuple(sorted(named)))


CIL = StreamSpec(
    Kinetics200CilConfig,
    partial(clip_stream, "kinetics200_cil", kinetics),
    "Kinetics-200, clips of 200 human actions, new classes in each task",
    "lists CC BY 4.0; the clips are from YouTube, their uploaders hold the rights",
    "Kay et al.: The Kinetics Human Action Video Dataset, arXiv:1705.06950, 2017; the subset of 200 classes: "
    "Xie et al.: Rethinking Spatiotemporal Feature Learning, arXiv:1712.04851, 2017",
)
