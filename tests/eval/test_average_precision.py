import json

import numpy as np
import pytest

from eval.evaluate import Prediction
from eval.task_accuracy import average_precision, average_precision_50
from tests.coco_judge import Rows, coco_stats

LEFT, RIGHT = (0, 0, 400, 400), (500, 500, 900, 900)


def prediction(right: Rows, found: Rows | None, key: str = "a.jpg") -> Prediction:
    label, answer = (_text(rows) for rows in (right, found or ()))
    return Prediction(1, 1, key, label, "", None if found is None else answer, False, "wrong")


def _text(rows: Rows) -> str:
    return json.dumps([{"category": name, "bbox": list(corners)} for name, corners in rows])


def test_perfect_answers_have_an_ap_of_one() -> None:
    rows = [[("dog", LEFT), ("cat", RIGHT)], [("dog", RIGHT)], []]
    found = [prediction(row, row, str(i)) for i, row in enumerate(rows)]
    assert average_precision(found, ["dog", "cat"]) == pytest.approx(1.0)
    assert average_precision_50(found, ["dog", "cat"]) == pytest.approx(1.0)


def test_one_of_two_boxes_found() -> None:
    # precision 1 up to recall 0.5: 51 of the 101 recalls 0, 0.01, …, 1
    found = [prediction([("dog", LEFT), ("dog", RIGHT)], [("dog", LEFT)])]
    assert average_precision(found, ["dog"]) == pytest.approx(51 / 101)


def test_a_false_box_costs_precision_when_it_is_listed_before_the_right_one() -> None:
    # confidence is the same for all, so boxes rank as listed: precision 0/1, then 1/2 at recall 1
    right: Rows = [("dog", LEFT)]
    assert average_precision([prediction(right, [("dog", RIGHT), ("dog", LEFT)])], ["dog"]) == pytest.approx(0.5)
    # listed after it, recall 1 is reached at precision 1
    assert average_precision([prediction(right, [("dog", LEFT), ("dog", RIGHT)])], ["dog"]) == pytest.approx(1.0)
    # the same over two images, in the order of the predictions
    images = [prediction([], [("dog", RIGHT)], "z"), prediction(right, right, "a")]
    assert average_precision(images, ["dog"]) == pytest.approx(0.5)


def test_a_loose_box_counts_up_to_its_iou() -> None:
    # 100 x 72 of 100 x 100: IoU 0.72 passes 0.50, 0.55, 0.60, 0.65, 0.70 of ten thresholds
    found = [prediction([("dog", (0, 0, 100, 100))], [("dog", (0, 0, 100, 72))])]
    assert average_precision(found, ["dog"]) == pytest.approx(0.5)
    assert average_precision_50(found, ["dog"]) == pytest.approx(1.0)


def test_the_mean_is_over_the_asked_categories_that_are_there() -> None:
    # dog 1, cat 0 (in the image, not found); bird is not in the image: left out, whatever is predicted; cow not asked
    found = [prediction([("dog", LEFT), ("cat", RIGHT), ("cow", LEFT)], [("dog", LEFT), ("bird", RIGHT)])]
    assert average_precision(found, ["dog", "cat", "bird"]) == pytest.approx(0.5)


def test_no_answer_finds_nothing() -> None:
    assert average_precision([prediction([("dog", LEFT)], None)], ["dog"]) == 0.0


def test_an_ap_of_categories_that_are_nowhere_is_undefined() -> None:
    with pytest.raises(ValueError, match="the AP over cat is undefined: none of them is in any of the 1 images"):
        average_precision([prediction([("dog", LEFT)], [("cat", LEFT)])], ["cat"])
    with pytest.raises(ValueError, match="in any of the 0 images"):
        average_precision([], ["cat"])


def test_a_label_that_is_no_list_of_boxes_is_refused() -> None:
    damaged = Prediction(1, 1, "a.jpg", "dog", "", None, False, "wrong")
    with pytest.raises(ValueError, match=r"a\.jpg: its label is no list of boxes but 'dog'"):
        average_precision([damaged], ["dog"])


def test_a_hundred_boxes_of_a_category_count_in_an_image_as_in_cocos_protocol() -> None:
    # 99 false boxes, then the right one: precision 1/100 at recall 1; behind 100 false ones it is not looked at
    found = [[*[("dog", RIGHT)] * false, ("dog", LEFT)] for false in (99, 100)]
    values = [average_precision([prediction([("dog", LEFT)], rows)], ["dog"]) for rows in found]
    assert values == pytest.approx([0.01, 0.0], abs=1e-12)


def test_categories_are_compared_as_labels_are() -> None:
    found = [prediction([("hot_dog", LEFT)], [("Hot Dog", LEFT)])]
    assert average_precision(found, ["hot-dog"]) == pytest.approx(1.0)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    average_precision([prediction([("dog", LEFT)], [("dog", LEFT)])], ["dog"])
    assert capsys.readouterr() == ("", "")


def test_agrees_with_pycocotools_in_pixels_on_hand_made_predictions() -> None:
    random = np.random.RandomState(7)
    rows = [_noisy(random) for _ in range(12)]
    names = ["cat", "cow", "dog"]
    ours = [prediction(right, found, str(i)) for i, (right, found) in enumerate(rows)]
    stats = coco_stats([right for right, _ in rows], [found for _, found in rows], names)
    assert 0.05 < stats[0] < 0.95
    assert average_precision(ours, names) == pytest.approx(stats[0], abs=1e-9)
    assert average_precision_50(ours, names) == pytest.approx(stats[1], abs=1e-9)


def _noisy(random: np.random.RandomState) -> tuple[Rows, Rows]:
    """Boxes of an image, and the same shaken, with some missing and some of another category."""
    right: list[tuple[str, tuple[int, int, int, int]]] = []
    found: list[tuple[str, tuple[int, int, int, int]]] = []
    for _ in range(random.randint(1, 6)):
        x, y, width, height = (int(v) for v in random.randint(100, 400, 4))
        dx, dy = (int(v) for v in random.randint(-30, 30, 2))
        name, other = (str(v) for v in random.choice(["cat", "cow", "dog"], 2))
        right.append((name, (x, y, x + width, y + height)))
        if random.rand() < 0.8:
            said = name if random.rand() < 0.8 else other
            found.append((said, (x + dx, y + dy, x + width + dx, y + height - dy)))
    return right, found
