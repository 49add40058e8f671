"""Items as a layout lists them, before anything is read: where their bytes are, and what is right about them.

Every source of examples (folder trees, original archives' lists, parquet rows, clips) is a function to ``Found``;
``library.py`` turns records into examples, ``classification.py`` and its siblings into streams.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from task_streams.errors import open_file
from task_streams.types import Feed, Media, Shape, Target, class_of

MOST_BYTES = 2**33  # of one item

Split = Literal["train", "test", ""]


class Damaged(Exception):
    """An item's bytes cannot be read or decoded; the message says why, without the item's name."""


def file_stamp(path: Path | str) -> str:
    """What changes whenever a file's bytes may have changed: size, times of change, and inode; reads nothing.

    Tools set the time of modification back (``cp -p``, ``rsync -t``, ``tar``), but not that of the inode's change.
    """
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


@dataclass(frozen=True, slots=True)
class FileSource:
    """Where the bytes of one item are: a file, or a part of one; small, picklable, nothing opened.

    ``stamp`` is cheap, reads nothing, and changes whenever the bytes may have changed. ``stamp`` and ``read`` raise
    ``Damaged`` where there is nothing to read.

    Attributes:
        path: of the file; as text it is made quicker and takes less memory than as a ``Path``, which counts with many.
        start: first byte of the part.
        size: bytes of the part; -1 = the whole file.
    """

    path: Path | str
    start: int = 0
    size: int = -1

    @property
    def name(self) -> str:
        """Unique over all sources on this machine: the item's place in the index."""
        return os.fspath(self.path) if self.size < 0 else f"{os.fspath(self.path)}@{self.start}"

    def stamp(self) -> str:
        """Stamp of the file."""
        try:
            return file_stamp(self.path)
        except OSError as error:
            raise Damaged(error.strerror or str(error)) from error

    def read(self) -> bytes:
        """The bytes; fewer than ``size`` where the file ends before."""
        try:
            with open_file(self.path) as file:
                whole = os.fstat(file.fileno()).st_size
                if self.size < 0 and whole > MOST_BYTES:
                    raise Damaged(f"{whole} bytes; expected {MOST_BYTES} at most")
                file.seek(self.start)
                return file.read(self.size)
        except OSError as error:
            raise Damaged(error.strerror or str(error)) from error


@dataclass(frozen=True, slots=True)
class Decoder:
    """How the bytes of a source become an image, down to the last pixel; clips have a decoder of their own.

    Attributes:
        identity: its name, e.g. ``image``; the index keeps what was verified under it.
        decode: raises ``Damaged``.
    """

    identity: str
    decode: Callable[[bytes], Media]

    def __call__(self, source: FileSource) -> Media:
        return self.decode(source.read())


@dataclass(frozen=True, slots=True)
class Record:
    """One item that a layout lists.

    Attributes:
        key: stable name, unique in the stream's source, e.g. its path below the root.
        target: what is right about it.
        source: where its bytes are.
        split: ``train``, ``test``, or empty when the source has no splits.
        domain: name of its domain, empty when there is one only.
        content: identity of its content where the source knows it without reading; empty = hash the bytes.
        declared: width and height of the image as the source has them; its boxes are of that frame.
    """

    key: str
    target: Target
    source: FileSource
    split: Split = ""
    domain: str = ""
    content: str = ""
    declared: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """Class name of a classification record; ``TypeError`` for another target."""
        return class_of(self.key, self.target)


@dataclass(frozen=True, slots=True)
class Found:
    """What a layout holds.

    Attributes:
        records: every item.
        notes: facts worth recording (entries passed over, classes left out), sentences.
        problems: what is wrong with the data and must stop a run, sentences; reported all at once.
        classes: every class of the source, also those without items; empty = those of the records.
    """

    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workspace:
    """What building a stream may use.

    Attributes:
        cache: folder for what is worth keeping between builds (index, decoded clips); None = keep nothing.
        advance: called with the number of items verified since the last call.
        damaged: called with each item that cannot be decoded, whether it is then skipped or an error.
        feed: how clips go into the model that will be asked about them, where ``stream.feed`` leaves it open.
        refused: why that model takes no item with this target and shape, empty where it does; what is refused is
            treated as damaged.
    """

    cache: Path | None = None
    advance: Callable[[int], None] = lambda items: None
    damaged: Callable[[Record], None] = lambda record: None
    feed: Feed = "images"
    refused: Callable[[Target, Shape], str] = lambda target, shape: ""
