import gc
import hashlib
import os
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from task_streams import STREAMS, Workspace, build_stream
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import fingerprints
from task_streams.sources.library import BATCH, FILE, Library, all_problems, rare_collection
from task_streams.sources.records import Damaged, FileSource, Found, Source
from tests.task_streams.sources import Shelf, png
from tests.task_streams.streams import write_tree

BUILD = """
import sys
from pathlib import Path
from task_streams import STREAMS, Workspace, build_stream
from task_streams.scenarios.fingerprint import fingerprints

config = STREAMS["folder_cil"].config(root=sys.argv[1], tasks=2, classes_per_task=2, shots=None, test_per_class=None)
print(fingerprints(build_stream("folder_cil", config, 0, Workspace(Path(sys.argv[2])))))
"""


def coloured(count: int) -> Shelf:
    return Shelf({f"{'ab'[i % 2]}/{i:04d}": png((i % 256, i // 256, 0)) for i in range(count)})


def test_an_example_has_the_hash_of_its_bytes_and_decodes_on_demand(tmp_path: Path) -> None:
    shelf = coloured(3)
    (example, *_) = Library(Workspace(tmp_path)).admit(shelf.records())
    assert example is not None
    assert (example.key, example.label) == ("a/0000", "a")
    assert example.content == hashlib.sha256(shelf.items["a/0000"]).hexdigest()
    assert isinstance(image := example.media(), Image.Image) and image.size == (2, 2)


def test_each_item_is_read_once_and_never_again_while_its_stamp_stays(tmp_path: Path) -> None:
    shelf = coloured(2 * BATCH + 3)
    first = Library(Workspace(tmp_path)).admit(shelf.records())
    assert set(shelf.reads.values()) == {1} and len(shelf.reads) == len(shelf.items)
    shelf.reads.clear()
    again = Library(Workspace(tmp_path)).admit(shelf.records())
    assert again == first
    assert shelf.reads == {}


def test_files_that_the_index_knows_are_not_even_opened(tmp_path: Path) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    write_tree(root, "abcd", 5)
    config = STREAMS["folder_cil"].config(root=str(root), tasks=2, shots=2, test_per_class=2)  # type: ignore[call-arg]
    first = build_stream("folder_cil", config, 0, Workspace(cache))
    for path in root.rglob("*.png"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)  # same size, no image any more
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprints(build_stream("folder_cil", config, 0, Workspace(cache))) == fingerprints(first)
    with pytest.raises(UserError, match="items cannot be decoded"):
        build_stream("folder_cil", config, 0)


def test_an_item_with_another_stamp_is_read_again(tmp_path: Path) -> None:
    shelf = coloured(3)
    Library(Workspace(tmp_path)).admit(shelf.records())
    shelf.items["b/0001"], shelf.stamps["b/0001"] = png((9, 9, 9)), "2"
    shelf.reads.clear()
    examples = Library(Workspace(tmp_path)).admit(shelf.records())
    assert shelf.reads == {"b/0001": 1}
    assert examples[1] is not None
    assert examples[1].content == hashlib.sha256(png((9, 9, 9))).hexdigest()


def test_a_change_while_an_item_is_read_is_noticed_by_the_next_build(tmp_path: Path) -> None:
    shelf = coloured(1)

    class Changing:
        """Changes the item right after it was read."""

        identity = "changing"

        def __call__(self, source: Source) -> Image.Image:
            source.read()
            shelf.stamps["a/0000"] = "2"
            return Image.new("RGB", (1, 1))

    Library(Workspace(tmp_path), decoder=Changing()).admit(shelf.records())
    shelf.reads.clear()
    Library(Workspace(tmp_path), decoder=Changing()).admit(shelf.records())
    assert shelf.reads["a/0000"] > 0


def test_a_fault_is_never_remembered(tmp_path: Path) -> None:
    shelf = coloured(2)
    whole, shelf.items["a/0000"] = shelf.items["a/0000"], b""
    broken = Library(Workspace(tmp_path))
    assert broken.admit(shelf.records())[0] is None
    assert broken.problems == [
        "1 items cannot be decoded; repair or remove them, or set on_damaged=skip",
        "a/0000 (the file is empty)",
    ]
    shelf.items["a/0000"] = whole  # mended, with the stamp that it had
    mended = Library(Workspace(tmp_path))
    assert None not in mended.admit(shelf.records())
    assert mended.problems == []


def test_an_item_that_vanished_is_damaged_although_the_index_knows_it(tmp_path: Path) -> None:
    shelf = coloured(2)
    records = shelf.records()
    Library(Workspace(tmp_path)).admit(records)
    del shelf.items["a/0000"]
    library = Library(Workspace(tmp_path), on_damaged="skip")
    assert [example is None for example in library.admit(records)] == [True, False]
    assert library.notes == ["1 damaged items skipped: a/0000 (not on the shelf)"]
    assert library.problems == []


def test_a_content_that_the_source_knows_is_kept_and_the_item_decoded_all_the_same(tmp_path: Path) -> None:
    shelf = coloured(2)
    shelf.items["b/0001"] = b"no image"
    known = [type(r)(r.key, r.target, r.source, content=f"known {r.key}") for r in shelf.records()]
    good, damaged = Library(Workspace(tmp_path)).admit(known)
    assert good is not None and good.content == "known a/0000"
    assert damaged is None


def test_progress_counts_every_item_known_or_not(tmp_path: Path) -> None:
    shelf = coloured(BATCH + 7)
    for _ in range(2):
        seen: list[int] = []
        Library(Workspace(tmp_path, seen.append)).admit(shelf.records())
        assert seen == [BATCH, 7]


def test_errors_of_a_decoder_that_are_no_damage_come_through(tmp_path: Path) -> None:
    class Wrong:
        identity = "wrong"

        def __call__(self, source: Source) -> Image.Image:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Library(Workspace(tmp_path), decoder=Wrong()).admit(coloured(2).records())


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


def test_nothing_is_admitted_after_the_library_was_closed() -> None:
    library = Library(Workspace())
    with all_problems(Found(()), library):
        library.admit(coloured(1).records())
    with pytest.raises(RuntimeError):
        library.admit(coloured(1).records())


def test_examples_of_files_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write_tree(tmp_path, "abcd", 4)
    config = STREAMS["folder_cil"].config(root=str(tmp_path), tasks=2, shots=1, test_per_class=1)  # type: ignore[call-arg]
    stream = build_stream("folder_cil", config, 0)
    again = pickle.loads(pickle.dumps(stream))
    assert again == stream
    assert again.tasks[0].train[0].media().size == (8, 8)


def test_processes_that_build_at_once_get_the_same_stream_and_leave_a_whole_index(tmp_path: Path) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    write_tree(root, "abcd", 60)
    command = [sys.executable, "-c", BUILD, str(root), str(cache)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [builder.communicate(timeout=120)[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert printed[0] == printed[1] != ""
    with sqlite3.connect(cache / FILE) as database:
        assert database.execute("SELECT count(*) FROM items_1").fetchone() == (240,)  # 4 classes of 60


def test_a_file_that_is_a_folder_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="Is a directory"):
        FileSource(tmp_path).read()


def test_the_search_for_cycles_is_as_usual_after_a_build_that_failed_too() -> None:
    usual = gc.get_threshold()
    with pytest.raises(ValueError, match="stop"), rare_collection():
        assert gc.get_threshold() > usual
        raise ValueError("stop")
    assert gc.get_threshold() == usual
