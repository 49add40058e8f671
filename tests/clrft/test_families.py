"""Every family of tasks through the runner's own stages, with policies whose matrices can be derived by hand."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from task_streams import STREAMS, build_stream
from task_streams.prompt import in_style, target_text
from task_streams.prompt_style import prompt_style
from task_streams.types import Box, Clip, Example, Kind, Question, Target, Task, TaskStream
from tests.scripted import Script, matrix_of, never_parses

NAN = float("nan")


def stream_of(kind: Kind, items: Sequence[Sequence[Target]], classes: Sequence[tuple[str, ...]]) -> TaskStream:
    """Tasks with the given test targets and classes; prompts list the classes so far."""
    tasks = []
    for index, (targets, new) in enumerate(zip(items, classes, strict=True), start=1):
        seen = tuple(sorted(name for part in classes[:index] for name in part))
        frame = Image.new("RGB", (8, 8))
        media = partial(Clip, (frame, frame), fps=2.0) if kind == "classification" else frame.copy
        test = tuple(Example(f"{index}/{n}", target, media, f"{index}/{n}") for n, target in enumerate(targets))
        tasks.append(Task(index, f"task{index}", new, seen, (), test, kind))
    return TaskStream(kind, "til" if kind == "question" else "cil", 0, tuple(tasks))


def digits(name: str) -> TaskStream:
    return build_stream(name, STREAMS[name].config(shots=2, test_per_class=4), 1993)


def clips() -> TaskStream:
    targets = [["run", "run", "jump", "jump"], ["sing", "sing", "wave", "wave"]]
    return stream_of("classification", targets, [("run", "jump"), ("sing", "wave")])


WHOLE = (0, 0, 1000, 1000)
CORNER = (0, 0, 200, 200)


def boxes() -> TaskStream:
    first = [(Box("cat", WHOLE),), (Box("dog", CORNER), Box("dog", WHOLE))]
    second = [(Box("bird", CORNER), Box("cat", CORNER)), (Box("car", WHOLE),)]
    return stream_of("detection", [first, second], [("cat", "dog"), ("bird", "car")])


def questions() -> TaskStream:
    first = [Question("What colour?", ("red",)), Question("How many?", ("4",), "relaxed_number")]
    second = [Question("Which animal?", ("a cat", "cat")), Question("Is it day?", ("yes",))]
    return stream_of("question", [first, second], [(), ()])


FAMILIES = {
    "images, new classes": lambda: digits("digits_cil"),
    "images, new domains": lambda: digits("digits_dil"),
    "clips": clips,
    "boxes": boxes,
    "questions": questions,
}


def lower_triangle(value: float, size: int) -> list[list[float]]:
    return [[value if j <= i else NAN for j in range(size)] for i in range(size)]


STYLES = [(family, "suite") for family in FAMILIES]
STYLES += [(family, f"rapo_{of}") for family in FAMILIES for of in ("paper", "released") if family != "questions"]


@pytest.mark.parametrize(("family", "style"), STYLES)
@pytest.mark.parametrize("value", [1.0, 0.0])
def test_perfect_policies_score_one_and_those_that_never_parse_zero_in_every_style(
    family: str, style: str, value: float, tmp_path: Path
) -> None:
    stream = in_style(FAMILIES[family](), prompt_style(style))
    words: dict[str, Any] = {"style": stream.tasks[0].style, "labels": stream.labels}

    def perfect(example: Example, listed: Sequence[str], stage: int) -> str:
        return target_text(example.target, **words)

    matrix = matrix_of(perfect if value else never_parses, stream, tmp_path)
    assert np.allclose(matrix.value, lower_triangle(value, len(stream)), rtol=0, atol=1e-12, equal_nan=True)
    counted = not np.isnan(matrix.total[0, 0])
    assert counted == (family != "boxes")  # AP is no share of right answers


def newest_class(stream: TaskStream) -> Script:
    """Always the last class of the newest task, for boxes as one box of the whole image."""

    def script(example: Example, listed: Sequence[str], stage: int) -> str:
        name = stream.tasks[max(stage, 1) - 1].classes[-1]
        target: Target = (Box(name, WHOLE),) if isinstance(example.target, tuple) else name
        return target_text(target, labels=listed)

    return script


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_list_the_classes_taught_so_far_whatever_task_is_tested(family: str, tmp_path: Path) -> None:
    stream = FAMILIES[family]()
    asked: dict[int, set[tuple[str, ...]]] = {}

    def script(example: Example, listed: Sequence[str], stage: int) -> str:
        asked.setdefault(stage, set()).add(tuple(listed))
        return never_parses(example, listed, stage)

    matrix_of(script, stream, tmp_path)
    for stage in range(1, len(stream) + 1):
        taught = {name for task in stream.tasks[:stage] for name in task.classes}
        everything = tuple(sorted(stream.labels))  # the newest task is asked once more under the final list
        assert asked[stage] == {tuple(sorted(taught)), everything}


def test_a_task_is_judged_on_its_own_classes_of_boxes(tmp_path: Path) -> None:
    stream = boxes()

    def blind_to_old_classes(example: Example, listed: Sequence[str], stage: int) -> str:
        assert isinstance(example.target, tuple)
        new = tuple(box for box in example.target if box.category in stream.tasks[stage - 1].classes)
        return target_text(new, labels=listed)

    matrix = matrix_of(blind_to_old_classes, stream, tmp_path)
    # the cat beside the bird in task 2 is missed, and counts for nothing there: cat is task 1's class
    assert matrix.value[0, 0] == pytest.approx(1.0, abs=1e-12)
    assert matrix.value[1].tolist() == pytest.approx([0.0, 1.0], abs=1e-12)


@pytest.mark.parametrize("family", ["images, new classes", "clips"])
def test_always_the_newest_class_is_right_on_its_share_of_the_newest_task_only(family: str, tmp_path: Path) -> None:
    stream = FAMILIES[family]()
    matrix = matrix_of(newest_class(stream), stream, tmp_path)
    # two classes a task with as many items each: half of the newest task is right, nothing of the others
    size = len(stream)
    expected = [[0.5 if j == i else (0.0 if j < i else NAN) for j in range(size)] for i in range(size)]
    assert np.array_equal(matrix.value, expected, equal_nan=True)


def test_always_one_class_is_right_on_a_tenth_of_every_domain(tmp_path: Path) -> None:
    stream = digits("digits_dil")
    matrix = matrix_of(lambda example, listed, stage: target_text("seven"), stream, tmp_path)
    assert np.array_equal(matrix.value, lower_triangle(0.1, len(stream)), equal_nan=True)


def test_always_a_box_of_the_newest_class_has_the_average_precision_derived_by_hand(tmp_path: Path) -> None:
    stream = boxes()
    matrix = matrix_of(newest_class(stream), stream, tmp_path)
    # Stage 1, "dog" over the whole of both images. dog: two objects, both in the second image. All predictions have
    # one confidence, so they rank in order of listing: the first image's is false, the second's true. Precision is
    # 1/2 at recall 1/2 and nothing beyond: of the 101 recall points 0.00 to 0.50 (51 of them) have precision 1/2:
    # AP = 51 * 0.5 / 101. cat: no prediction, AP 0. Mean over the task's two classes.
    dog = 51 * 0.5 / 101
    # Stage 2, "car" everywhere. Task 1 has no car: 0. Task 2: bird 0; car: first prediction false, second true, one
    # object: precision 1/2 at every recall point: AP = 1/2. Mean: 1/4.
    assert matrix.value[0, 0] == pytest.approx(dog / 2, abs=1e-12)
    assert matrix.value[1].tolist() == pytest.approx([0.0, 0.25], abs=1e-12)
