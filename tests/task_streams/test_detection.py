import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from task_streams.errors import UserError
from task_streams.prompt import visible
from task_streams.scenarios.detection import Positives, balanced, positives
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from task_streams.scenarios.split import joint_task
from task_streams.types import Example, new_test_items
from tests.task_streams.detection_trees import Boxes, whole, write_coco
from tests.task_streams.streams import built, problems_of

# Sorted names apple, cat, dog, zebra; RandomState(0).permutation(4) = [2, 3, 1, 0].
ORDER = ("dog", "zebra", "cat", "apple")
EVERY = ("apple", "cat", "dog", "zebra")


def both(*names: str) -> Boxes:
    """An image with a box of each class, side by side."""
    return [(name, 50 * i, 0, 40, 20) for i, name in enumerate(names)]


stream = partial(built, "coco_cil", tasks=2, classes_per_task=2, shots=2)


def write(root: Path, train: Sequence[Boxes], test: Sequence[Boxes] | None = None) -> None:
    write_coco(root, {"train2017": train, "val2017": [whole(name) for name in EVERY] if test is None else test})


def keys(examples: Sequence[Example]) -> list[int]:
    """Numbers of the images, as the tree counts them."""
    return [int(Path(example.key).stem) for example in examples]


def test_an_image_is_trained_on_in_its_newest_classs_task_and_tested_in_every_one_of_its_classes(
    tmp_path: Path,
) -> None:
    write(tmp_path, [both("dog"), both("dog", "cat"), both("zebra", "dog"), both("apple"), both("zebra"), both("cat")])
    first, second = stream(tmp_path, shots=None).tasks
    assert (first.classes, second.classes) == (("dog", "zebra"), ("cat", "apple"))
    assert (first.seen, second.seen) == (("dog", "zebra"), EVERY)
    assert (first.kind, first.index, second.index) == ("detection", 1, 2)
    assert (keys(first.train), keys(second.train)) == ([0, 2, 4], [1, 3, 5])
    # the target keeps the boxes of all classes; no box of a class that is not taught yet is hidden in task 1
    assert [box.category for box in second.train[0].target] == ["dog", "cat"]  # type: ignore[union-attr]
    for example in first.train:
        assert visible(example.target, first.seen) == example.target  # type: ignore[arg-type]
    assert (keys(first.test), keys(second.test)) == ([2, 3], [0, 1])
    images = [both("dog"), both("dog", "cat"), both("zebra", "apple", "cat"), both("apple")]
    write(tmp_path, [both(name) for name in EVERY], images)
    found = stream(tmp_path)
    first, second = found.tasks
    assert (keys(first.test), keys(second.test)) == ([0, 1, 2], [1, 2, 3])
    assert first.test[1] is second.test[0]
    assert [box.category for box in first.test[1].target] == ["dog", "cat"]  # type: ignore[union-attr]
    assert [keys(items) for items in new_test_items(found.tasks)] == [[0, 1, 2], [3]]
    assert keys(joint_task(found).test) == [0, 1, 2, 3]
    assert check_stream(found) == []


def test_a_balanced_draw_gives_every_class_its_share() -> None:
    images = {0: {"a", "b"}, 1: {"a"}, 2: {"b", "c"}, 3: {"a", "c"}, 4: {"b"}}
    orders = {"a": [1, 0, 3], "b": [0, 2, 4], "c": [2, 3]}
    # a (0) takes 1; b (0) takes 0, which counts for a too; c (0) takes 2, which counts for b too: a 2, b 2, c 1;
    # c takes 3 -> a 3. All have 2.
    assert balanced(orders, images.__getitem__, 2, set()) == {0, 1, 2, 3}
    # without 0: a takes 1; b takes 2 (c 1); a (1) takes 3 (c 2); b takes 4
    assert balanced(orders, images.__getitem__, 2, {0}) == {1, 2, 3, 4}
    # more than there are: everything
    assert balanced(orders, images.__getitem__, 9, set()) == {0, 1, 2, 3, 4}


def test_test_images_are_drawn_over_all_tasks_so_that_each_is_in_every_task_of_its_classes(tmp_path: Path) -> None:
    images = [both("dog", "cat")] * 3 + [both(name) for name in EVERY * 4]
    write(tmp_path, [both(name) for name in EVERY], images)
    for order in (0, 3):
        found = stream(tmp_path, order, test_per_class=4)
        drawn = {example.key: example for task in found.tasks for example in task.test}
        for task in found.tasks:
            held = [e for e in drawn.values() if visible(e.target, task.classes)]  # type: ignore[arg-type]
            assert sorted(held, key=lambda e: e.key) == list(task.test)
            assert all(row.test_images >= 4 for row in positives(task))
        assert sorted(drawn) == sorted(
            {e.key for task in stream(tmp_path, test_per_class=4).tasks for e in task.test}
        )  # whatever the class order


def test_the_policy_says_which_classes_training_shows_and_unused_or_too_many_ones_are_told(tmp_path: Path) -> None:
    write(tmp_path, [both("dog", "zebra"), both("dog", "cat", "apple")])
    seen = stream(tmp_path).tasks[1]
    new_only = stream(tmp_path, annotation="new_only").tasks[1]
    assert (seen.trained, new_only.trained) == (EVERY, ("apple", "cat"))
    assert new_only.train[0].target == seen.train[0].target  # cut by the prompt's list only, see prompt.visible
    with pytest.raises(UserError, match="annotation: got 'new', expected seen or new_only"):
        stream(tmp_path, annotation="new")
    write(tmp_path, [both("dog", "cat"), both("cat"), both("zebra")])
    found = stream(tmp_path, tasks=1)
    assert [keys(task.train) for task in found.tasks] == [[0, 2]]
    assert [box.category for e in found.tasks[0].train for box in e.target] == ["dog", "zebra"]  # type: ignore[union-attr]
    assert "2 of 4 classes are used; 1 training images show others only" in found.notes
    images = [whole("hot dog"), whole("hot-dog")]
    write_coco(tmp_path, {"train2017": images, "val2017": images}, {"hot dog": 1, "hot-dog": 2})
    assert problems_of(lambda: stream(tmp_path)) == (
        "classes 'hot dog', 'hot-dog' all read 'hot dog' in an answer; rename all but one of them",
        "coco_cil: 4 classes asked (2 tasks), but there are 2; ask for fewer",
    )


def test_a_truncated_jpeg_stops_the_run_or_is_replaced_by_the_next(tmp_path: Path) -> None:
    write(tmp_path, [both(name) for name in EVERY * 4])
    clean = stream(tmp_path)
    victim = clean.tasks[0].train[0].key
    Image.effect_noise((64, 64), 90).save(tmp_path / victim, format="JPEG")  # read by content, whatever the name
    data = (tmp_path / victim).read_bytes()
    (tmp_path / victim).write_bytes(data[: len(data) // 2])
    found_problems = problems_of(lambda: stream(tmp_path))
    assert found_problems[0] == "1 items cannot be decoded; repair or remove them, or set on_damaged=skip"
    assert found_problems[1].startswith(f"{victim} (")
    mended = stream(tmp_path, on_damaged="skip")
    assert [row.train_images for task in mended.tasks for row in positives(task)] == [2, 2, 2, 2]
    assert any(note.startswith(f"1 damaged items skipped: {victim} (") for note in mended.notes)


def test_a_list_that_does_not_resolve_names_every_row(tmp_path: Path) -> None:
    write(tmp_path, [*(both(name) for name in EVERY), []])
    path = tmp_path / "list.jsonl"
    path.write_text(
        '{"key": "train2017/000000.png"}\n\n{"key": "val2017/000000.png"}\n{"key": "train2017/000000.png"}\n'
        '{"images": ["a", "b"]}\n{"key": 3}\nnot json\n{"key": "../secret.png"}\n{"key": "train2017/000004.png"}\n'
    )
    found = problems_of(lambda: stream(tmp_path, shots_list=str(path)))
    example = "is no training image with boxes; names look like 'train2017/000000.png'"
    form = 'expected {"key": "…"} or {"images": ["…"]}; found'
    assert [problem.removeprefix(f"{path}, ") for problem in found] == [
        f"row 3: 'val2017/000000.png' {example}",
        "row 4: 'train2017/000000.png' is listed more than once",
        f"""row 5: {form} '{{"images": ["a", "b"]}}'""",
        f"""row 6: {form} '{{"key": 3}}'""",
        f"row 7: {form} 'not json'",
        f"row 8: '../secret.png' {example}",
        f"row 9: 'train2017/000004.png' {example}",
    ]
    path.write_text("\n")
    with pytest.raises(UserError, match="expected one training image a row; found an empty list"):
        stream(tmp_path, shots_list=str(path))
    with pytest.raises(UserError, match=r"none\.jsonl: expected a readable text file"):
        stream(tmp_path, shots_list=str(tmp_path / "none.jsonl"))


def test_the_draw_gives_every_class_its_shots_and_depends_on_its_seed_not_on_the_class_order(tmp_path: Path) -> None:
    write(tmp_path, [both(name) for name in EVERY * 6] + [both("cat")], [both(name) for name in EVERY * 4])
    drawn = [stream(tmp_path, order, draw_seed=seed, shots=3) for order, seed in ((0, 42), (0, 42), (3, 42), (0, 1))]
    assert [row.train_images for task in drawn[0].tasks for row in positives(task)] == [3, 3, 3, 3]
    chosen = [sorted(e.key for task in found.tasks for e in task.train) for found in drawn]
    assert fingerprints(drawn[0]) == fingerprints(drawn[1])
    assert drawn[2].tasks[0].classes != drawn[0].tasks[0].classes
    assert chosen[0] == chosen[2] != chosen[3]
    assert [len(task.test) for task in drawn[0].tasks] == [8, 8]  # all test images by default
    some, more = (stream(tmp_path, test_per_class=3, shots=shots) for shots in (3, 1))
    assert [row.test_images for task in some.tasks for row in positives(task)] == [3, 3, 3, 3]
    assert [task.test for task in some.tasks] == [task.test for task in more.tasks]


def test_positives_are_counted_and_classes_without_or_with_too_few_are_named(tmp_path: Path) -> None:
    write(tmp_path, [both("dog", "dog", "zebra"), both("dog"), both("cat", "apple", "dog")])
    found = stream(tmp_path, shots=None)
    assert positives(found.tasks[0]) == [Positives("dog", 2, 3, 1, 1), Positives("zebra", 1, 1, 1, 1)]
    assert positives(found.tasks[1], ["dog"]) == [Positives("dog", 1, 1, 0, 0)]
    assert "task dog+zebra: images/boxes in training and in test: dog 2/3 1/1, zebra 1/1 1/1" in found.notes
    assert "task dog+zebra: fewer than 2 training images with zebra (1)" in stream(tmp_path).notes
    write(tmp_path / "lack", [both("dog"), both("cat")], [both("zebra"), both("cat"), both("apple")])
    lacking = problems_of(lambda: stream(tmp_path / "lack"))
    assert lacking == (
        "task dog+zebra: no training images with 1 classes: zebra",
        "task dog+zebra: no test images with 1 classes: dog",
        "task cat+apple: no training images with 1 classes: apple",
        "use other classes or more images, or set allow_empty_classes=true",
    )
    notes = stream(tmp_path / "lack", allow_empty_classes=True).notes
    assert lacking[0] in notes and lacking[2] in notes
    write(tmp_path / "none", [both("dog"), both("zebra")])
    empty = problems_of(lambda: stream(tmp_path / "none", allow_empty_classes=True))
    assert empty[0] == "task cat+apple: no training images" and empty[1].startswith("use other classes (categories")


def test_copies_are_reported_or_left_out_and_inside_of_one_task_kept_and_noted(tmp_path: Path) -> None:
    write(tmp_path, [both(name) for name in EVERY * 3])
    (tmp_path / "train2017" / "000006.png").write_bytes((tmp_path / "train2017" / "000002.png").read_bytes())
    found = stream(tmp_path, shots=None)
    assert check_stream(found) == []
    assert "1 images are copies of others, and kept: train2017/000006.png = train2017/000002.png" in found.notes
    write(tmp_path, [both(name) for name in EVERY * 3])
    (tmp_path / "train2017" / "000002.png").write_bytes((tmp_path / "val2017" / "000002.png").read_bytes())
    pair = "val2017/000002.png (dog+zebra test) = train2017/000002.png (dog+zebra train)"
    assert check_stream(stream(tmp_path, shots=3)) == [f"1 test items are trained on: {pair}"]
    found = stream(tmp_path, shots=3, on_copies="skip")
    assert check_stream(found) == []
    assert "1 images left out, copies of others: train2017/000002.png = val2017/000002.png" in found.notes


def test_a_list_of_training_images_replaces_the_draw_and_counts_what_is_not_used(tmp_path: Path) -> None:
    write(tmp_path, [both(name) for name in EVERY * 4])
    rows = [{"key": "train2017/000000.png"}, {"images": ["train2017/000005.png"], "answer": "[]", "task_id": 2}]
    rows += [{"key": f"train2017/{i:06d}.png"} for i in (6, 7)]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = stream(tmp_path, shots_list=str(path))
    assert [keys(task.train) for task in found.tasks] == [[6, 7], [0, 5]]
    found = stream(tmp_path, tasks=1, shots_list=str(path))
    assert [keys(task.train) for task in found.tasks] == [[6, 7]]  # dog and zebra; 0 is an apple and 5 a cat
    assert "2 of 4 listed items are of classes that are not used" in found.notes


def test_a_class_that_is_left_empty_is_told_with_the_images_that_were_left_out(tmp_path: Path) -> None:
    write(tmp_path, [both(name) for name in EVERY])
    (tmp_path / "val2017/000000.png").write_bytes(b"")  # apple
    dog = (tmp_path / "val2017/000002.png").read_bytes()
    (tmp_path / "train2017/000002.png").write_bytes(dog)
    told = problems_of(lambda: stream(tmp_path, on_damaged="skip", on_copies="skip"))
    assert told == (
        "task dog+zebra: no training images with 1 classes: dog; images of dog (left out: 1 copies of others)",
        "task cat+apple: no test images with 1 classes: apple; "
        "images of apple (left out: 1 damaged or not taken by the model)",
        "use other classes or more images, or set allow_empty_classes=true",
    )
