"""A source of bytes in memory for the tests of library and index: it counts how often it is read."""

from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from task_streams.sources.records import Damaged, Record


@dataclass
class Shelf:
    """Items by name, and how often each was read."""

    items: dict[str, bytes] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    reads: Counter[str] = field(default_factory=Counter)

    def records(self) -> list[Record]:
        return [Record(name, name[0], ShelfSource(self, name)) for name in self.items]


@dataclass(frozen=True)
class ShelfSource:
    """One item of a shelf."""

    shelf: Shelf
    name: str

    def stamp(self) -> str:
        if self.name not in self.shelf.items:
            raise Damaged("not on the shelf")
        return self.shelf.stamps.get(self.name, "1")

    def read(self) -> bytes:
        self.shelf.reads[self.name] += 1
        if self.name not in self.shelf.items:
            raise Damaged("not on the shelf")
        return self.shelf.items[self.name]


def png(colour: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (2, 2), colour).save(stream, "PNG")
    return stream.getvalue()
