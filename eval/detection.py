"""Boxes in a completion: parsed, matched with the ground truth, scored.

Source of the rule: RaPO (arXiv 2605.09640). Predictions are matched one to one with the boxes of the same category so
that the sum of IoU is greatest (Hungarian matching). With n = max(boxes right, boxes predicted):
``iou`` = sum of IoU of the matches / n, ``category`` = matches of IoU >= 0.5 / n, both 1 when nothing is there and
nothing is predicted; ``format`` = 1, or 0.5 when the tags are right but the answer is no JSON list.

The answer must be strict JSON: single quotes and trailing commas, which the released code mends, are not mended, and an
empty answer is no ``[]``. An answer that does not parse finds nothing, also where nothing is to be found. Corners may
be any numbers: they are clipped to 0..1000 and rounded; entries that are no box (no text as category, other than four
numbers, no area) are passed over.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.judgement import Score
from eval.parse import parse_completion
from task_streams.labels import normalise_label
from task_streams.prompt import answer_text, visible
from task_streams.prompt_style import SUITE, PromptStyle
from task_streams.types import BOX_SCALE, Box

MATCHED = 0.5  # least IoU of a match that counts as found


def score_detection(completion: str, boxes: Sequence[Box], labels: Sequence[str], style: PromptStyle = SUITE) -> Score:
    """Score the boxes of one completion; all boxes of the image are cut to the categories that the prompt listed."""
    parsed = parse_completion(completion, style)
    predicted = None if parsed.answer is None else parse_boxes(parsed.answer)
    if predicted is None:
        return Score(False, {"iou": 0.0, "category": 0.0, "format": 0.5 if parsed.format_ok else 0.0})
    listed = {normalise_label(name): name for name in labels}  # categories are named as the prompt listed them
    named = [Box(listed.get(normalise_label(box.category), box.category), box.corners) for box in predicted]
    iou, found = match_boxes(visible(boxes, labels), named)
    components = {"iou": iou, "category": found, "format": float(parsed.format_ok)}
    categories = [box.category for box in named]
    return Score(
        correct=found == 1.0,
        components=components,
        answer=answer_text(tuple(named), categories),
        outside=not set(categories) <= set(labels),
    )


def parse_boxes(text: str) -> list[Box] | None:
    """Boxes of an answer, None when it is no JSON list; entries that are no box are passed over."""
    try:
        rows = json.loads(text, parse_constant=int)  # which refuses NaN and Infinity: they are no JSON
    except (ValueError, RecursionError):  # not JSON, a number of too many digits, or nested too deep
        return None
    if not isinstance(rows, list):
        return None
    return [box for row in rows if (box := _box(row)) is not None]


def match_boxes(right: Sequence[Box], predicted: Sequence[Box]) -> tuple[float, float]:
    """IoU and category reward of predicted boxes, 0 to 1; both 1 when there are no boxes on either side."""
    from scipy.optimize import linear_sum_assignment

    if not right and not predicted:
        return 1.0, 1.0
    overlaps = pairwise_iou(right, predicted) * same_category(right, predicted)
    matched = overlaps[linear_sum_assignment(overlaps, maximize=True)]  # [min(R, P)]
    most = max(len(right), len(predicted))
    return float(matched.sum()) / most, int((matched >= MATCHED).sum()) / most


def pairwise_iou(right: Sequence[Box], predicted: Sequence[Box]) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes, whatever their categories. [R, P]"""
    first = np.array([box.corners for box in right], dtype=np.float64).reshape(-1, 1, 4)
    second = np.array([box.corners for box in predicted], dtype=np.float64).reshape(1, -1, 4)
    start, end = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    shared = np.clip(end - start, 0.0, None).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    return np.asarray(shared / (areas[0] + areas[1] - shared))


def same_category(right: Sequence[Box], predicted: Sequence[Box]) -> NDArray[np.bool_]:
    """Whether two boxes are of the same category, of every pair. [R, P]"""
    first, second = ([normalise_label(box.category) for box in boxes] for boxes in (right, predicted))
    return np.array([[one == other for other in second] for one in first], dtype=bool).reshape(len(first), len(second))


def _box(row: Any) -> Box | None:
    """The box of one entry, None when it is none."""
    if not isinstance(row, dict) or not isinstance(row.get("category"), str):
        return None
    corners = row.get("bbox")
    if not isinstance(corners, list) or len(corners) != 4 or not all(type(value) in (int, float) for value in corners):
        return None  # type(), because True is an int
    x1, y1, x2, y2 = (round(min(max(value, 0), BOX_SCALE)) for value in corners)
    category = row["category"].strip().encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written
    return Box(category, (x1, y1, x2, y2)) if x1 < x2 and y1 < y2 else None
