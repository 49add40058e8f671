"""Records to examples: every item that is used is read and decoded once, and remembered in an index.

The index (SQLite, in the workspace's cache) keeps the SHA-256 of each item under its size and time of change, so a
second build reads nothing. Items that are not drawn are never read, and no image stays in memory.
"""

import gc
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from task_streams.errors import UserError
from task_streams.sources.images import ImageDecoder, decode_image
from task_streams.sources.index import Index, stamp_of
from task_streams.sources.records import Damaged, Decoder, Found, Record, Workspace
from task_streams.types import Example

NAMED = 100  # damaged items that a message names
BATCH = 512  # items verified before the index is written


@dataclass(slots=True)
class Library:
    """Examples of records on demand; collects what is damaged. ``all_problems`` closes it.

    Attributes:
        workspace: cache and progress.
        on_damaged: ``error`` (``problems`` will stop the run) or ``skip`` (left out, in ``notes``).
        decoder: how bytes become images or clips.
        damaged: reason of every item that could not be decoded, by key.
    """

    workspace: Workspace
    on_damaged: str = "error"
    decoder: Decoder = field(default_factory=ImageDecoder)
    damaged: dict[str, str] = field(default_factory=dict)
    _index: Index = field(init=False, repr=False)
    _workers: ThreadPoolExecutor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._index = Index(self.workspace.cache)
        self._workers = ThreadPoolExecutor(os.cpu_count())  # starts threads when there is something to verify

    def close(self) -> None:
        """Let go of the index and of the threads; nothing can be admitted afterwards."""
        self._index.close()
        self._workers.shutdown(cancel_futures=True)

    def admit(self, records: Sequence[Record]) -> list[Example | None]:
        """The example of each record, None for a damaged one; in their order. Quickest with many at once.

        Raises:
            UserError: the index cannot be used.
        """
        examples: list[Example | None] = []
        for start in range(0, len(records), BATCH):
            batch = records[start : start + BATCH]
            contents = self._contents(batch)
            examples += [
                self._example(r, content) if content else None for r, content in zip(batch, contents, strict=True)
            ]
            self.workspace.advance(len(batch))
        return examples

    def _contents(self, batch: Sequence[Record]) -> list[str]:
        """Content of each record, from the index or by reading it; empty for a damaged one."""
        stamps = [stamp_of(record.source) for record in batch]  # before reading: a change meanwhile is not missed
        known = self._index.contents(self.decoder.identity, [record.source for record in batch], stamps)
        contents = [content or "" for content in known]
        fresh = [place for place, content in enumerate(contents) if not content]
        verified = self._workers.map(self._verified, [batch[place] for place in fresh])
        for place, (content, fault) in zip(fresh, verified, strict=True):
            contents[place] = content
            if not content:
                self.damaged[batch[place].key] = fault
                self.workspace.damaged(batch[place])
        good = [(batch[place].source, stamps[place], contents[place]) for place in fresh if contents[place]]
        self._index.remember(self.decoder.identity, [item for item in good if item[1]])
        return contents

    def _verified(self, record: Record) -> tuple[str, str]:
        """Content of an item that can be decoded to its end, or why it cannot."""
        try:
            if not isinstance(self.decoder, ImageDecoder):
                self.decoder(record.source)
                return record.content or sha256(record.source.read()), ""
            data = record.source.read()  # once: what is hashed is what is decoded
            decode_image(data)
            return record.content or sha256(data), ""
        except Damaged as fault:
            return "", str(fault)

    def _example(self, record: Record, content: str) -> Example:
        return Example(record.key, record.target, partial(self.decoder, record.source), content, record.domain)

    @property
    def problems(self) -> list[str]:
        """What must stop the run: nothing when damaged items are skipped."""
        if not self.damaged or self.on_damaged == "skip":
            return []
        remedy = "repair or remove them, or set on_damaged=skip"
        return [f"{len(self.damaged)} items cannot be decoded; {remedy}", *self._faults]

    @property
    def notes(self) -> list[str]:
        """What was left out."""
        if not self.damaged or self.on_damaged == "error":
            return []
        return [f"{len(self.damaged)} damaged items skipped: {', '.join(self._faults)}"]

    @property
    def _faults(self) -> list[str]:
        """Every item with its reason; beyond the limit the rest is counted."""
        faults = [f"{key} ({fault})" for key, fault in sorted(self.damaged.items())]
        return faults if len(faults) <= NAMED else [*faults[:NAMED], f"and {len(faults) - NAMED} more"]


def sha256(data: bytes) -> str:
    """SHA-256 of bytes, hex."""
    return hashlib.sha256(data).hexdigest()


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
    """Report what is wrong with a layout, its items and the stream built of them in one error; close the library.

    Raises:
        UserError: with every problem of the three.
    """
    raised: tuple[str, ...] = ()
    try:
        yield
    except UserError as error:
        raised = error.problems
    finally:
        library.close()
    if problems := [*found.problems, *library.problems, *raised]:
        raise UserError(*dict.fromkeys(problems))
