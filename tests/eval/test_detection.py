"""Rewards of boxes, and their average precision."""

import json
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from eval.detection import match_boxes, parse_boxes, score_detection
from eval.evaluate import Prediction
from eval.task_accuracy import average_precision
from task_streams.prompt import target_text
from task_streams.prompt_style import prompt_style
from task_streams.types import Box
from tests.coco_judge import Rows

DOG = Box("dog", (0, 0, 400, 400))
CAT = Box("hot_cat", (500, 500, 900, 900))
LABELS = ("bird", "dog", "hot_cat")


def reply(rows: Any, thought: str = "a dog") -> str:
    answer = rows if isinstance(rows, str) else json.dumps(rows)
    return f"<think>{thought}</think><answer>{answer}</answer>"


def row(category: str, *corners: float) -> dict[str, Any]:
    return {"category": category, "bbox": list(corners)}


def parts(completion: str, boxes: tuple[Box, ...], labels: tuple[str, ...] = LABELS) -> tuple[float, float, float]:
    found = score_detection(completion, boxes, labels).components
    assert tuple(found) == ("iou", "category", "format")
    return found["iou"], found["category"], found["format"]


def test_iou_and_category_rewards_are_divided_by_the_larger_number_of_boxes_and_below_half_iou_alone_counts() -> None:
    # dog: 400 x 300 of 400 x 400 -> IoU 0.75; cat: none; bird is no match. n = max(2 right, 2 predicted) = 2
    completion = reply([row("dog", 0, 0, 400, 300), row("bird", 500, 500, 900, 900)])
    assert parts(completion, (DOG, CAT)) == pytest.approx((0.375, 0.5, 1.0))
    # the same with a third, wrong box: n = 3
    completion = reply([row("dog", 0, 0, 400, 300), row("bird", 1, 1, 9, 9), row("bird", 2, 2, 9, 9)])
    assert parts(completion, (DOG, CAT)) == pytest.approx((0.25, 1 / 3, 1.0))
    assert not score_detection(completion, (DOG, CAT), LABELS).correct
    # 400 x 199 of 400 x 400 -> 0.4975; 400 x 200 -> 0.5 just counts
    assert parts(reply([row("dog", 0, 0, 400, 199)]), (DOG,)) == pytest.approx((0.4975, 0.0, 1.0))
    assert parts(reply([row("dog", 0, 0, 400, 200)]), (DOG,)) == pytest.approx((0.5, 1.0, 1.0))


def test_matching_is_one_to_one_with_the_greatest_sum_as_one_assignment_per_category_has() -> None:
    # Two dogs side by side, A = 0..100 and B = 50..150 (of height 100). Predicted: P = A, Q = 0..60.
    # IoU: A-P 1, B-P 50/150 = 1/3, A-Q 60/100 = 0.6, B-Q 10/150 = 1/15.
    # A-P + B-Q = 1.0667 beats A-Q + B-P = 0.9333.
    right = [Box("dog", (0, 0, 100, 100)), Box("dog", (50, 0, 150, 100))]
    found = [Box("dog", (0, 0, 100, 100)), Box("dog", (0, 0, 60, 100))]
    assert match_boxes(right, found) == pytest.approx(((1 + 1 / 15) / 2, 0.5))
    # the same box said twice finds one of two
    assert match_boxes(right, [found[0], found[0]]) == pytest.approx(((1 + 1 / 3) / 2, 0.5))
    random = np.random.RandomState(0)
    for _ in range(10):
        right, found = (_random_boxes(random, random.randint(1, 9)) for _ in range(2))
        total = 0.0
        for name in ("dog", "cat"):
            pair = [[box for box in boxes if box.category == name] for boxes in (right, found)]
            overlap = np.array([[_iou(a, b) for b in pair[1]] for a in pair[0]]).reshape(len(pair[0]), len(pair[1]))
            total += overlap[linear_sum_assignment(-overlap)].sum()
        assert match_boxes(right, found)[0] == pytest.approx(total / max(len(right), len(found)))


def _random_boxes(random: np.random.RandomState, count: int) -> list[Box]:
    starts, sizes = random.randint(0, 500, (count, 2)), random.randint(1, 500, (count, 2))
    corners = np.hstack([starts, starts + sizes]).tolist()
    return [Box(str(random.choice(["dog", "cat"])), (x1, y1, x2, y2)) for x1, y1, x2, y2 in corners]


def _iou(a: Box, b: Box) -> float:
    """By counting unit squares, independent of the arithmetic under test."""
    squares = np.zeros((2, 1000, 1000), dtype=bool)
    for plane, (x1, y1, x2, y2) in zip(squares, (a.corners, b.corners), strict=True):
        plane[x1:x2, y1:y2] = True
    return float((squares[0] & squares[1]).sum() / (squares[0] | squares[1]).sum())


def test_a_supervised_target_has_the_full_reward_and_categories_are_compared_as_labels() -> None:
    judged = score_detection(target_text((DOG, CAT), labels=LABELS), (DOG, CAT), LABELS)
    assert (judged.correct, judged.reward, judged.outside) == (True, 3.0, False)
    judged = score_detection(reply([row(" Hot-Cat ", 500, 500, 900, 900)]), (CAT,), LABELS)
    assert (judged.correct, judged.outside) == (True, False)
    assert json.loads(judged.answer or "") == [row("hot_cat", 500, 500, 900, 900)]
    assert score_detection(reply([row("dog", 0, 0, 400, 400)]), (DOG, CAT), ("dog",)).reward == 3.0
    judged = score_detection(reply([row("dog", 0, 0, 400, 400), row("hot_cat", *CAT.corners)]), (DOG, CAT), ("dog",))
    assert judged.outside and not judged.correct
    assert judged.components == pytest.approx({"iou": 0.5, "category": 0.5, "format": 1.0})


def test_nothing_there_and_nothing_predicted_is_right_if_it_parses_and_wrong_tags_cost_the_format_alone() -> None:
    assert score_detection(reply([]), (), LABELS).reward == 3.0
    assert score_detection(reply([]), (CAT,), ("dog",)).correct
    for answer in ("", "none", "[", "{}"):
        judged = score_detection(reply(answer), (), LABELS)
        assert (judged.correct, judged.answer) == (False, None)
        assert judged.components == {"iou": 0.0, "category": 0.0, "format": 0.5}
    assert score_detection("nothing", (), LABELS).reward == 0.0
    assert parts(reply([row("dog", 0, 0, 9, 9)]), ()) == parts(reply([]), (DOG,)) == (0.0, 0.0, 1.0)
    answer = json.dumps([row("dog", 0, 0, 400, 400)])
    assert parts(f"so: <answer>{answer}</answer>", (DOG,)) == (1.0, 1.0, 0.0)
    assert parts(f"so: <answer>{answer[:-1]}</answer>", (DOG,)) == (0.0, 0.0, 0.0)
    assert parts(reply([row("dog", 0, 0, 400, 400)], "your reasoning"), (DOG,)) == (1.0, 1.0, 0.0)
    silent = prompt_style("suite", think=False)
    assert score_detection(f"<answer>{answer}</answer>", (DOG,), LABELS, silent).reward == 3.0


NO_LISTS = [
    "[{'category': 'dog', 'bbox': [0, 0, 400, 400]}]",  # single quotes
    '[{"category": "dog", "bbox": [0, 0, 400, 400]},]',  # trailing comma
    '[{"category": "dog", "bbox": [NaN, 0, 400, 400]}]',
    '[{"category": "dog", "bbox": [0, 0, Infinity, 400]}]',
    '{"category": "dog", "bbox": [0, 0, 400, 400]}',
    "[" * 100_000,
    "[" * 100_000 + "]" * 100_000,
    '[{"category": "dog", "bbox": [0, 0, 400, ' + "9" * 5000 + "]}]",  # more digits than Python converts
    "```json\n[]\n```",
]


NO_BOXES: list[Any] = [
    None, 3, "dog", [0, 0, 400, 400], {"category": "dog"},
    {"category": 3, "bbox": [0, 0, 400, 400]}, {"category": ["dog"], "bbox": [0, 0, 400, 400]},
    row("dog", 0, 0, 400), row("dog", 0, 0, 400, 400, 400), row("dog", False, False, True, True),
    {"category": "dog", "bbox": ["0", "0", "400", "400"]}, {"category": "dog", "bbox": [0, 0, 400, None]},
    {"category": "dog", "bbox": {"x1": 0}},
    row("dog", 400, 0, 0, 400), row("dog", 10, 10, 10, 20),  # corners the wrong way round, no width
    row("dog", 1200, 1200, 1300, 1300),  # outside
]  # fmt: skip


def test_what_is_no_strict_json_list_does_not_parse_what_is_no_box_is_passed_over_and_corners_are_clipped() -> None:
    for answer in NO_LISTS:
        assert parse_boxes(answer) is None, answer[:80]
        assert parts(reply(answer), (DOG,)) == (0.0, 0.0, 0.5), answer[:80]
    for entry in NO_BOXES:
        assert parts(reply([entry, row("dog", 0, 0, 400, 400)]), (DOG,)) == (1.0, 1.0, 1.0), entry
    found = parse_boxes(f'[{{"category": "dog", "bbox": [-7, 0.4, 1e999, {"9" * 400}]}}]')
    assert found == [Box("dog", (0, 0, 1000, 1000))]
    judged = score_detection(reply('[{"category": "\\ud800", "bbox": [0, 0, 9, 9]}]'), (DOG,), LABELS)
    assert judged.outside
    assert json.loads((judged.answer or "").encode().decode()) == [row("?", 0, 0, 9, 9)]


LEFT, RIGHT = (0, 0, 400, 400), (500, 500, 900, 900)


def prediction(right: Rows, found: Rows | None, key: str = "a.jpg") -> Prediction:
    label, answer = (
        None if rows is None else json.dumps([{"category": name, "bbox": list(corners)} for name, corners in rows])
        for rows in (right, found)
    )
    return Prediction(1, 1, key, label or "", "", answer, False, "wrong")


# Boxes that are right, and those found, of each image; the categories asked about; AP over ten IoU, AP at IoU 0.50.
HAND: dict[str, tuple[list[tuple[Rows, Rows | None]], list[str], float, float]] = {
    "perfect": ([([("dog", LEFT), ("cat", RIGHT)],) * 2, ([("dog", RIGHT)],) * 2, ([], [])], ["dog", "cat"], 1.0, 1.0),
    # precision 1 up to recall 0.5: 51 of the 101 recalls 0, 0.01, …, 1
    "one of two": ([([("dog", LEFT), ("dog", RIGHT)], [("dog", LEFT)])], ["dog"], 51 / 101, 51 / 101),
    # confidence is the same for all, so boxes rank as listed: precision 0/1, then 1/2 at recall 1
    "a false box first": ([([("dog", LEFT)], [("dog", RIGHT), ("dog", LEFT)])], ["dog"], 0.5, 0.5),
    # listed after it, recall 1 is reached at precision 1
    "a false box last": ([([("dog", LEFT)], [("dog", LEFT), ("dog", RIGHT)])], ["dog"], 1.0, 1.0),
    # the same over two images, in the order of the predictions, not of their keys
    "a false image first": ([([], [("dog", RIGHT)]), ([("dog", LEFT)],) * 2], ["dog"], 0.5, 0.5),
    # 100 x 72 of 100 x 100: IoU 0.72 passes 0.50, 0.55, 0.60, 0.65, 0.70 of ten thresholds
    "a loose box": ([([("dog", (0, 0, 100, 100))], [("dog", (0, 0, 100, 72))])], ["dog"], 0.5, 1.0),
    # dog 1, cat 0 (in the image, not found); bird is not in the image: left out, whatever is predicted; cow not asked
    "asked and there": (
        [([("dog", LEFT), ("cat", RIGHT), ("cow", LEFT)], [("dog", LEFT), ("bird", RIGHT)])],
        ["dog", "cat", "bird"], 0.5, 0.5,
    ),
    "no answer": ([([("dog", LEFT)], None)], ["dog"], 0.0, 0.0),
    "compared as labels are": ([([("hot_dog", LEFT)], [("Hot Dog", LEFT)])], ["hot-dog"], 1.0, 1.0),
    # 99 false boxes, then the right one: precision 1/100 at recall 1; behind 100 false ones it is not looked at
    "the hundredth box": ([([("dog", LEFT)], [*[("dog", RIGHT)] * 99, ("dog", LEFT)])], ["dog"], 0.01, 0.01),
    "beyond a hundred": ([([("dog", LEFT)], [*[("dog", RIGHT)] * 100, ("dog", LEFT)])], ["dog"], 0.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize(("images", "categories", "expected", "at_half"), HAND.values(), ids=HAND)
def test_average_precision_by_hand(
    images: list[tuple[Rows, Rows | None]],
    categories: list[str],
    expected: float,
    at_half: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = [prediction(*image, key) for image, key in zip(images, "zya", strict=False)]
    assert average_precision(found, categories) == pytest.approx(expected, abs=1e-12)
    assert average_precision(found, categories, (0.5,)) == pytest.approx(at_half, abs=1e-12)
    assert capsys.readouterr() == ("", "")  # pycocotools is kept quiet


def test_an_ap_of_categories_that_are_nowhere_and_of_a_label_that_is_no_list_of_boxes_is_undefined() -> None:
    with pytest.raises(ValueError, match="the AP over cat is undefined: none of them is in any of the 1 images"):
        average_precision([prediction([("dog", LEFT)], [("cat", LEFT)])], ["cat"])
    with pytest.raises(ValueError, match="in any of the 0 images"):
        average_precision([], ["cat"])
    damaged = Prediction(1, 1, "a.jpg", "dog", "", None, False, "wrong")
    with pytest.raises(ValueError, match=r"a\.jpg: its label is no list of boxes but 'dog'"):
        average_precision([damaged], ["dog"])
