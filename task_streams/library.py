"""Records to examples: every item that is used is read and decoded once, and remembered in an index.

The index (SQLite, in the workspace's cache) keeps the SHA-256 of each item under its size and time of change, so a
second build reads nothing. Items that are not drawn are never read.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from task_streams.errors import UserError
from task_streams.images import ImageDecoder
from task_streams.index import Index
from task_streams.records import Damaged, Decoder, Found, Record, Workspace
from task_streams.types import Example

BATCH = 256  # items verified before the index is written


@dataclass(slots=True)
class Library:
    """Examples of records on demand; collects what is damaged.

    Attributes:
        workspace: cache and progress.
        on_damaged: ``error`` (``problems`` will stop the run) or ``skip`` (left out, in ``notes``).
        decoder: how bytes become images or clips.
        damaged: ``key (reason)`` of every item that could not be decoded.
    """

    workspace: Workspace
    on_damaged: str = "error"
    decoder: Decoder = field(default_factory=ImageDecoder)
    damaged: dict[str, str] = field(default_factory=dict)

    def admit(self, records: Sequence[Record]) -> list[Example | None]:
        """The example of each record, None for a damaged one; in their order."""
        examples: list[Example | None] = []
        with Index(self.workspace.cache) as index:
            for start in range(0, len(records), BATCH):
                batch = records[start : start + BATCH]
                examples += self._admitted(batch, index)
                self.workspace.advance(len(batch))
        return examples

    def _admitted(self, batch: Sequence[Record], index: Index) -> list[Example | None]:
        known = index.contents(self.decoder.identity, [record.source for record in batch])
        fresh = [record for record, content in zip(batch, known, strict=True) if content is None]
        with ThreadPoolExecutor(os.cpu_count()) as workers:  # decoding and hashing release the interpreter
            verified = dict(zip((r.key for r in fresh), workers.map(self._verified, fresh), strict=True))
        good = [(record, content) for record in fresh if (content := verified[record.key])]
        index.remember(self.decoder.identity, [(record.source, content) for record, content in good])
        contents = [content or verified[r.key] for r, content in zip(batch, known, strict=True)]
        return [self._example(r, content) if content else None for r, content in zip(batch, contents, strict=True)]

    def _verified(self, record: Record) -> str:
        """SHA-256 of an item's bytes; empty when it is damaged, which is then noted."""
        try:
            content = record.content or hashlib.sha256(record.source.read()).hexdigest()
            self.decoder(record.source)
        except Damaged as fault:
            self.damaged[record.key] = str(fault)
            return ""
        return content

    def _example(self, record: Record, content: str) -> Example:
        return Example(record.key, record.target, partial(self.decoder, record.source), content, record.domain)

    @property
    def problems(self) -> list[str]:
        """What must stop the run: nothing when damaged items are skipped."""
        if not self.damaged or self.on_damaged == "skip":
            return []
        remedy = "repair or remove them, or set on_damaged=skip"
        items = [f"{key} ({fault})" for key, fault in sorted(self.damaged.items())]
        return [f"{len(items)} items cannot be decoded; {remedy}", *items]

    @property
    def notes(self) -> list[str]:
        """What was left out."""
        if not self.damaged or self.on_damaged == "error":
            return []
        items = [f"{key} ({fault})" for key, fault in sorted(self.damaged.items())]
        return [f"{len(items)} damaged items skipped: {', '.join(items)}"]


@contextmanager
def all_problems(found: Found, library: Library) -> Iterator[None]:
    """Report what is wrong with a layout, its items and the stream built of them in one error.

    Raises:
        UserError: with every problem of the three.
    """
    raised: tuple[str, ...] = ()
    try:
        yield
    except UserError as error:
        raised = error.problems
    if problems := [*found.problems, *library.problems, *raised]:
        raise UserError(*dict.fromkeys(problems))
