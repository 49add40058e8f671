"""Records to examples: every item that is used is read and decoded once, and remembered in an index.

The index keeps the SHA-256 and the shape of each item as long as its stamp (``file_stamp``) stays the same, so
a second build reads nothing. It is one SQLite file in the workspace's cache that any number of processes may share: a
writer waits for the others, and what is written is whole. Only what could be decoded is in it; faults are found anew
each time, because they may have been mended. Items that are not drawn are never read, and no image stays in memory.
"""

import gc
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from task_streams.errors import UserError, shown
from task_streams.sources.clips import ClipDecoder
from task_streams.sources.images import IMAGES
from task_streams.sources.records import Damaged, Decoder, FileSource, Found, Record, Workspace
from task_streams.types import Clip, Example

NAMED = 100  # damaged items that a message names
BATCH = 512  # items verified before the index is written
FILE = "index.sqlite"
SCHEMA = """CREATE TABLE IF NOT EXISTS items_1 (
    decoder TEXT, name TEXT, stamp TEXT, content TEXT, PRIMARY KEY (decoder, name)
) WITHOUT ROWID"""
WAIT_SECONDS = 60.0  # for another process that writes
NAMES_PER_QUERY = 500  # SQLite takes 999 variables, newer ones more


class Index:
    """A table of verified items in a cache folder; without a folder it is empty and keeps nothing.

    Opened at first use, and used by one thread. Each use may raise a ``UserError``: the file cannot be used.
    """

    def __init__(self, cache: Path | None) -> None:
        self.path = cache / FILE if cache else None
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the file; it is opened again when needed."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def contents(self, decoder: str, sources: Sequence[FileSource], stamps: Sequence[str]) -> list[str | None]:
        """Content of each source that is known under its present stamp, else None."""
        if self.path is None:
            return [None] * len(sources)
        names = [source.name for source in sources]
        known: dict[str, tuple[str, str]] = {}
        with self._opened() as database:
            for start in range(0, len(names), NAMES_PER_QUERY):
                some = names[start : start + NAMES_PER_QUERY]
                marks = ", ".join("?" * len(some))
                query = f"SELECT name, stamp, content FROM items_1 WHERE decoder = ? AND name IN ({marks})"
                known |= {name: (stamp, content) for name, stamp, content in database.execute(query, [decoder, *some])}
        found = [known.get(name) for name in names]
        return [kept[1] if kept and kept[0] == stamp else None for kept, stamp in zip(found, stamps, strict=True)]

    def remember(self, decoder: str, items: Sequence[tuple[FileSource, str, str]]) -> None:
        """Keep items that were verified: source, stamp taken before it was read, content."""
        if self.path is None or not items:
            return
        rows = [(decoder, source.name, stamp, content) for source, stamp, content in items]
        with self._opened() as database, database:
            database.executemany("INSERT OR REPLACE INTO items_1 VALUES (?, ?, ?, ?)", rows)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The database, opened if it is not yet."""
        assert self.path is not None
        try:
            if self._database is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # immediate: a transaction waits for its turn when it begins, never half-way
                self._database = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level="IMMEDIATE")
                self._database.execute(SCHEMA)
            yield self._database
        except (OSError, sqlite3.Error) as error:
            self.close()
            what, remedy = "cannot be used", "remove the file, it is built anew"
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                what, remedy = "is held by another process", "end it, or give another cache folder"
            elif isinstance(error, OSError) or "readonly" in str(error) or "unable to open" in str(error):
                what, remedy = "cannot be written", "give a cache folder that can be written to"
            raise UserError(f"{self.path}: the index {what} ({error}); {remedy}") from error


@dataclass(slots=True)
class Library:
    """Examples of records on demand; collects what is damaged.

    Attributes:
        workspace: cache and progress.
        on_damaged: ``error`` (to stop the run) or ``skip`` (left out, and noted).
        decoder: how bytes become images or clips.
        damaged: reason of every item that could not be decoded, by key.
        refused: reason of every item that the model takes no such of, by key (``Workspace.refused``).
        scaled: bits of the values of each 16-bit image that holds fewer, by key.
    """

    workspace: Workspace
    on_damaged: str = "error"
    decoder: Decoder | ClipDecoder = IMAGES
    damaged: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    scaled: dict[str, str] = field(default_factory=dict)

    def admit(self, records: Sequence[Record]) -> list[Example | None]:
        """The example of each record, None for a damaged one; in their order. Quickest with many at once."""
        examples: list[Example | None] = []
        index = Index(self.workspace.cache)
        workers = ThreadPoolExecutor(os.cpu_count())  # starts threads when there is something to verify
        try:
            for start in range(0, len(records), BATCH):
                batch = records[start : start + BATCH]
                contents = self._contents(batch, index, workers)
                examples += [
                    self._example(record, content) if content else None
                    for record, content in zip(batch, contents, strict=True)
                ]
                self.workspace.advance(len(batch))
        finally:
            index.close()
            workers.shutdown(cancel_futures=True)
        return examples

    def _example(self, record: Record, known: str) -> Example | None:
        """The example of a verified item, None of one that the model doesn't take."""
        content, _, sizes = known.rpartition(" ")
        width, height, frames = map(int, sizes.split("x"))
        shape = (width, height, frames)
        if reason := self.workspace.refused(record.target, shape):
            self.refused[record.key] = reason
            self.workspace.damaged(record)
            return None
        return Example(record.key, record.target, partial(self.decoder, record.source), content, record.domain, shape)

    def _contents(self, batch: Sequence[Record], index: Index, workers: ThreadPoolExecutor) -> list[str | None]:
        """Content and shape of each record, of the index or verified now and put there; None of a damaged one."""
        stamps = []  # before reading: a change meanwhile is not missed
        for record in batch:
            try:
                stamps.append(record.source.stamp())
            except Damaged:  # nothing to read, which no index knows: reading it will say why
                stamps.append("")
        known = index.contents(self.decoder.identity, [record.source for record in batch], stamps)
        contents = [one if one and " " in one else None for one in known]  # older ones have no shape
        fresh = [place for place, content in enumerate(contents) if content is None]
        verified = workers.map(self._verified, [batch[place] for place in fresh])
        good: list[tuple[FileSource, str, str]] = []
        for place, (content, fault) in zip(fresh, verified, strict=True):
            contents[place] = content
            if content is None:
                self.damaged[batch[place].key] = fault
                self.workspace.damaged(batch[place])
            else:
                good.append((batch[place].source, stamps[place], content))
        index.remember(self.decoder.identity, good)
        for place, one in enumerate(contents):
            content, _, bits = (one or "").partition("\t")
            contents[place] = content or None
            if bits:
                self.scaled[batch[place].key] = bits
        return contents

    def _verified(self, record: Record) -> tuple[str | None, str]:
        """Content, shape and, if scaled, bits of an item that can be decoded to its end; None and why where not."""
        bits = ""
        try:
            if isinstance(self.decoder, Decoder):
                data = record.source.read()  # once: what is hashed is what is decoded
                media = self.decoder.decode(data)
                bits = f"\t{media.info['bits']}" if isinstance(media, Image.Image) and "bits" in media.info else ""
            else:
                media = self.decoder(record.source)
                data = b"" if record.content else record.source.read()
            frames = media.frames if isinstance(media, Clip) else (media,)
            shape = f"{frames[0].width}x{frames[0].height}x{len(frames)}"
            return f"{record.content or hashlib.sha256(data).hexdigest()} {shape}{bits}", ""
        except Damaged as fault:
            return None, str(fault)

    def report(self) -> tuple[list[str], list[str]]:
        """What must stop the run, and notes on what was left out; every damaged item is in one of them, up to a limit.

        Damaged items are skipped, or they stop the run.
        """
        problems: list[str] = []
        scaled = [f"{key} ({bits})" for key, bits in sorted(self.scaled.items())]
        what = "16-bit images hold values of fewer bits, and are scaled by these"
        notes = [f"{len(scaled)} {what}: {shown(scaled, 5)}"] if scaled else []
        for found, skipped, remedy in (
            (self.damaged, "damaged items skipped", "items cannot be decoded; repair or remove them"),
            (
                self.refused,
                "items skipped that cannot go into the model",
                "items cannot go into the model; change or remove them",
            ),
        ):
            faults = [f"{key} ({fault})" for key, fault in sorted(found.items())]
            count = len(faults)
            if count > NAMED:
                faults = [*faults[:NAMED], f"and {count - NAMED} more"]
            if faults and self.on_damaged == "skip":
                notes.append(f"{count} {skipped}: {', '.join(faults)}")
            elif faults:
                problems += [f"{count} {remedy}, or set on_damaged=skip", *faults]
        return problems, notes


@contextmanager
def rare_collection() -> Iterator[None]:
    """Look for unreachable cycles of objects less often meanwhile.

    A listing makes hundreds of thousands of objects at once and no cycles; looking through them, and through all
    that torch has loaded, would take half of the time of a build.
    """
    usual = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@contextmanager
def all_problems(found: Found, library: Library) -> Iterator[None]:
    """Report what is wrong with a layout, its items and the stream built of them in one error."""
    raised: tuple[str, ...] = ()
    try:
        yield
    except UserError as error:
        raised = error.problems
    if problems := [*found.problems, *library.report()[0], *raised]:
        raise UserError(*dict.fromkeys(problems))
