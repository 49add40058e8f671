from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from task_streams.datasets.folder import CIL, DIL, FolderCilConfig, FolderDilConfig
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from task_streams.sources.records import Workspace
from task_streams.types import TaskStream
from tests.task_streams.image_trees import cut, problems_of
from tests.task_streams.streams import write_tree

CLASSES = ("ant", "bee", "cat fish", "d'og")


def cil(root: Path, **changes: Any) -> TaskStream:
    settings: dict[str, Any] = {"tasks": 2, "classes_per_task": 2, "shots": 3, "test_per_class": 2} | changes
    return CIL.build(FolderCilConfig(root=str(root), **settings), 0, Workspace())


def dil(root: Path, order_seed: int = 0, **settings: Any) -> TaskStream:
    return DIL.build(FolderDilConfig(root=str(root), **settings), order_seed, Workspace())


def used(stream: TaskStream) -> set[str]:
    return {e.key for task in stream.tasks for e in (*task.train, *task.test)}


def test_a_tree_of_class_folders_becomes_a_stream_with_a_hold_out(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_tree(tmp_path / place, CLASSES, 6)
    stream = cil(tmp_path / "one")
    assert sorted(label for task in stream.tasks for label in task.classes) == sorted(CLASSES)
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(6, 4), (6, 4)]
    assert check_stream(stream) == []
    assert stream.tasks[0].train[0].key.startswith(f"{stream.tasks[0].classes[0]}/")
    assert stream.tasks[0].train[0].media().size == (8, 8)
    assert fingerprints(stream) == fingerprints(cil(tmp_path / "two"))  # wherever it lies


def test_a_tree_with_splits_keeps_them(tmp_path: Path) -> None:
    write_tree(tmp_path, [f"{split}/{name}" for split in ("train", "test") for name in CLASSES], 4, ".JPG")
    for task in cil(tmp_path).tasks:
        assert all(example.key.startswith("train/") for example in task.train)
        assert all(example.key.startswith("test/") for example in task.test)


def test_a_tree_of_domains_becomes_a_domain_stream(tmp_path: Path) -> None:
    write_tree(tmp_path, [f"{domain}/{name}" for domain in ("art", "photo") for name in CLASSES], 5)
    stream = dil(tmp_path, domains=("photo", "art"), domain_order="given", shots=2, test_per_class=1)
    assert [task.name for task in stream.tasks] == ["photo", "art"]
    assert all(task.seen == tuple(sorted(CLASSES)) for task in stream.tasks)
    assert {e.domain for e in stream.tasks[0].train} == {"photo"}
    assert check_stream(stream) == []
    assert problems_of(lambda: dil(tmp_path, domains=("foto",))) == (
        "unknown domain 'foto'. Did you mean 'photo'? Known: art, photo.",
    )


def test_every_damaged_image_is_named_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    cut(tmp_path / "ant" / "001.png")
    (tmp_path / "bee" / "002.png").write_bytes(b"")
    (tmp_path / "bee" / "003.png").write_bytes(b"<html>404</html>")
    head, *named = problems_of(lambda: cil(tmp_path))
    assert head == "3 items cannot be decoded; repair or remove them, or set on_damaged=skip"
    assert [problem.split(" ")[0] for problem in named] == ["ant/001.png", "bee/002.png", "bee/003.png"]


def test_copies_are_not_split_over_training_and_test(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    (tmp_path / "ant" / "copy.png").write_bytes((tmp_path / "ant" / "000.png").read_bytes())
    stream = cil(tmp_path, shots=None)
    pair = {"ant/copy.png (ant) = ant/000.png (ant)", "ant/000.png (ant) = ant/copy.png (ant)"}
    assert stream.notes[0].removeprefix("1 items left out, copies of others: ") in pair
    assert check_stream(stream) == []


def test_links_are_followed_inside_of_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_tree(root, (*CLASSES, ".store/eel"), 6)
    (root / "eel").symlink_to(root / ".store" / "eel", target_is_directory=True)
    assert {key.split("/")[0] for key in used(cil(root, tasks=5, classes_per_task=1))} == {*CLASSES, "eel"}
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (root / "ant" / "link.png").symlink_to(tmp_path / "outside.png")
    (problem,) = problems_of(lambda: cil(root))
    assert problem == f"{root}/ant/link.png: a link that leads out of {root}; refused"


@pytest.mark.parametrize(
    ("folders", "settings", "said"),
    [
        (("ice_bear", "Ice-Bear", "ant"), {"tasks": 1}, "classes 'Ice-Bear', 'ice_bear' all read 'ice bear'"),
        (("ant/deeper",), {}, "found ant, and no image in there"),
        (("train/ant",), {}, "found train/ alone; expected both train/ and test/, or neither"),
        (("ant",), {"on_damaged": "ignore"}, "on_damaged: got 'ignore', expected error or skip."),
    ],
)
def test_what_is_wrong_with_a_tree_or_its_settings_is_said(
    tmp_path: Path, folders: tuple[str, ...], settings: dict[str, Any], said: str
) -> None:
    write_tree(tmp_path, folders, 4)
    assert said in problems_of(lambda: cil(tmp_path, **settings))[0]


def test_other_files_are_counted_hidden_ones_passed_over_and_a_folder_without_images_is_no_class(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, CLASSES, 6)
    (tmp_path / "ant" / "labels.csv").write_text("x")
    (tmp_path / "ant" / "._000.png").write_text("x")
    (tmp_path / "docs").mkdir()
    stream = cil(tmp_path)
    assert set(stream.labels) == set(CLASSES)
    assert stream.notes == (
        "ant: 1 entries that are no images passed over",
        "root: folders without images left out: docs",
    )


def test_a_copy_in_two_domains_is_reported_or_left_out(tmp_path: Path) -> None:
    write_tree(tmp_path, [f"{domain}/{name}" for domain in ("art", "photo") for name in CLASSES], 6)
    (tmp_path / "photo/ant/001.png").write_bytes((tmp_path / "art/ant/003.png").read_bytes())
    (problem,) = check_stream(dil(tmp_path, shots=None, test_per_class=2))
    assert "art/ant/003.png" in problem and "photo/ant/001.png" in problem
    kept = []
    for order_seed in (0, 1):  # RandomState(0).permutation(2) is [1 0], RandomState(1).permutation(2) is [0 1]
        stream = dil(tmp_path, order_seed, shots=None, test_per_class=2, on_copies="skip")
        assert check_stream(stream) == []
        (note,) = (note for note in stream.notes if "left out" in note)
        assert "1 items left out, copies of others: " in note
        kept.append(used(stream))
        assert len(kept[-1]) == 47  # 2 domains of 4 classes of 6 images, one of them a copy
    assert kept[0] == kept[1]


def test_an_image_in_two_class_folders_is_refused_with_both(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    (tmp_path / "bee" / "001.png").write_bytes((tmp_path / "ant" / "000.png").read_bytes())
    (problem,) = problems_of(lambda: cil(tmp_path, shots=None))
    assert problem.startswith("1 items have the content of an item of another class: ")
    assert "ant/000.png (ant)" in problem and "bee/001.png (bee)" in problem
    assert check_stream(cil(tmp_path, shots=None, on_copies="skip")) == []


def test_listed_items_of_classes_that_are_not_used_are_counted(tmp_path: Path) -> None:
    listed = tmp_path / "list.jsonl"
    write_tree(tmp_path / "plain", CLASSES, 3)
    listed.write_text("".join(f'{{"key": "{name}/000.png"}}\n' for name in CLASSES))
    changes: dict[str, Any] = {"classes_per_task": 1, "shots_list": str(listed)}
    told = "1 of 4 listed items are of classes that are not used"
    assert told in cil(tmp_path / "plain", tasks=3, **changes).notes
    assert not [note for note in cil(tmp_path / "plain", tasks=4, **changes).notes if "listed" in note]
