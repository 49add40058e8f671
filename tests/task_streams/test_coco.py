import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.evaluate import evaluate
from eval.score import score
from eval.task_accuracy import task_accuracy
from task_streams.datasets.coco import read_split
from task_streams.errors import UserError
from task_streams.prompt import target_text
from task_streams.scenarios.detection import positives
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from task_streams.sources.records import Workspace
from task_streams.types import Box, Task, TaskStream, new_test_items
from tests.shared_data import shared
from tests.task_streams.detection_trees import whole, write_coco
from tests.task_streams.streams import built, problems_of

EVERY = ("apple", "cat", "dog", "zebra")
ONE_OF_EACH = [whole(name) for name in EVERY]


stream = partial(built, "coco_cil", tasks=2, classes_per_task=2, shots=2)


def write(root: Path) -> Path:
    write_coco(root, {"train2017": ONE_OF_EACH, "val2017": ONE_OF_EACH})
    return root / "annotations" / "instances_train2017.json"


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def split_boxes(root: Path) -> dict[str, tuple[Box, ...]]:
    table = read_split(root, "train2017", "annotations/instances_train2017.json", Workspace())
    records = [table.record(i, EVERY, "train") for i in range(len(table.keys))]
    return {record.key: record.target for record in records}  # type: ignore[misc]


def test_every_fault_of_the_annotations_is_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path)

    def damage(data: dict[str, Any]) -> None:
        names = {0: "twice.png", 91: "000001.png", 92: "../../etc/passwd", 93: "/etc/passwd", 95: "lost.png"}
        sized = [(number, name, 200.0) for number, name in names.items()]
        sized += [(94, "flat.png", 0), (96, "thin.png", 1e-320)]
        data["images"] += [{"id": i, "file_name": name, "width": w, "height": 100} for i, name, w in sized]
        good = data["annotations"][0]
        data["annotations"] += [
            good | {"id": 0},
            good | {"id": 101, "image_id": 404},
            good | {"id": 102, "category_id": 13},
            good | {"id": 103, "bbox": [1, 2, 3]},
            good | {"id": 104, "bbox": [1, 2, float("nan"), 3]},
            good | {"id": 105, "bbox": [1, 2, True, 10**400]},
            good | {"id": "106"},
            good | {"id": 107, "image_id": 95},
            good | {"id": 108, "image_id": 96},
            good | {"id": 109, "iscrowd": "no"},
            [],
        ]
        data["categories"] += [{"id": 18, "name": "wolf"}, {"id": 99, "name": "cat"}, {"name": "nobody"}]

    change(path, damage)
    found = problems_of(lambda: stream(tmp_path))
    told = [problem.removeprefix("train2017: ") for problem in found if "train2017: " in problem]
    assert told == [
        "1 categories whose id is taken: id 18 (dog, wolf)",
        "1 categories whose name is taken: cat (id 99)",
        "1 categories without a whole number as id or a name: id None, name 'nobody'",
        "1 images whose id is taken: id 0 (train2017/000000.png, train2017/twice.png)",
        "1 images that are listed twice: 000001.png",
        "2 images without a whole number as id or a file name below the folder: "
        "92 '../../etc/passwd', 93 '/etc/passwd'",
        "2 images without width and height: flat.png (0 x 100), thin.png (1e-320 x 100)",
        "1 annotations whose id is taken: annotation 0",
        "2 annotations of an image that is not listed: annotation 101 (image 404), annotation 108 (image 96)",
        "1 annotations of a category that is not listed: annotation 102 (category 13)",
        "3 annotations whose bbox is no x, y, width, height: annotation 103, annotation 104, annotation 105",
        "2 annotations without a whole number as id: annotation '106', annotation None",
        "1 annotations whose iscrowd is neither 0 nor 1: annotation 109 ('no')",
        "1 images are missing: train2017/lost.png",
    ]


def test_names_that_lead_out_of_the_root_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "root")
    outside = tmp_path / "outside.png"
    (tmp_path / "root" / "train2017" / "000001.png").rename(outside)
    (tmp_path / "root" / "train2017" / "000001.png").symlink_to(outside)
    with pytest.raises(UserError, match=r"train2017/000001\.png: a link that leads out of .*; refused"):
        stream(tmp_path / "root")
    for images in ("train2017", "val2017"):
        (tmp_path / f"{images}.json").write_text("{}")
    with pytest.raises(UserError, match=r"^\.\./train2017\.json: leads out of .*; refused"):
        stream(tmp_path / "root", annotations="../{images}.json")


def test_the_real_sample_of_coco() -> None:
    root = shared("coco_mini")
    settings: dict[str, Any] = {"tasks": 5, "classes_per_task": 16, "shots": 5, "allow_empty_classes": True}
    found = stream(root, 136, **settings)
    assert check_stream(found) == []
    assert [len(task.classes) for task in found.tasks] == [16] * 5
    assert len(found.labels) == 80
    everything = stream(root, 136, **settings | {"shots": None})
    # 128 images in each split, two of the training split without boxes; 929 and 898 boxes (the sample's README)
    train = [example for task in everything.tasks for example in task.train]
    test = [example for items in new_test_items(everything.tasks) for example in items]
    assert (len(train), len(test)) == (126, 128)
    assert (sum(len(e.target) for e in train), sum(len(e.target) for e in test)) == (929, 898)  # type: ignore[arg-type]
    assert sum(row.test_boxes for task in everything.tasks for row in positives(task)) == 898  # each in its own task
    for task, whole_task in zip(found.tasks, everything.tasks, strict=True):
        for row, all_of_it in zip(positives(task), positives(whole_task), strict=True):
            assert min(all_of_it.train_images, 5) <= row.train_images <= all_of_it.train_images
            assert row.test_boxes == all_of_it.test_boxes
    # 9 categories are in no training image, 7 in no test image (counted in the annotations), others only beside newer
    named = " ".join(problems_of(lambda: stream(root, 136, tasks=5, classes_per_task=16)))
    for name in ("fire hydrant", "parking meter", "toaster", "apple", "hair drier", "surfboard", "giraffe"):
        assert name in named


def test_the_official_fields_are_read() -> None:
    root = shared("coco_official_fields")
    table = read_split(root, "val2017", "annotations/person_keypoints_val2017.json", Workspace())
    assert (table.classes, table.keys, len(table.corners)) == (
        ("person",),
        tuple(f"val2017/{n}.jpg" for n in ("000000000785", "000000040083", "000000196141", "000000197388")),
        14,
    )
    assert table.problems == ()
    # image 785 is 640 x 425; its box x 280.79, y 44.73, width 218.7, height 346.68 -> 280.79 / 640 = 0.43873, …
    assert table.record(0, {"person"}, "test").target == (Box("person", (439, 105, 780, 921)),)


# Three scripted policies on a generated set. Every image has its own class's box and, from task 2 on, a dog's.
DOG_BOX, OWN_BOX = (0.0, 0.0, 100.0, 50.0), (100.0, 50.0, 100.0, 50.0)  # thousandths 0..500 and 500..1000


def scripted(tmp_path: Path) -> TaskStream:
    images: list[Any] = [[("dog", *DOG_BOX)], [("zebra", *OWN_BOX)]]
    images += [[("dog", *DOG_BOX), (name, *OWN_BOX)] for name in ("cat", "apple", "cat", "apple")]
    write_coco(tmp_path, {"train2017": images, "val2017": images})
    return stream(tmp_path, shots=None)


def matrix(found: TaskStream, policy: Callable[[Task, str], str]) -> list[list[float]]:
    """Box AP of every task after every stage; the policy gets the stage's task and the item's key."""
    task_of = {label: task.index for task in found.tasks for label in task.classes}

    def cell(stage: Task, task: Task) -> float:
        def generate(requests: Any) -> list[str]:
            return [policy(stage, request.key) for request in requests]

        return task_accuracy(task, evaluate(generate, task, stage.seen, stage=stage.index, task_of=task_of)).value

    return [[cell(stage, task) for task in found.tasks[: stage.index]] for stage in found.tasks]


def test_scripted_policies_have_the_ap_and_rewards_that_are_derived_by_hand(tmp_path: Path) -> None:
    # The last class of the stage (zebra, then apple), always at 500..1000.
    # Stage 1, task 1 (all six images, a dog in all but the second): every image gets a zebra. zebra: the first image's
    #   is false, the second's true, precision 1/2 at recall 1 -> 0.5; dog: 0. Mean 0.25.
    # Stage 2, task 1: apples are said, which the task does not have: dog 0, zebra 0.
    # Stage 2, task 2 (test: cat, apple, cat, apple): apples rank false, true, false, true: precision at recall
    #   0.5 and at 1 is 2/4 -> 0.5 everywhere -> apple 0.5, cat 0. Mean 0.25.
    found = scripted(tmp_path)

    def newest(stage: Task, key: str) -> str:
        boxes = json.dumps([{"category": stage.classes[-1], "bbox": [500, 500, 1000, 1000]}])
        return f"<think>the newest</think><answer>{boxes}</answer>"

    assert [task.classes for task in found.tasks] == [("dog", "zebra"), ("cat", "apple")]
    assert matrix(found, newest) == [[pytest.approx(0.25)], [0.0, pytest.approx(0.25)]]
    # Rewards in task 2: one of two boxes found (apple: 1/2 + 1/2 + 1), or none (cat: 0 + 0 + 1).
    last = found.tasks[1]
    rewards = [score(newest(last, e.key), e.target, last.seen).reward for e in last.test]
    assert rewards == [1.0, 2.0, 1.0, 2.0]
    targets = {e.key: e.target for task in found.tasks for e in task.test}

    def perfect(stage: Task, key: str) -> str:
        completion = target_text(targets[key], labels=stage.seen)
        assert score(completion, targets[key], stage.seen).reward == 3.0
        return completion

    assert matrix(found, perfect) == [[pytest.approx(1.0)], [pytest.approx(1.0)] * 2]
    assert matrix(found, lambda stage, key: "<answer>[{") == [[0.0], [0.0, 0.0]]  # never parses


def test_boxes_become_corners_in_thousandths_cut_at_the_edge_and_others_are_left_out(tmp_path: Path) -> None:
    # 200 x 100 pixels: x 20..60 -> 100..300, y 10..30 -> 100..300; 12.5..37.5 -> 62.5 -> 62 (even), 187.5 -> 188
    images = [whole("dog"), [("cat", 12.5, 0, 25.0, 100)]]
    write_coco(tmp_path, {"train2017": images, "val2017": images})
    assert split_boxes(tmp_path) == {
        "train2017/000000.png": (Box("dog", (100, 100, 300, 300)),),
        "train2017/000001.png": (Box("cat", (62, 0, 188, 1000)),),
    }
    cut = [("dog", -20.0, 50.0, 120.0, 80.0), ("dog", 199.5, 0.0, 1.2, 10.0)]  # the second by less than a pixel
    gone = [("cat", 220.0, 10.0, 20.0, 20.0), ("cat", 10.0, 10.0, 0.0, 20.0), ("cat", 50.0, 50.0, -10.0, 10.0)]
    images = [[*cut, *gone], gone, whole("zebra"), whole("apple")]
    write_coco(tmp_path, {"train2017": images, "val2017": ONE_OF_EACH})
    assert split_boxes(tmp_path)["train2017/000000.png"] == (
        Box("dog", (0, 500, 500, 1000)),
        Box("dog", (998, 0, 1000, 100)),
    )
    notes = stream(tmp_path, allow_empty_classes=True).notes
    assert "train2017: 6 boxes left out: without area in their image" in notes
    # the dog, and the cat at 220 of 200 pixels in two images
    assert "train2017: 3 boxes reach out of their image by more than 1 pixel and are cut at its edge" in notes
    assert "train2017: 1 images without boxes left out: train2017/000001.png" in notes
    path = write(tmp_path)
    write_coco(tmp_path, {"train2017": [*ONE_OF_EACH, [*whole("dog"), *whole("cat")]], "val2017": ONE_OF_EACH})
    change(path, lambda data: [row.update(iscrowd="0") for row in data["annotations"]])  # texts are numbers too
    change(path, lambda data: data["annotations"][4].update(iscrowd="1"))
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")  # as some editors write it
    assert [box.category for box in split_boxes(tmp_path)["train2017/000004.png"]] == ["cat"]
    assert "train2017: 1 boxes left out: crowds" in stream(tmp_path).notes


def test_any_set_of_that_form_is_read_by_its_names_with_a_class_order_over_names_or_ids(tmp_path: Path) -> None:
    write_coco(tmp_path, {"learn": ONE_OF_EACH, "try": ONE_OF_EACH})
    folders = {"train_images": "learn", "test_images": "try"}
    by_name, by_id = stream(tmp_path, **folders), stream(tmp_path, order_over="ids", **folders)
    # RandomState(0).permutation(4) = [2, 3, 1, 0]; by id: cat 17, dog 18, zebra 24, apple 53
    assert [label for task in by_name.tasks for label in task.classes] == ["dog", "zebra", "cat", "apple"]
    assert [label for task in by_id.tasks for label in task.classes] == ["zebra", "apple", "dog", "cat"]
    assert {e.key.split("/")[0] for task in by_name.tasks for e in task.train} == {"learn"}
    with pytest.raises(UserError, match=r"annotations: got 'a\.json', expected a path with \{images\} in it"):
        stream(tmp_path, annotations="a.json")


def test_what_was_parsed_is_kept_until_the_annotations_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, kept = tmp_path / "root", Workspace(tmp_path / "cache")
    path = write(root)
    first = stream(root, workspace=kept)
    files = sorted((tmp_path / "cache").glob("boxes-*.npz"))
    assert len(files) == 2
    with monkeypatch.context() as patch:
        patch.setattr("task_streams.datasets.coco._category_names", lambda *given: pytest.fail("parsed again"))
        assert fingerprints(stream(root, workspace=kept)) == fingerprints(first)
        assert stream(root, workspace=kept).notes == first.notes
    change(path, lambda data: data["annotations"][0].update(bbox=[0, 0, 200, 100]))
    changed = fingerprints(stream(root, workspace=kept))
    assert changed != fingerprints(first)
    files[0].write_bytes(b"PK damaged")
    with files[1].open("wb") as file:  # nothing is unpickled: the path would be touched
        np.savez(file, head=np.array([Trap(tmp_path / "sprung")], dtype=object))
    assert fingerprints(stream(root, workspace=kept)) == changed
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(UserError, match=r"annotations/boxes-.*\.npz: what was parsed cannot be kept in the cache"):
        stream(root, workspace=Workspace(path / "annotations"))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_what_is_no_coco_json_or_lists_other_classes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    lists = "the lists images, annotations, categories; found annotations, images"
    other = '{"images": [], "annotations": [], "categories": [{"id": 17, "name": "cat"}]}'
    for text, said in (
        ("[]", "found list"),
        ('{"images": [], "annotations": {}}', lists),
        ('{"images": [', "expected COCO annotations as JSON"),
        ("[" * 100_000, "expected COCO annotations as JSON"),
        (other, "coco_cil: training and test split list other classes: apple, dog, zebra"),
    ):
        path.write_text(text)
        told = " ".join(problems_of(lambda: stream(tmp_path)))
        assert said in told and (str(path) in told or "coco_cil" in told)


def turn_by_exif(root: Path, orientation: int, number: int = 0) -> None:
    """Give an image of each split an EXIF orientation; its stored pixels stay 200 x 100."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for split in ("train2017", "val2017"):
        path = root / split / f"{number:06d}.png"
        with Image.open(path) as image:
            image.load()
            image.save(path, exif=exif)


def declare(root: Path, width: float, height: float) -> None:
    for split in ("train2017", "val2017"):
        path = root / f"annotations/instances_{split}.json"
        change(path, lambda data: data["images"][0].update(width=width, height=height))


def first_box(root: Path, **settings: Any) -> tuple[int, ...]:
    """Corners of the first training image's box, as its task has it."""
    examples = {e.key: e.target for task in stream(root, **settings).tasks for e in task.train}
    return examples["train2017/000000.png"][0].corners  # type: ignore[index,union-attr,return-value]


@pytest.mark.parametrize(
    ("orientation", "corners"),
    [
        # x 100..300, y 100..200 of the stored image; a quarter turn clockwise (6): x 1000 - y, y = x
        (1, (100, 100, 300, 200)),
        (5, (100, 100, 200, 300)),
        (6, (800, 100, 900, 300)),
        (7, (800, 700, 900, 900)),
        (8, (100, 700, 200, 900)),
    ],
)
def test_boxes_of_the_stored_image_are_turned_with_it(
    tmp_path: Path, orientation: int, corners: tuple[int, ...]
) -> None:
    images = [whole("apple", 20, 10, 40, 10), *ONE_OF_EACH[1:]]
    write_coco(tmp_path, {"train2017": images, "val2017": images})
    turn_by_exif(tmp_path, orientation)
    cached = Workspace(tmp_path / "cache")
    for workspace in (cached, cached):  # with the index as without
        found = stream(tmp_path, workspace=workspace)
        examples = {e.key: e.target for task in found.tasks for e in task.train}
        assert examples["train2017/000000.png"] == (Box("apple", corners),)  # type: ignore[arg-type]
        told = (
            "2 images are turned by EXIF, and their boxes, which are of the stored pixels, with them: train2017/000000"
        )
        assert any(note.startswith(told) for note in found.notes) == (orientation > 1)
    if orientation > 1:  # declared as it is shown: as annotated
        declare(tmp_path, 100, 200)
        assert first_box(tmp_path) == (200, 50, 600, 100)
        declare(tmp_path, 200, 100)
        assert "declared as 200 x 100, but the image is 100 x 200 (200 x 100 before EXIF turns it)" in " ".join(
            problems_of(lambda: stream(tmp_path, box_frame="upright"))
        )


def test_a_half_turn_needs_the_setting_and_a_size_that_is_not_the_files_is_refused_or_left_out(tmp_path: Path) -> None:
    write(tmp_path)
    turn_by_exif(tmp_path, 3)
    told = list(problems_of(lambda: stream(tmp_path))[1:3])
    why = (
        "EXIF turns it, and declared as 200 x 100 its boxes may be of either frame; set box_frame to upright or stored"
    )
    assert told == [f"train2017/000000.png ({why})", f"val2017/000000.png ({why})"]
    assert first_box(tmp_path, box_frame="upright") == (100, 100, 300, 300)
    assert first_box(tmp_path, box_frame="stored") == (700, 700, 900, 900)
    declare(tmp_path, 100, 200)
    told = list(problems_of(lambda: stream(tmp_path, box_frame="stored")))
    assert "train2017/000000.png (declared as 100 x 200, but the image is 200 x 100)" in told
    found = stream(tmp_path, on_damaged="skip", allow_empty_classes=True)
    assert "train2017/000000.png" not in {e.key for task in found.tasks for e in task.train}
    assert any(note.startswith("2 damaged items skipped: train2017/000000.png (declared as") for note in found.notes)
