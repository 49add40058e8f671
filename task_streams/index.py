"""The index of verified items: which content (SHA-256) an item has, as long as its stamp stays the same."""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from task_streams.errors import UserError
from task_streams.records import Damaged, Source

FILE = "index.sqlite"
SCHEMA = """CREATE TABLE IF NOT EXISTS items_1 (
    decoder TEXT, name TEXT, stamp TEXT, content TEXT, PRIMARY KEY (decoder, name)
) WITHOUT ROWID"""
WAIT_SECONDS = 60.0


class Index:
    """A table of verified items in a cache folder; several processes may share it. Without a folder it is empty."""

    def __init__(self, cache: Path | None) -> None:
        self.path = cache / FILE if cache else None
        self.database: sqlite3.Connection | None = None

    def __enter__(self) -> "Index":
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.database = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
                self.database.execute(SCHEMA)
            except (OSError, sqlite3.Error) as error:
                raise UserError(f"{self.path}: the index cannot be used ({error}); remove the file") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.database is not None:
            self.database.close()

    def contents(self, decoder: str, sources: Sequence[Source]) -> list[str | None]:
        """Content of each source, None where it is unknown or has changed."""
        if self.database is None:
            return [None] * len(sources)
        marks = ", ".join("?" * len(sources))
        query = f"SELECT name, stamp, content FROM items_1 WHERE decoder = ? AND name IN ({marks})"
        rows = self.database.execute(query, [decoder, *(source.name for source in sources)])
        known = {name: (stamp, content) for name, stamp, content in rows}
        return [self._current(source, *known[source.name]) if source.name in known else None for source in sources]

    @staticmethod
    def _current(source: Source, stamp: str, content: str) -> str | None:
        try:
            return content if source.stamp() == stamp else None
        except Damaged:
            return None  # reading it will say why

    def remember(self, decoder: str, items: Iterable[tuple[Source, str]]) -> None:
        """Keep the content of verified items."""
        if self.database is None:
            return
        rows = [(decoder, source.name, source.stamp(), content) for source, content in items]
        with self.database:
            self.database.executemany("INSERT OR REPLACE INTO items_1 VALUES (?, ?, ?, ?)", rows)
