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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from task_streams.datasets.clip_folders import ClipCilConfig, clip_stream, clip_tree
from task_streams.errors import UserError, shown
from task_streams.registry import StreamSpec
from task_streams.sources.clips import SUFFIXES
from task_streams.sources.layout import entries, existing_root, joined, lines, link_problem
from task_streams.sources.records import FileSource, Found, Record, Split, Workspace
from task_streams.types import TaskStream

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


def kinetics200_cil(config: Kinetics200CilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Class-incremental stream of Kinetics."""
    root = existing_root(config.root, LAYOUT, PAGE)
    return clip_stream("kinetics200_cil", find_clips(root, config.on_copies), config, order_seed, workspace)


def find_clips(root: Path, on_copies: str = "error") -> Found:
    """Clips of the lists, or of the class folders where there are no lists.

    Args:
        root: resolved.
        on_copies: a clip that is listed twice is a problem (``error``), or its first row counts (``skip``).

    Raises:
        UserError: one list without the other, or no clips at all.
    """
    lists = {split: path for split, names in LISTS.items() if (path := _list_of(root, names))}
    if not lists:
        return clip_tree(root, FOLDERS)
    if len(lists) == 1:
        raise UserError(f"{root}: found {next(iter(lists.values())).name} alone; expected train.csv and val.csv")
    disk, found = _clips_on_disk(root)
    listed: set[str] = set()
    for split, path in lists.items():
        found = joined((found, _Listed(root, path, split, on_copies, disk, listed).found()))
    return found


def _list_of(root: Path, names: tuple[str, ...]) -> Path | None:
    places = [folder / f"{name}.csv" for folder in (root, root / "annotations") for name in names]
    return next((path for path in places if path.is_file()), None)


def _clips_on_disk(root: Path) -> tuple[dict[str, str], Found]:
    """Path of every clip by its name without the ending, and links that lead out of the root."""
    clips: dict[str, str] = {}
    problems: list[str] = []
    folders = [str(root)]
    for _ in range(DEPTH):
        inner: list[str] = []
        for entry in (entry for folder in folders for entry in entries(folder)):
            if entry.is_symlink() and (problem := link_problem(root, entry.path)):
                problems.append(problem)
            elif entry.is_dir():
                inner.append(entry.path)
            elif entry.name.lower().endswith(SUFFIXES):
                clips.setdefault(entry.name.rpartition(".")[0], entry.path)
        folders = inner
    return clips, Found((), (), tuple(problems))


@dataclass(slots=True)
class _Listed:
    """One list against what is on disk.

    Attributes:
        root: resolved.
        path: the CSV file.
        split: of its clips.
        on_copies: ``error`` or ``skip``.
        disk: path of every clip by its name.
        taken: clips that this or another list has named.
    """

    root: Path
    path: Path
    split: Split
    on_copies: str
    disk: Mapping[str, str]
    taken: set[str]
    problems: list[str] = field(default_factory=list)

    def found(self) -> Found:
        """Clips of the list that are on disk, with notes on those that are not."""
        named: dict[str, int] = {}  # class to its listed clips
        records: list[Record] = []
        twice: list[str] = []
        for label, clip in self._rows():
            if clip in self.taken:
                twice.append(clip)
                continue
            self.taken.add(clip)
            named[label] = named.get(label, 0) + 1
            if clip in self.disk:
                path = self.disk[clip]
                key = path[len(str(self.root)) + 1 :]
                records.append(Record(key, label, FileSource(Path(path)), self.split))
        notes = self._missing(named, records)
        if twice:
            sentence = f"{self.path.name}: {len(twice)} clips are listed before: {shown(sorted(twice))}"
            self.problems += [sentence] if self.on_copies == "error" else []
            notes += [f"{sentence}; left out"] if self.on_copies == "skip" else []
        return Found(tuple(records), tuple(notes), tuple(self.problems), tuple(sorted(named)))

    def _rows(self) -> Iterator[tuple[str, str]]:
        """Label and clip of every good row of the wanted videos; the others are problems."""
        wanted = self._wanted()
        rows = [(number, next(csv.reader([line]))) for number, line in lines(self.path)]
        header = [name.strip().lower() for name in rows[0][1]] if rows else []
        if missing := [name for name in COLUMNS if name not in header]:
            self.problems.append(
                f"{self.path.name}: expected the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}"
            )
            return
        places = [header.index(name) for name in COLUMNS]
        for number, row in rows[1:]:
            label, video, start, end = (row[i].strip() if i < len(row) else "" for i in places)
            if not label or not video or not start.isdecimal() or not end.isdecimal():
                found = f"expected {','.join(COLUMNS)}; found {','.join(row)!r}"
                self.problems.append(f"{self.path.name}, line {number}: {found}")
            elif wanted is None or video in wanted:
                yield label, f"{video}_{int(start):06d}_{int(end):06d}"

    def _wanted(self) -> set[str] | None:
        """YouTube ids that a list of a subset names; None = all."""
        path = self.path.with_name("train_ytid_list.txt" if self.split == "train" else "val_ytid_list.txt")
        return {line for _, line in lines(path)} if path.is_file() else None

    def _missing(self, named: Mapping[str, int], records: list[Record]) -> list[str]:
        """Note on the clips that are not on disk; a class without any is a problem."""
        there = {record.label for record in records}
        if empty := sorted(set(named) - there):
            self.problems.append(
                f"{self.path.name}: none of the listed clips of {len(empty)} classes are on disk: {shown(empty)}"
            )
        lost = sum(named.values()) - len(records)
        return [f"{self.path.name}: {lost} of {sum(named.values())} listed clips are not on disk"] if lost else []


CIL = StreamSpec(
    Kinetics200CilConfig,
    kinetics200_cil,
    "Kinetics-200, clips of 200 human actions, new classes in each task",
    "lists CC BY 4.0; the clips are from YouTube, their uploaders hold the rights",
    "Kay et al.: The Kinetics Human Action Video Dataset, arXiv:1705.06950, 2017; the subset of 200 classes: "
    "Xie et al.: Rethinking Spatiotemporal Feature Learning, arXiv:1712.04851, 2017",
)
