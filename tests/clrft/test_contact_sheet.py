"""Pages that a person looks through: what stands on them is counted by the colours of its bars."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

from clrft.cli.contact_sheet import OTHER_BOX, OWN_BOX, PAGE_HEIGHT, TEST_BAR, TRAIN_BAR, _font, _wrapped, sheets
from task_streams.errors import UserError
from task_streams.sources.records import Damaged
from task_streams.types import Box, Clip, Example, Kind, Question, Target, Task, TaskStream

Colour = tuple[int, int, int]


def example(number: int, target: Target, media: Callable[[], Image.Image | Clip] | None = None) -> Example:
    return Example(f"k/{number}", target, media or partial(Image.new, "RGB", (60, 40), (9, 9, 9)), str(number))


def stream(train: list[Example], test: list[Example], classes: tuple[str, ...], kind: Kind) -> TaskStream:
    task = Task(1, "only", classes, classes, tuple(train), tuple(test), kind)
    return TaskStream("made", "cil", 7, (task,))


def pages(made: TaskStream, per_class: int = 2) -> list[Image.Image]:
    return list(sheets(made, made.tasks[0], per_class))


def bars(page: Image.Image, colour: Colour) -> int:
    """Number of bars of a colour below pictures; the legend's own is not counted."""
    mask = (np.asarray(page)[70:] == colour).all(axis=2)  # [H, W]
    begins = mask.copy()
    begins[:, 1:] &= ~mask[:, :-1]
    begins[1:] &= ~mask[:-1]
    return int(begins.sum())


def test_every_class_has_its_training_and_test_items_and_no_more_than_asked() -> None:
    items = [example(i, "ab"[i % 2]) for i in range(10)]
    (page,) = pages(stream(items, items[:2], ("a", "b"), "classification"), 3)
    # 2 classes: 3 of 5 training items each, and their only test item each
    assert (bars(page, TRAIN_BAR), bars(page, TEST_BAR)) == (6, 2)


def test_many_classes_are_spread_over_pages() -> None:
    names = tuple(f"c{i:03d}" for i in range(70))
    items = [example(i, names[i % 70]) for i in range(280)]
    found = pages(stream(items, items, names, "classification"), 4)
    # 8 pictures of 96 + 4 pixels a class: two classes a row, 35 rows of 131 pixels, 15 rows a page
    assert [bars(page, TRAIN_BAR) for page in found] == [120, 120, 40]
    assert [bars(page, TEST_BAR) for page in found] == [120, 120, 40]
    assert all(page.height <= PAGE_HEIGHT + 100 for page in found)


def test_boxes_are_drawn_for_every_class_that_an_image_shows() -> None:
    both = (Box("cat", (0, 0, 500, 500)), Box("dog", (500, 500, 1000, 1000)))
    items = [example(0, both), example(1, both[:1])]
    (page,) = pages(stream(items, [], ("cat", "dog"), "detection"))
    assert bars(page, TRAIN_BAR) == 3  # two images with a cat, one with a dog
    colours = {colour for _, colour in page.getcolors(2**20) or []}
    assert OWN_BOX in colours
    (bare,) = pages(stream([example(0, "cat")], [], ("cat", "dog"), "classification"))
    assert OWN_BOX not in {colour for _, colour in bare.getcolors(2**20) or []}


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_clip_is_shown_by_up_to_four_of_its_frames(count: int) -> None:
    frames = tuple(Image.new("RGB", (88, 66), (10 * i, 200, 0)) for i in range(count))
    item = example(0, "run", lambda: Clip(frames, 2.0))
    (page,) = pages(stream([item], [], ("run",), "classification"))
    shown = {colour[0] for _, colour in page.getcolors(2**20) or [] if colour[1:] == (200, 0)}
    # of 9 frames the places 0, 8/3, 16/3, 8, rounded
    assert shown == {1: {0}, 2: {0, 10}, 9: {0, 30, 50, 80}}[count]


def test_questions_stand_below_their_images() -> None:
    asked = Question("How many?\nAnswer with a number.", ("two", "2"))
    (page,) = pages(stream([example(i, asked) for i in range(3)], [example(9, asked)], (), "question"))
    assert (bars(page, TRAIN_BAR), bars(page, TEST_BAR)) == (2, 1)


def test_a_class_without_items_and_an_empty_task_still_make_a_page() -> None:
    (page,) = pages(stream([example(0, "a")], [], ("a", "b"), "classification"))
    assert bars(page, TRAIN_BAR) == 1
    (empty,) = pages(stream([], [], (), "question"))
    assert bars(empty, TRAIN_BAR) == 0


def test_an_item_that_was_damaged_meanwhile_is_named() -> None:
    def broken() -> Image.Image:
        raise Damaged("cut off")

    with pytest.raises(UserError, match=r"k/3 cannot be decoded any more \(cut off\)"):
        pages(stream([example(3, "a", broken)], [], ("a",), "classification"))


def test_long_texts_are_wrapped_and_cut() -> None:
    lines = _wrapped("word " * 200 + "x" * 500, _font(13), 100, 3)
    assert len(lines) == 3
    assert all(_font(13).getlength(line) <= 100 for line in lines)
    assert lines[-1].endswith("…")


def test_training_shows_the_boxes_that_are_trained_on_and_testing_those_of_all_classes() -> None:
    target = (Box("cat", (0, 0, 500, 500)), Box("dog", (500, 500, 1000, 1000)))
    shown = []
    for train, test in (([example(0, target)], []), ([], [example(0, target)])):
        task = Task(2, "cat", ("cat",), ("cat", "dog"), tuple(train), tuple(test), "detection", "new_only")
        (page,) = sheets(TaskStream("made", "cil", 7, (task,)), task, 2)
        shown.append({colour for _, colour in page.getcolors(2**20) or []} & {OWN_BOX, OTHER_BOX})
    assert shown == [{OWN_BOX}, {OWN_BOX, OTHER_BOX}]
