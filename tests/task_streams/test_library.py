import gc
import hashlib
import os
import pickle
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import fingerprints
from task_streams.sources.library import BATCH, FILE, Index, Library, all_problems, rare_collection
from task_streams.sources.records import Damaged, FileSource, Found, Record, Workspace
from task_streams.sources.tables import hub_table, parquet_tables
from tests.task_streams.streams import built, png, problems_of, write_tree


@dataclass
class Shelf:
    """Bytes in memory by name, and how often each was read."""

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


def coloured(count: int) -> Shelf:
    return Shelf({f"{'ab'[i % 2]}/{i:04d}": png((i % 256, i // 256, 0)) for i in range(count)})


def test_files_that_the_index_knows_are_not_opened_and_examples_travel_to_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    write_tree(root, "abcd", 5)
    build = partial(built, "folder_cil", root, tasks=2, shots=2, test_per_class=2)
    first = build(workspace=Workspace(cache))
    sent = pickle.loads(pickle.dumps(first))
    assert sent == first
    assert sent.tasks[0].train[0].media().size == (8, 8)
    with monkeypatch.context() as patch:
        patch.setattr(FileSource, "read", Mock(side_effect=AssertionError("opened")))
        assert fingerprints(build(workspace=Workspace(cache))) == fingerprints(first)
    for path in root.rglob("*.png"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)  # same size, no image any more
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match="20 items cannot be decoded"):
        build(workspace=Workspace(cache))


def test_the_search_for_cycles_is_as_usual_after_a_build_that_failed_too() -> None:
    usual = gc.get_threshold()
    with pytest.raises(ValueError, match="stop"), rare_collection():
        assert gc.get_threshold() > usual
        raise ValueError("stop")
    assert gc.get_threshold() == usual


INDEXED = Shelf({f"item {i}": b"" for i in range(2500)})
SOURCES = [ShelfSource(INDEXED, name) for name in INDEXED.items]

WRITER = """
import sys
from pathlib import Path
from task_streams.sources.library import Index
from task_streams.sources.records import FileSource

index = Index(Path(sys.argv[1]))
for turn in range(10):
    paths = [Path(f"/{sys.argv[2]}/{turn}/{i}") for i in range(50)] + [Path(f"/shared/{i}") for i in range(50)]
    index.remember("d", [(FileSource(path), "s", f"{path}") for path in paths])
    assert all(index.contents("d", [FileSource(path) for path in paths], ["s"] * 100))
"""


def test_an_index_that_is_damaged_or_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    def fault(folder: Path) -> str:
        (problem,) = problems_of(lambda: Index(folder).contents("image", SOURCES, ["1"] * 2500))
        assert problem.startswith(f"{folder / FILE}: the index cannot be used (")
        assert problem.endswith("); remove the file, it is built anew")
        return problem

    (tmp_path / FILE).write_bytes(b"no database at all, but long enough to be one" * 50)
    assert "(file is not a database)" in fault(tmp_path)
    index = Index(tmp_path / "inside")
    index.remember("image", [(source, "1", source.name) for source in SOURCES])
    index.close()
    data = bytearray((tmp_path / "inside" / FILE).read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)  # the first page, with the schema, stays whole
    (tmp_path / "inside" / FILE).write_bytes(data)
    assert "malformed" in fault(tmp_path / "inside")
    (tmp_path / "shape").mkdir()
    with sqlite3.connect(tmp_path / "shape" / FILE) as database:
        database.execute("CREATE TABLE items_1 (colour TEXT)")
    assert "no such column" in fault(tmp_path / "shape")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"the index cannot be written .*; give a cache folder that can be written to"):
        Index(tmp_path / "file").contents("image", SOURCES[:1], ["1"])
    if os.geteuid() != 0:  # nothing is closed to root
        closed = tmp_path / "closed"
        closed.mkdir()
        closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(UserError, match="the index cannot be written"):
            Index(closed).contents("image", SOURCES[:1], ["1"])


def test_an_index_that_others_hold_is_waited_for_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("task_streams.sources.library.WAIT_SECONDS", 0.05)
    index = Index(tmp_path)
    index.remember("image", [(SOURCES[0], "1", "x")])
    with sqlite3.connect(tmp_path / FILE, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="the index is held by another process"):
            index.remember("image", [(SOURCES[1], "1", "y")])
        other.execute("COMMIT")
    index.remember("image", [(SOURCES[1], "1", "y")])  # the index is opened again
    assert index.contents("image", SOURCES[:2], ["1", "1"]) == ["x", "y"]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(cache), name]) for name in ("a", "b", "c")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    with sqlite3.connect(cache / FILE) as database:
        # 3 writers x 10 turns x 50 items of their own, and the 50 that all of them write.
        assert database.execute("SELECT count(*) FROM items_1").fetchone() == (1550,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_each_item_is_hashed_and_read_once_and_again_only_under_another_stamp(tmp_path: Path) -> None:
    shelf = coloured(2 * BATCH + 3)
    seen: list[int] = []
    first = Library(Workspace(tmp_path, seen.append)).admit(shelf.records())
    assert set(shelf.reads.values()) == {1} and len(shelf.reads) == len(shelf.items)
    example = first[0]
    assert example is not None
    assert (example.key, example.label) == ("a/0000", "a")
    assert example.content == hashlib.sha256(shelf.items["a/0000"]).hexdigest()
    assert isinstance(image := example.media(), Image.Image) and image.size == (2, 2)
    shelf.reads.clear()
    assert Library(Workspace(tmp_path, seen.append)).admit(shelf.records()) == first
    assert shelf.reads == {}
    assert seen == [BATCH, BATCH, 3] * 2  # progress counts every item, known or not
    shelf.items["b/0001"], shelf.stamps["b/0001"] = png((9, 9, 9)), "2"
    changed = Library(Workspace(tmp_path)).admit(shelf.records())[1]
    assert shelf.reads == {"b/0001": 1}
    assert changed is not None and changed.content == hashlib.sha256(png((9, 9, 9))).hexdigest()


def test_other_bytes_of_the_same_size_and_time_have_another_stamp(tmp_path: Path) -> None:
    write_tree(tmp_path / "birds", ["jay"], 1)
    (image,) = (tmp_path / "birds").rglob("*.png")
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"label": ["jay", "owl"]}), table)

    def stamps() -> list[str]:
        found = [FileSource(image).stamp(), parquet_tables("train", [str(table)])[0].identity]
        return [*found, hub_table(str(tmp_path), None, "train", None, tmp_path / "scratch").identity]

    before = stamps()
    assert stamps() == before
    for path in (image, table):
        status = path.stat()
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert [now == then for now, then in zip(stamps(), before, strict=True)] == [False, False, False]


def test_a_fault_is_never_remembered_and_what_vanished_is_damaged_although_it_is_known(tmp_path: Path) -> None:
    shelf = coloured(2)
    whole, shelf.items["a/0000"] = shelf.items["a/0000"], b""
    broken = Library(Workspace(tmp_path))
    assert broken.admit(shelf.records())[0] is None
    remedy = "1 items cannot be decoded; repair or remove them, or set on_damaged=skip"
    assert broken.report() == ([remedy, "a/0000 (the file is empty)"], [])
    shelf.items["a/0000"] = whole  # mended, with the stamp that it had
    mended, records = Library(Workspace(tmp_path)), shelf.records()
    assert None not in mended.admit(records)
    assert mended.report() == ([], [])
    del shelf.items["a/0000"]
    skipping = Library(Workspace(tmp_path), on_damaged="skip")
    assert [example is None for example in skipping.admit(records)] == [True, False]
    assert skipping.report() == ([], ["1 damaged items skipped: a/0000 (not on the shelf)"])
    with pytest.raises(Damaged, match="Is a directory"):
        FileSource(tmp_path).read()


def test_what_is_remembered_is_known_again_under_the_same_stamp_and_decoder_unless_there_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(tmp_path)
    index.remember("image", [(source, "1", source.name) for source in SOURCES])  # more than a query takes
    index.remember("image", [(SOURCES[0], "2", "new")])
    index.close()
    again = Index(tmp_path)
    assert again.contents("image", SOURCES, ["1"] * 2500) == [None, *(source.name for source in SOURCES[1:])]
    assert again.contents("image", SOURCES[:1], ["2"]) == ["new"]
    assert again.contents("clip", SOURCES[:1], ["2"]) == [None]
    missing = FileSource(tmp_path / "none.png")
    assert again.contents("image", [missing], [""]) == [None]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    index = Index(None)  # keeps nothing and writes nothing
    index.remember("image", [(SOURCES[0], "1", "x")])
    assert index.contents("image", SOURCES[:1], ["1"]) == [None]
    assert list((tmp_path / "empty").iterdir()) == []


@dataclass
class Acting:
    """A decoder that does something right after it has read an item."""

    act: Callable[[], object]
    identity: str = "acting"

    def __call__(self, source: FileSource) -> Image.Image:
        source.read()
        self.act()
        return Image.new("RGB", (1, 1))


def test_a_change_while_an_item_is_read_is_noticed_and_errors_of_a_decoder_come_through(tmp_path: Path) -> None:
    shelf = coloured(1)
    for _ in range(2):
        shelf.reads.clear()
        decoder = Acting(lambda: shelf.stamps.update({"a/0000": "2"}))
        Library(Workspace(tmp_path), decoder=decoder).admit(shelf.records())
        assert shelf.reads["a/0000"] > 0
    with pytest.raises(ZeroDivisionError):
        Library(Workspace(tmp_path), decoder=Acting(lambda: 1 / 0)).admit(coloured(2).records())
    shelf = coloured(2)
    shelf.items["b/0001"] = b"no image"
    known = [replace(record, content=f"known {record.key}") for record in shelf.records()]
    good, damaged = Library(Workspace(tmp_path)).admit(known)
    assert good is not None and good.content == "known a/0000"
    assert damaged is None


def test_problems_of_layout_items_and_stream_are_raised_together_each_once() -> None:
    shelf = Shelf({"a/1": b"x"})
    library = Library(Workspace())
    with pytest.raises(UserError) as caught, all_problems(Found((), (), ("layout", "both")), library):
        library.admit(shelf.records())
        raise UserError("both", "stream")
    assert caught.value.problems == (
        "layout",
        "both",
        "1 items cannot be decoded; repair or remove them, or set on_damaged=skip",
        "a/1 (no BMP, GIF, JPEG, PNG or WEBP image in its 1 bytes)",
        "stream",
    )
