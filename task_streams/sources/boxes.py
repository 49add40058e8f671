"""Boxes of one split of a source as arrays: 118,000 annotated images are held without an object for each.

A layout puts its images and their boxes (in pixels) into a ``BoxCollector``; ``BoxTable`` is what comes out, with
corners in thousandths, and can be kept in the workspace's cache (npz, nothing pickled). Images without a box that
counts are left out: they belong to no class, so to no task; they are recorded by name.
"""

import json
import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from task_streams.errors import UserError, shown
from task_streams.sources.layout import below, entries, link_problem
from task_streams.sources.records import FileSource, Record, Split, Workspace
from task_streams.types import BOX_SCALE, Box

REACH = 1.0  # pixels by which a box may reach out of its image unrecorded; official annotations round that way
MOST_PIXELS = 1e9
FORMAT = "boxes 2"  # of the cached file

IntArray = NDArray[np.signedinteger[Any]]
Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class BoxTable:
    """Images with their boxes, N images and M boxes.

    Attributes:
        folder: what the keys are below of.
        keys: path of each image below ``folder``, sorted. [N]
        first: position of the first box of each image, and M at the end. [N + 1]
        category: position of each box's class in ``classes``. [M]
        corners: x1, y1, x2, y2 of each box in thousandths of the frame that the source declares. [M, 4]
        sizes: width and height of each image in pixels, as the source declares them. [N, 2]
        classes: every class of the source, in the source's own order, also those without boxes.
        lost: why a class has no boxes although the source has some, by the class.
        notes: facts about the split, sentences.
        problems: what is wrong with it, sentences.
    """

    folder: Path
    keys: tuple[str, ...]
    first: IntArray
    category: IntArray
    corners: IntArray
    sizes: NDArray[np.float64]
    classes: tuple[str, ...]
    lost: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def images_of(self, *names: str) -> IntArray:
        """Positions of the images with any of some classes, ascending."""
        image = np.repeat(np.arange(len(self.keys), dtype=np.int32), np.diff(self.first))  # of each box [M]
        return np.unique(image[np.isin(self.category, [self.classes.index(name) for name in names])])

    def classes_in(self, image: int) -> set[str]:
        """Classes in one image."""
        return {self.classes[c] for c in self.category[self.first[image] : self.first[image + 1]].tolist()}

    def record(self, image: int, used: Collection[str], split: Split, domain: str = "") -> Record:
        """The record of one image, with all its boxes of the classes in use."""
        rows = range(self.first[image], self.first[image + 1])
        boxes = (Box(self.classes[self.category[i]], tuple(self.corners[i].tolist())) for i in rows)
        kept = tuple(box for box in boxes if box.category in used)
        source = FileSource(self.folder / self.keys[image])
        width, height = self.sizes[image].tolist()
        return Record(self.keys[image], kept, source, split, domain, declared=(width, height))


@dataclass(slots=True)
class BoxCollector:
    """Collects images and boxes of one split, and what is worth recording or wrong about them.

    Attributes:
        boxes: rows (class, x1, y1, x2, y2) of each image by its key; an image without boxes has none.
        sizes: width and height of each image, as it is declared.
        faults: rows that are wrong, by what is wrong with them (in the plural); they must stop the run.
        left_out: number of boxes by the reason for which they were left out, and their class (-1: none of the source).
        reaching: number of boxes that were cut at the edge of their image.
    """

    boxes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    sizes: dict[str, tuple[float, float]] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    left_out: Counter[tuple[str, int]] = field(default_factory=Counter)
    reaching: int = 0

    def add_image(self, key: str, width: float, height: float) -> None:
        """An image of a declared size, without boxes yet."""
        self.boxes[key], self.sizes[key] = [], (width, height)

    def add_box(self, key: str, category: int, pixels: Corners) -> None:
        """A box of an image that was added, by its corners in pixels from 0, the far ones exclusive."""
        x1, y1, x2, y2 = pixels
        width, height = self.sizes[key]
        self.reaching += min(x1, y1) < -REACH or x2 > width + REACH or y2 > height + REACH
        corners = [
            min(max(round(value / size * BOX_SCALE), 0), BOX_SCALE)
            for value, size in zip(pixels, (width, height, width, height), strict=True)
        ]
        if corners[0] < corners[2] and corners[1] < corners[3]:
            self.boxes[key].append((category, *corners))
        else:
            self.left_out["without area in their image", category] += 1

    def table(self, folder: Path, name: str, classes: Sequence[str]) -> BoxTable:
        """All of it; ``name`` of the split goes before the notes."""
        keys = tuple(sorted(key for key, rows in self.boxes.items() if rows))
        table = np.array([row for key in keys for row in self.boxes[key]], dtype=np.int32).reshape(-1, 5)
        first = np.cumsum([0, *(len(self.boxes[key]) for key in keys)], dtype=np.int32)
        sizes = np.array([self.sizes[key] for key in keys], dtype=np.float64).reshape(-1, 2)
        reasons: Counter[str] = Counter()
        lost: dict[str, list[str]] = {}
        there = set(table[:, 0].tolist())
        for (reason, category), count in sorted(self.left_out.items()):
            reasons[reason] += count
            if category >= 0 and category not in there:
                lost.setdefault(classes[category], []).append(f"{count} {reason}")
        notes = [f"{count} boxes left out: {reason}" for reason, count in reasons.items()]
        if self.reaching:
            reach = f"more than {REACH:g} pixel and are cut at its edge"
            notes.append(f"{self.reaching} boxes reach out of their image by {reach}")
        if empty := sorted(key for key, rows in self.boxes.items() if not rows):
            notes.append(f"{len(empty)} images without boxes left out: {shown(empty, limit=5)}")
        problems = tuple(f"{name}: {len(rows)} {kind}: {shown(rows, 5)}" for kind, rows in self.faults.items())
        named = tuple(f"{name}: {note}" for note in notes)
        why = {category: ", ".join(told) for category, told in lost.items()}
        return BoxTable(folder, keys, first, table[:, 0], table[:, 1:], sizes, tuple(classes), why, named, problems)


def is_number(value: Any) -> TypeGuard[float]:
    """A number as annotations hold them; not NaN, infinite or beyond any image."""
    return type(value) in (int, float) and abs(value) < MOST_PIXELS


def as_flag(value: Any) -> bool | None:
    """Whether a mark in annotations is set, however it is written; not there is not set, None = neither 0 nor 1."""
    if value is None or value == "":
        return False
    return {"0": False, "1": True, "false": False, "true": True}.get(str(value).strip().lower())


def stays_inside(name: str) -> bool:
    """A relative path that does not lead out of the folder that it is below of."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def file_names(root: Path, folder: str, problems: list[str]) -> set[str]:
    """Names of the files in a folder below a resolved root; a link that leads out is no file but a problem."""
    path = below(root, folder)
    names = set()
    for entry in entries(path) if path.is_dir() else []:
        if entry.is_symlink() and (problem := link_problem(root, entry.path)):
            problems.append(problem)
        elif os.path.isfile(entry.path):  # a link in a circle is none
            names.add(entry.name)
    return names


def cached(workspace: Workspace, name: str, stamp: str, folder: Path, parse: Callable[[], BoxTable]) -> BoxTable:
    """A table from the workspace's cache, parsed and kept when it is not there or its stamp has changed.

    ``name`` tells what is parsed: the path of the annotations and the settings. A table with problems is not kept.
    """
    if workspace.cache is None:
        return parse()
    path = workspace.cache / f"boxes-{sha256(name.encode()).hexdigest()[:16]}.npz"
    stamp = f"{FORMAT} {stamp}"
    unusable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # absent or damaged: it is made anew
    with suppress(*unusable), np.load(path, allow_pickle=False) as arrays:
        head = json.loads(arrays["head"].tobytes())
        if head["stamp"] == stamp:
            first, category, corners, sizes = (arrays[name] for name in ("first", "category", "corners", "sizes"))
            keys, classes, notes = (tuple(head[name]) for name in ("keys", "classes", "notes"))
            return BoxTable(folder, keys, first, category, corners, sizes, classes, head["lost"], notes)
    table = parse()
    if table.problems:
        return table
    plain = {"stamp": stamp, "keys": table.keys, "classes": table.classes, "lost": table.lost, "notes": table.notes}
    head = np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            arrays = {name: getattr(table, name) for name in ("first", "category", "corners", "sizes")}
            np.savez(file, head=head, **arrays)
        beside.replace(path)
    except OSError as error:
        raise UserError(f"{path}: what was parsed cannot be kept in the cache; {error.strerror or error}") from error
    return table
