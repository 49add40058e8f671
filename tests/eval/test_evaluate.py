"""The evaluator: every item asked once, every prediction kept, images decoded a few batches ahead."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import Image

from eval.evaluate import WINDOW, Generate, Prediction, evaluate
from task_streams.errors import UserError
from task_streams.prompt import Request, target_text
from task_streams.types import Example, Task

SEEN = ("eight", "one", "three", "two")
TASK_OF = {"one": 1, "two": 1, "three": 2, "eight": 2}


def make_task(labels: Sequence[str], decoded: list[str] | None = None, sides: Sequence[int] = ()) -> Task:
    """Task 1 with one test item per label; the names of decoded items are appended to ``decoded``."""

    def example(number: int, label: str) -> Example:
        def image() -> Image.Image:
            if decoded is not None:
                decoded.append(f"i/{number}")
            side = sides[number] if sides else 4
            return Image.new("RGB", (side, side))

        return Example(f"i/{number}", label, image, "")

    test = tuple(example(number, label) for number, label in enumerate(labels))
    return Task(1, "one+two", ("one", "two"), ("one", "two"), (), test)


def always_eight(requests: Sequence[Request]) -> list[str]:
    return [target_text("eight") for _ in requests]


def telling(log: list[Any], what: Callable[[Sequence[Request]], Any]) -> Generate:
    """The same policy, which notes something about each batch."""

    def generate(requests: Sequence[Request]) -> list[str]:
        log.append(what(requests))
        return always_eight(requests)

    return generate


def test_the_policy_gets_batches_in_order_and_progress_is_reported_after_each() -> None:
    sizes: list[int] = []
    done: list[int] = []
    generate, task = telling(sizes, len), make_task(["one"] * 5)
    found = evaluate(generate, task, SEEN, stage=1, task_of=TASK_OF, batch_size=2, on_batch=done.append)
    assert sizes == done == [2, 2, 1]
    assert [prediction.key for prediction in found] == [f"i/{n}" for n in range(5)]
    sizes.clear()
    evaluate(generate, make_task(["one"] * 10), SEEN, stage=1, task_of=TASK_OF, batch_size=8)
    assert sizes == [5, 5]  # of about one size


def test_images_are_decoded_a_few_batches_ahead_of_the_model() -> None:
    decoded: list[str] = []
    seen_by_policy: list[int] = []
    generate = telling(seen_by_policy, lambda requests: len(decoded))
    evaluate(generate, make_task(["one"] * 50, decoded), SEEN, stage=1, task_of=TASK_OF, batch_size=2)
    assert len(decoded) == 50  # each once
    for batch, count in enumerate(seen_by_policy):
        window = batch // WINDOW
        assert 2 * (batch + 1) <= count <= 2 * WINDOW * (window + 2)


def test_questions_of_about_one_length_share_a_batch_and_predictions_keep_their_order() -> None:
    sides = (4, 400, 8, 300, 6, 500, 2)
    asked: list[list[int]] = []

    def generate(requests: Sequence[Request]) -> list[str]:
        asked.append([request.images[0].width for request in requests])
        return [target_text("one" if request.images[0].width > 100 else "two") for request in requests]

    task = make_task(["one"] * 7, sides=sides)
    found = evaluate(generate, task, SEEN, stage=1, task_of=TASK_OF, batch_size=3)
    assert asked == [[2, 4, 6], [8, 300, 400], [500]]
    assert [prediction.key for prediction in found] == [f"i/{number}" for number in range(7)]
    assert [prediction.correct for prediction in found] == [side > 100 for side in sides]


def test_the_policy_gets_images_in_the_models_size_and_the_given_classes_in_the_given_order() -> None:
    asked: list[tuple[tuple[int, int], str]] = []
    generate = telling(asked, lambda some: (some[0].images[0].size, some[0].messages[0]["content"][1]["text"]))

    def halved(image: Image.Image) -> Image.Image:
        return image.resize((image.width // 2, image.height // 2))

    evaluate(generate, make_task(["one"]), ("two", "one"), stage=1, task_of=TASK_OF | {"eight": 1}, fit=halved)
    ((size, question),) = asked
    assert size == (2, 2) and "Choose from: two, one." in question


def test_nothing_to_ask_and_a_lost_completion_are_errors() -> None:
    with pytest.raises(UserError, match=r"task 1 .* has no test items"):
        evaluate(always_eight, make_task([]), SEEN, stage=1, task_of=TASK_OF)
    with pytest.raises(ValueError, match="shorter"):
        evaluate(lambda requests: [], make_task(["one"]), SEEN, stage=1, task_of=TASK_OF)


def test_predictions_keep_item_completion_answer_and_reason_and_survive_their_rows() -> None:
    first, second = evaluate(always_eight, make_task(["one", "eight"]), SEEN, stage=2, task_of=TASK_OF)
    assert first == Prediction(2, 1, "i/0", "one", target_text("eight"), "eight", False, "newest_task")
    assert (second.key, second.correct, second.failure) == ("i/1", True, "none")
    prediction = Prediction(2, 1, "i/0", "one", "?", None, False, "format")
    assert Prediction.from_json(prediction.to_json()) == prediction
    for change in ({"failure": "tired"}, {"correct": 1}, {"extra": 1}):
        with pytest.raises(UserError, match="damaged prediction"):
            Prediction.from_json(prediction.to_json() | change)
