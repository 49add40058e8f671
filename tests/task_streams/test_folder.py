from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from task_streams.datasets.folder import FolderCilConfig, FolderDilConfig, folder_cil, folder_dil
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from task_streams.sources.records import Workspace
from tests.task_streams.image_trees import problems_of
from tests.task_streams.streams import write_tree

CLASSES = ("ant", "bee", "cat fish", "d'og")


def config(root: Path, **changes: Any) -> FolderCilConfig:
    settings: dict[str, Any] = {"tasks": 2, "classes_per_task": 2, "shots": 3, "test_per_class": 2} | changes
    return FolderCilConfig(root=str(root), **settings)


def cut(path: Path) -> None:
    """Keep the first half of an image file, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_tree_of_class_folders_becomes_a_stream_with_a_hold_out(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    stream = folder_cil(config(tmp_path), 0, Workspace())
    assert sorted(label for task in stream.tasks for label in task.classes) == sorted(CLASSES)
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(6, 4), (6, 4)]
    assert check_stream(stream) == []
    assert stream.tasks[0].train[0].key.startswith(f"{stream.tasks[0].classes[0]}/")
    assert stream.tasks[0].train[0].media().size == (8, 8)


def test_a_tree_with_splits_keeps_them(tmp_path: Path) -> None:
    write_tree(tmp_path, [f"{split}/{name}" for split in ("train", "test") for name in CLASSES], 4, ".JPG")
    stream = folder_cil(config(tmp_path), 0, Workspace())
    for task in stream.tasks:
        assert all(example.key.startswith("train/") for example in task.train)
        assert all(example.key.startswith("test/") for example in task.test)


def test_a_tree_of_domains_becomes_a_domain_stream(tmp_path: Path) -> None:
    write_tree(tmp_path, [f"{domain}/{name}" for domain in ("art", "photo") for name in CLASSES], 5)
    dil = FolderDilConfig(root=str(tmp_path), domains=("photo", "art"), domain_order="given", shots=2, test_per_class=1)
    stream = folder_dil(dil, 0, Workspace())
    assert [task.name for task in stream.tasks] == ["photo", "art"]
    assert all(task.seen == tuple(sorted(CLASSES)) for task in stream.tasks)
    assert {e.domain for e in stream.tasks[0].train} == {"photo"}
    assert check_stream(stream) == []


def test_an_unknown_domain_is_refused_with_the_nearest(tmp_path: Path) -> None:
    write_tree(tmp_path, ["photo/ant"], 2)
    with pytest.raises(UserError, match=r"unknown domain 'foto'\. Did you mean 'photo'\?"):
        folder_dil(FolderDilConfig(root=str(tmp_path), domains=("foto",)), 0, Workspace())


def test_every_damaged_image_is_named_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    cut(tmp_path / "ant" / "001.png")
    (tmp_path / "bee" / "002.png").write_bytes(b"")
    (tmp_path / "bee" / "003.png").write_bytes(b"<html>404</html>")
    head, *named = problems_of(lambda: folder_cil(config(tmp_path), 0, Workspace()))
    assert head == "3 items cannot be decoded; repair or remove them, or set on_damaged=skip"
    assert [problem.split(" ")[0] for problem in named] == ["ant/001.png", "bee/002.png", "bee/003.png"]


def test_a_truncated_jpeg_is_damaged_although_its_head_is_whole(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    big = tmp_path / "ant" / "big.jpg"
    Image.effect_noise((64, 64), 90).save(big)
    cut(big)
    with pytest.raises(UserError, match=r"ant/big\.jpg"):
        folder_cil(config(tmp_path), 0, Workspace())


def test_damaged_images_are_skipped_on_request_and_recorded_by_name(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    cut(tmp_path / "ant" / "001.png")
    stream = folder_cil(config(tmp_path, on_damaged="skip"), 0, Workspace())
    assert stream.notes[0].startswith("1 damaged items skipped: ant/001.png (")
    assert "ant/001.png" not in {e.key for task in stream.tasks for e in (*task.train, *task.test)}


def test_copies_are_not_split_over_training_and_test(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    (tmp_path / "ant" / "copy.png").write_bytes((tmp_path / "ant" / "000.png").read_bytes())
    stream = folder_cil(config(tmp_path, shots=None), 0, Workspace())
    pair = {"ant/copy.png (ant) = ant/000.png (ant)", "ant/000.png (ant) = ant/copy.png (ant)"}
    assert stream.notes[0].removeprefix("1 items left out, copies of others: ") in pair
    assert check_stream(stream) == []


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    root = tmp_path / "root"
    write_tree(root, CLASSES, 6)
    (root / "ant" / "link.png").symlink_to(outside)
    with pytest.raises(UserError, match=r"ant/link\.png: a link that leads out of .*refused"):
        folder_cil(config(root), 0, Workspace())


def test_a_link_inside_of_the_root_is_followed(tmp_path: Path) -> None:
    write_tree(tmp_path, (*CLASSES, ".store/eel"), 6)
    (tmp_path / "eel").symlink_to(tmp_path / ".store" / "eel", target_is_directory=True)
    stream = folder_cil(config(tmp_path, tasks=5, classes_per_task=1), 0, Workspace())
    assert {e.key.split("/")[0] for task in stream.tasks for e in task.train} == {*CLASSES, "eel"}
    assert check_stream(stream) == []


def test_class_folders_that_read_the_same_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path, ("ice_bear", "Ice-Bear", "ant"), 4)
    with pytest.raises(UserError, match="classes 'Ice-Bear', 'ice_bear' all read 'ice bear'"):
        folder_cil(config(tmp_path, tasks=1), 0, Workspace())


def test_a_root_without_images_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match="found ant, and no image in there"):
        folder_cil(config(tmp_path), 0, Workspace())


def test_one_split_without_the_other_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, ["train/ant"], 2)
    with pytest.raises(UserError, match="found train/ alone; expected both train/ and test/, or neither"):
        folder_cil(config(tmp_path), 0, Workspace())


def test_other_files_are_counted_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    (tmp_path / "ant" / "labels.csv").write_text("x")
    (tmp_path / "ant" / "._000.png").write_text("x")
    assert folder_cil(config(tmp_path), 0, Workspace()).notes == ("ant: 1 entries that are no images passed over",)


def test_the_same_tree_elsewhere_has_the_same_fingerprints(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_tree(tmp_path / place, CLASSES, 6)
    found = [fingerprints(folder_cil(config(tmp_path / place), 0, Workspace())) for place in ("one", "two")]
    assert found[0] == found[1]


def test_a_folder_without_images_is_no_class_and_recorded(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    (tmp_path / "docs").mkdir()
    stream = folder_cil(config(tmp_path), 0, Workspace())
    assert (set(stream.labels), stream.notes) == (set(CLASSES), ("root: folders without images left out: docs",))


def test_an_unknown_way_with_damage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="on_damaged: got 'ignore', expected error or skip"):
        config(tmp_path, on_damaged="ignore")


def domains_with_a_shared_image(root: Path) -> None:
    """Two domains of six images in each class; an ant of one is an ant of the other."""
    write_tree(root, [f"{domain}/{name}" for domain in ("art", "photo") for name in CLASSES], 6)
    (root / "photo/ant/001.png").write_bytes((root / "art/ant/003.png").read_bytes())


def test_a_copy_in_two_domains_is_reported_or_left_out(tmp_path: Path) -> None:
    domains_with_a_shared_image(tmp_path)
    settings: dict[str, Any] = {"root": str(tmp_path), "shots": None, "test_per_class": 2}
    (problem,) = check_stream(folder_dil(FolderDilConfig(**settings), 0, Workspace()))
    assert "art/ant/003.png" in problem and "photo/ant/001.png" in problem
    kept = []
    for order_seed in (0, 1):  # RandomState(0).permutation(2) is [1 0], RandomState(1).permutation(2) is [0 1]
        stream = folder_dil(FolderDilConfig(on_copies="skip", **settings), order_seed, Workspace())
        assert check_stream(stream) == []
        (note,) = (note for note in stream.notes if "left out" in note)
        assert "1 items left out, copies of others: " in note
        kept.append({e.key for task in stream.tasks for e in (*task.train, *task.test)})
        assert len(kept[-1]) == 47  # 2 domains of 4 classes of 6 images, one of them a copy
    assert kept[0] == kept[1]


def test_an_image_in_two_class_folders_is_refused_with_both(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    (tmp_path / "bee" / "001.png").write_bytes((tmp_path / "ant" / "000.png").read_bytes())
    (problem,) = problems_of(lambda: folder_cil(config(tmp_path, shots=None), 0, Workspace()))
    assert problem.startswith("1 items have the content of an item of another class: ")
    assert "ant/000.png (ant)" in problem and "bee/001.png (bee)" in problem
    assert check_stream(folder_cil(config(tmp_path, shots=None, on_copies="skip"), 0, Workspace())) == []


def test_listed_items_of_classes_that_are_not_used_are_counted(tmp_path: Path) -> None:
    listed = tmp_path / "list.jsonl"
    write_tree(tmp_path / "plain", CLASSES, 3)
    listed.write_text("".join(f'{{"key": "{name}/000.png"}}\n' for name in CLASSES))
    changes: dict[str, Any] = {"classes_per_task": 1, "shots_list": str(listed)}
    stream = folder_cil(config(tmp_path / "plain", tasks=3, **changes), 0, Workspace())
    assert "1 of 4 listed items are of classes that are not used" in stream.notes
    whole = folder_cil(config(tmp_path / "plain", tasks=4, **changes), 0, Workspace())
    assert not [note for note in whole.notes if "listed" in note]
