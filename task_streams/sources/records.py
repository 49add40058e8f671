"""Items as a layout lists them, before anything is read: where their bytes are, and what is right about them.

Every source of examples (folder trees, original archives' lists, parquet rows, clips) is a function to ``Found``;
``library.py`` turns records into examples, ``classification.py`` and its siblings into streams.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from task_streams.types import Feed, Media, Target, class_of

Split = Literal["train", "test", ""]


class Damaged(Exception):
    """An item's bytes cannot be read or decoded; the message says why, without the item's name."""


class Source(Protocol):
    """Where the bytes of one item are; small, picklable, nothing opened.

    ``name`` is unique over all sources on this machine: the item's place in the index. ``stamp`` is cheap, reads
    nothing, and changes whenever the bytes may have changed. ``stamp`` and ``read`` raise ``Damaged`` where there is
    nothing to read.
    """

    @property
    def name(self) -> str: ...

    def stamp(self) -> str: ...

    def read(self) -> bytes: ...


class Decoder(Protocol):
    """How the bytes of a source become an image or a clip, down to the last pixel; raises ``Damaged``.

    ``identity`` is its name and settings, e.g. ``image``; the index keeps what was verified under it.
    """

    @property
    def identity(self) -> str: ...

    def __call__(self, source: Source) -> Media: ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, stamped by its size and the time of its last change.

    A path as text is made quicker and takes less memory than a ``Path``, which counts with many files.
    """

    path: Path | str

    @property
    def name(self) -> str:
        return os.fspath(self.path)

    def stamp(self) -> str:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise Damaged(error.strerror or str(error)) from error
        return f"{status.st_size} {status.st_mtime_ns}"

    def read(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except OSError as error:
            raise Damaged(error.strerror or str(error)) from error


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
    """

    key: str
    target: Target
    source: Source
    split: Split = ""
    domain: str = ""
    content: str = ""

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
    """

    cache: Path | None = None
    advance: Callable[[int], None] = lambda items: None
    damaged: Callable[[Record], None] = lambda record: None
    feed: Feed = "images"
