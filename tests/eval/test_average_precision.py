import json

import numpy as np
import pytest

from eval.evaluate import Prediction
from eval.task_accuracy import average_precision
from tests.coco_judge import Rows, coco_stats

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


def test_agrees_with_pycocotools_in_pixels_on_hand_made_predictions() -> None:
    random = np.random.RandomState(7)
    rows = [_noisy(random) for _ in range(12)]
    names = ["cat", "cow", "dog"]
    ours = [prediction(right, found, str(i)) for i, (right, found) in enumerate(rows)]
    stats = coco_stats([right for right, _ in rows], [found for _, found in rows], names)
    assert 0.05 < stats[0] < 0.95
    assert average_precision(ours, names) == pytest.approx(stats[0], abs=1e-9)
    assert average_precision(ours, names, (0.5,)) == pytest.approx(stats[1], abs=1e-9)


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
