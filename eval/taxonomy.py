"""What kind of forgetting: how the answers of a matrix cell failed, which task's classes were answered, what was lost.

Right after learning it (stage j) and after the last task (stage T), task j is asked the same items. An item that was
right then and is wrong now is lost; one that was wrong then and is right now is gained. A lost item is lost

- superficially, when the knowledge shows and the answer's form is gone: no answer could be read (``format``), the
  answer is none of the listed classes (``outside_list``), or the completion names the right class beside its answer;
- essentially otherwise.

Named means: in the completion without its answer block, both read as answers are compared (``task_streams.labels``),
the right class stands as whole words, and not as a part of a longer class name of the stream. This is asked for classes
only; the text of a question's answer, a letter or a number, is found in any text.

Source of the two words: SEFE (ICML 2025, arXiv 2505.02486), where the form decides; the class named beside the answer
is this suite's addition.
Deliberately absent: files and averages over runs (``clrft.analysis.taxonomy``).
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.evaluate import Prediction
from eval.judgement import Failure
from eval.metrics import Value, undefined
from eval.parse import ANSWER
from task_streams.errors import UserError
from task_streams.labels import normalise_label

# Every prediction is one of these: right, then wrong ever further from what was asked.
OUTCOMES: tuple[Failure, ...] = ("none", "same_task", "wrong", "other_task", "newest_task", "outside_list", "format")
OUTCOME_TITLES: Mapping[Failure, str] = {
    "none": "right",
    "same_task": "same task's other class",
    "wrong": "wrong",
    "other_task": "other old class",
    "newest_task": "newest task's class",
    "outside_list": "outside the list",
    "format": "format",
}
# Columns of a confusion over tasks behind those of the tasks.
BESIDE: tuple[Failure, ...] = ("outside_list", "format")

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one task's test items between two stages, in items."""

    items: int  # test items
    lost_format: int  # lost, and no answer could be read
    lost_outside: int  # lost, and the answer is none of the listed classes
    lost_named: int  # lost to another answer, while the completion names the right class beside it
    lost_essential: int  # every other lost item
    lost_newest: int  # lost items, of whatever kind, that were answered with a class of the newest task
    gained: int  # items that were wrong before and are right after


def outcomes(predictions: Iterable[Prediction]) -> dict[Failure, int]:
    """Number of predictions of every outcome, in the order of ``OUTCOMES``; ``none`` is right."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for prediction in predictions:
        counts[prediction.failure] += 1
    return counts


def shares(counts: Mapping[Failure, int]) -> dict[Failure, float]:
    """The same as shares, 0 to 1, which sum to 1.

    Raises:
        ValueError: there are no predictions.
    """
    total = sum(counts.values())
    if total == 0:
        raise ValueError("the shares of no predictions are undefined")
    return {outcome: count / total for outcome, count in counts.items()}


def undivided(classes: Sequence[Sequence[str]], measure: str = "accuracy") -> str | None:
    """Why the class of an answer does not tell its task; None where it does. ``measure`` is that of the matrix."""
    if measure != "accuracy":
        return "an answer is boxes of several classes, not one class"
    if not any(classes):
        return "answers to questions of their own are no classes"
    names = [name for part in classes for name in part]
    several = next((name for name in names if names.count(name) > 1), None)
    return f"several tasks teach the same classes, e.g. {several!r}" if several is not None else None


def confusion(predictions: Iterable[Prediction], classes: Sequence[Sequence[str]]) -> IntArray:
    """Answers by task of the right class (row) and of the chosen class (column), the last columns ``BESIDE``.

    The classes of the T tasks must be disjoint (``undivided``). [T, T + 2]

    Raises:
        UserError: a prediction's right or chosen class is none of the stream's.
    """
    size = len(classes)
    task_of = {normalise_label(name): index for index, part in enumerate(classes) for name in part}
    counts = np.zeros((size, size + len(BESIDE)), dtype=np.int64)
    for prediction in predictions:
        beside = prediction.failure in BESIDE
        places = []
        for name in (prediction.label,) if beside else (prediction.label, prediction.answer or ""):
            if normalise_label(name) not in task_of:
                raise UserError(f"damaged prediction {prediction.key!r}: {name!r} is no class of the stream.")
            places.append(task_of[normalise_label(name)])
        counts[places[0], size + BESIDE.index(prediction.failure) if beside else places[1]] += 1
    return counts


def change(before: Sequence[Prediction], after: Sequence[Prediction], classes: Collection[str]) -> Change:
    """What became of a task's items between two stages; ``classes`` of the stream, none where answers are no classes.

    Raises:
        UserError: the two stages have other items, or none.
    """
    earlier = {prediction.key: prediction.correct for prediction in before}
    if not earlier or len(after) != len(earlier) or {prediction.key for prediction in after} != earlier.keys():
        raise UserError(
            f"damaged predictions: {len(before)} items of a task right after learning it and {len(after)} at the end; "
            "expected the same items, and at least one."
        )
    lost = [prediction for prediction in after if earlier[prediction.key] and not prediction.correct]
    # Finds class names in a normalised text, of two at one place the longer.
    names = sorted((normalise_label(name) for name in classes), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)")
    kinds: list[str] = []
    for prediction in lost:
        without_answer = ANSWER.sub(" ", prediction.completion, count=1)
        beside = pattern.findall(normalise_label(without_answer)) if names else []
        named = "named" if normalise_label(prediction.label) in beside else "essential"
        kinds.append(prediction.failure if prediction.failure in BESIDE else named)
    return Change(
        items=len(after),
        lost_format=kinds.count("format"),
        lost_outside=kinds.count("outside_list"),
        lost_named=kinds.count("named"),
        lost_essential=kinds.count("essential"),
        lost_newest=sum(prediction.failure == "newest_task" for prediction in lost),
        gained=sum(prediction.correct and not earlier[prediction.key] for prediction in after),
    )


def change_metrics(changes: Mapping[int, Change], size: int, newest: str | None = None) -> dict[str, Value]:
    """The metrics of ``KINDS`` of a run of ``size`` tasks.

    Args:
        changes: change of each task j < T from stage j to T, by j.
        size: T.
        newest: why there is no newest task's class; None where there is.
    """
    if size < 2:
        return dict.fromkeys(KINDS, undefined("needs at least two tasks"))
    parts = [changes[j] for j in range(1, size) if j in changes]
    if len(parts) < size - 1:
        why = "not evaluated: the items of every task j < T right after learning it and after task T"
        return dict.fromkeys(KINDS, undefined(why))
    superficial = [part.lost_format + part.lost_outside + part.lost_named for part in parts]
    lost = sum(superficial) + sum(part.lost_essential for part in parts)
    if newest is not None:
        share = undefined(newest)
    elif lost == 0:
        share = undefined("nothing was lost")
    else:
        share = Value(sum(part.lost_newest for part in parts) / lost)
    rates = [
        (shown / part.items, part.lost_essential / part.items, part.gained / part.items)
        for shown, part in zip(superficial, parts, strict=True)
    ]
    means = [Value(sum(column) / len(parts)) for column in zip(*rates, strict=True)]
    return dict(zip(KINDS, [*means, share], strict=True))


KINDS = ("forgetting_superficial", "forgetting_essential", "gained", "lost_to_newest")  # keys of METRICS
