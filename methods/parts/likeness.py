"""How much an answer is like the right one, 0 to 1, by whole or by matched items: for shapers that credit near misses.

Items are boxes, or the words of a class name or of an answer. An answer that cannot be read is like nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from eval.detection import match_boxes, pairwise_iou, parse_boxes, same_category
from eval.parse import parse_completion
from methods.base import Rollouts
from methods.lazy import Tensor, torch
from task_streams.labels import normalise_label
from task_streams.prompt import visible
from task_streams.types import Question, Target

Likeness = Callable[[str, Target, Sequence[str]], float]  # of an answer to what is right; classes of the prompt


def likeness_of(rollouts: Rollouts, likeness: Likeness) -> Tensor:
    """The likeness of every rollout's answer to what is right, [B*G]."""
    values = []
    for completion, target in zip(rollouts.completions, rollouts.targets, strict=True):
        answer = parse_completion(completion, rollouts.style).answer
        values.append(0.0 if answer is None else likeness(answer, target, rollouts.labels))
    return torch.tensor(values, device=rollouts.mask.device)


def whole_likeness(answer: str, target: Target, labels: Sequence[str]) -> float:
    """Boxes: the sum of IoU of matched boxes over the greater number of boxes. Names: by how few letters differ."""
    if isinstance(target, tuple):
        predicted = parse_boxes(answer)
        return 0.0 if predicted is None else match_boxes(visible(target, labels), predicted)[0]
    return max(name_likeness(answer, right) for right in accepted(target))


def item_likeness(answer: str, target: Target, labels: Sequence[str]) -> float:
    """Credit of the best one-to-one match of predicted and true items, over the greater number of items."""
    if isinstance(target, tuple):
        right, predicted = visible(target, labels), parse_boxes(answer)
        if predicted is None:
            return 0.0
        # half for the category, half for the IoU, nothing without the category, [boxes right, boxes predicted]
        return matched_share(same_category(right, predicted) * (0.5 + 0.5 * pairwise_iou(right, predicted)))
    given, best = normalise_label(answer).split(), 0.0
    for name in accepted(target):
        right_words = normalise_label(name).split()
        credit = [[name_likeness(right, word) for word in given] for right in right_words]
        best = max(best, matched_share(np.array(credit, dtype=np.float64).reshape(len(right_words), len(given))))
    return best


def accepted(target: str | Question) -> tuple[str, ...]:
    """Every answer that counts as right."""
    return target.answers if isinstance(target, Question) else (target,)


def name_likeness(first: str, second: str) -> float:
    """``1 - edits / letters of the longer``, after normalisation; 1 for equal names.

    Edits: the least number of letters inserted, deleted or replaced that makes one text of the other (Levenshtein).
    """
    one, other = normalise_label(first), normalise_label(second)
    row = list(range(len(other) + 1))  # edits from the letters of one so far to each beginning of the other
    for i, letter in enumerate(one, start=1):
        above, row = row, [i]
        for j, its in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != its)))
    return 1.0 - row[-1] / max(len(one), len(other), 1)


def matched_share(credit: NDArray[np.float64]) -> float:
    """Greatest sum of credit of a one-to-one match over the greater number of items; 1 when there are none at all."""
    from scipy.optimize import linear_sum_assignment

    most = max(credit.shape)
    return float(credit[linear_sum_assignment(credit, maximize=True)].sum()) / most if most else 1.0
