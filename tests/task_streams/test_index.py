import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from task_streams.errors import UserError
from task_streams.sources.library import FILE, Index, stamp_of
from task_streams.sources.records import FileSource
from tests.task_streams.sources import Shelf, ShelfSource

SHELF = Shelf({f"item {i}": b"" for i in range(2500)})
SOURCES = [ShelfSource(SHELF, name) for name in SHELF.items]

WRITER = """
import sys
from pathlib import Path
from task_streams.sources.library import Index
from task_streams.sources.records import FileSource

index = Index(Path(sys.argv[1]))
for turn in range(40):
    paths = [Path(f"/{sys.argv[2]}/{turn}/{i}") for i in range(50)] + [Path(f"/shared/{i}") for i in range(50)]
    index.remember("d", [(FileSource(path), "s", f"{path}") for path in paths])
    assert all(index.contents("d", [FileSource(path) for path in paths], ["s"] * 100))
"""


def test_what_is_remembered_is_known_again_under_the_same_stamp_and_decoder(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.remember("image", [(source, "1", f"content of {source.name}") for source in SOURCES[:2]])
    index.close()
    again = Index(tmp_path)
    assert again.contents("image", SOURCES[:3], ["1", "2", "1"]) == ["content of item 0", None, None]
    assert again.contents("clip", SOURCES[:1], ["1"]) == [None]


def test_a_new_content_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    index = Index(tmp_path)
    for stamp, content in (("1", "old"), ("2", "new")):
        index.remember("image", [(SOURCES[0], stamp, content)])
    assert index.contents("image", SOURCES[:1] * 2, ["1", "2"]) == [None, "new"]


def test_more_items_than_a_query_takes_are_found(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.remember("image", [(source, "1", source.name) for source in SOURCES])
    assert index.contents("image", SOURCES, ["1"] * 2500) == [source.name for source in SOURCES]


def test_without_a_cache_folder_nothing_is_kept_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    index = Index(None)
    index.remember("image", [(SOURCES[0], "1", "x")])
    assert index.contents("image", SOURCES[:1], ["1"]) == [None]
    index.close()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_has_no_stamp_that_an_index_could_know(tmp_path: Path) -> None:
    missing = FileSource(tmp_path / "none.png")
    assert stamp_of(missing) == ""
    assert Index(tmp_path).contents("image", [missing], [""]) == [None]


def test_a_damaged_index_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all, but long enough to be one" * 50)
    with pytest.raises(UserError, match=r"index\.sqlite: the index cannot be used \(file is not a database\); remove"):
        Index(tmp_path).contents("image", SOURCES[:1], ["1"])


def test_an_index_that_is_damaged_inside_is_named_with_the_remedy(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.remember("image", [(source, "1", source.name) for source in SOURCES])
    index.close()
    data = bytearray((tmp_path / FILE).read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)  # the first page, with the schema, stays whole
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(UserError, match=r"the index cannot be used .*malformed.*; remove the file"):
        Index(tmp_path).contents("image", SOURCES, ["1"] * 2500)


def test_a_table_of_another_shape_is_named_with_the_remedy(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("CREATE TABLE items_1 (colour TEXT)")
    with pytest.raises(UserError, match=r"the index cannot be used .*no such column.*; remove the file"):
        Index(tmp_path).contents("image", SOURCES[:1], ["1"])


def test_a_cache_folder_that_is_a_file_or_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"the index cannot be written .*; give a cache folder that can be written to"):
        Index(tmp_path / "file").contents("image", SOURCES[:1], ["1"])
    if os.geteuid() != 0:  # nothing is closed to root
        closed = tmp_path / "closed"
        closed.mkdir()
        closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(UserError, match="the index cannot be written"):
            Index(closed).contents("image", SOURCES[:1], ["1"])


def test_an_index_that_another_process_holds_is_waited_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        # 3 writers x 40 turns x 50 items of their own, and the 50 that all of them write.
        assert database.execute("SELECT count(*) FROM items_1").fetchone() == (6050,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
