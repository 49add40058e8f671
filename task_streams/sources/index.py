"""The index of verified items: which content (SHA-256) an item has, as long as its stamp stays the same.

One SQLite file that any number of processes may share: a writer waits for the others, and whatever is written is
whole. Only what could be decoded is in it; faults are found anew each time, because they may have been mended.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from task_streams.errors import UserError
from task_streams.sources.records import Damaged, Source

FILE = "index.sqlite"
SCHEMA = """CREATE TABLE IF NOT EXISTS items_1 (
    decoder TEXT, name TEXT, stamp TEXT, content TEXT, PRIMARY KEY (decoder, name)
) WITHOUT ROWID"""
WAIT_SECONDS = 60.0  # for another process that writes
NAMES_PER_QUERY = 500  # SQLite takes 999 variables, newer ones more


class Index:
    """A table of verified items in a cache folder; without a folder it is empty and keeps nothing.

    Opened at first use, and used by one thread.
    """

    def __init__(self, cache: Path | None) -> None:
        self.path = cache / FILE if cache else None
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the file; it is opened again when needed."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def contents(self, decoder: str, sources: Sequence[Source], stamps: Sequence[str]) -> list[str | None]:
        """Content of each source that is known under its present stamp, else None.

        Raises:
            UserError: the index cannot be used.
        """
        if self.path is None:
            return [None] * len(sources)
        names = [source.name for source in sources]
        known: dict[str, tuple[str, str]] = {}
        with self._opened() as database:
            for start in range(0, len(names), NAMES_PER_QUERY):
                some = names[start : start + NAMES_PER_QUERY]
                query = f"SELECT name, stamp, content FROM items_1 WHERE decoder = ? AND name IN ({marks(some)})"
                known |= {name: (stamp, content) for name, stamp, content in database.execute(query, [decoder, *some])}
        found = [known.get(name) for name in names]
        return [kept[1] if kept and kept[0] == stamp else None for kept, stamp in zip(found, stamps, strict=True)]

    def remember(self, decoder: str, items: Sequence[tuple[Source, str, str]]) -> None:
        """Keep items that were verified: source, stamp taken before it was read, content.

        Raises:
            UserError: the index cannot be used.
        """
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
            raise UserError(unusable(self.path, error)) from error


def marks(values: Sequence[str]) -> str:
    """Placeholders for values in a query."""
    return ", ".join("?" * len(values))


def unusable(path: Path, error: Exception) -> str:
    """Sentence for an index that cannot be used, and the remedy."""
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return f"{path}: the index is held by another process ({error}); end it, or give another cache folder"
    if isinstance(error, OSError) or "readonly" in str(error) or "unable to open" in str(error):
        return f"{path}: the index cannot be written ({error}); give a cache folder that can be written to"
    return f"{path}: the index cannot be used ({error}); remove the file, it is built anew"


def stamp_of(source: Source) -> str:
    """Stamp of a source; empty when there is nothing to read, which no index knows: reading it will say why."""
    try:
        return source.stamp()
    except Damaged:
        return ""
