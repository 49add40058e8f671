"""Metrics of continual learning: pure functions of the accuracy matrix, one name each.

Sources: GEM (Lopez-Paz and Ranzato 2017) for bwt and fwt, Chaudhry et al. 2018 for forgetting and
intransigence, RaPO (arXiv 2605.09640) for last accuracy and forgetting as it reports them.
Fractions 0 to 1; percent only when shown.
A metric whose cells are missing is undefined and says why; it is never a number.
Deliberately absent: averages over runs (``clrft.analysis.compare``), others' names and variants (``eval.communities``).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.matrix import AccuracyMatrix, FloatArray
from task_streams.errors import UserError, unknown_name

NATS = "nats per token"
DRIFTS = ("kl_base", "kl_prev")  # measured on rollouts, by stage; each forward and reverse
_POOLED = "boxes of new classes: AP over all classes and images so far"
_NOT_POOLED = "A_i: there is box AP of each task by itself and none over all of them; see mean_final_acc"

Formula = Callable[[AccuracyMatrix], float]


@dataclass(frozen=True, slots=True)
class Value:
    """A metric's result: a number, or the reason why there is none. Exactly one of both is None."""

    value: float | None
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"exactly one of value {self.value} and reason {self.reason} must be given")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.value} is no result; say why the metric is undefined")


def undefined(reason: str) -> Value:
    """The result of a metric that cannot be computed."""
    return Value(None, reason)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric by its one name.

    Attributes:
        key: name in files and tables.
        title: short human name.
        definition: formula on one line.
        higher_is_better: direction.
        compute: the metric as a function of the matrix, which raises ``Missing``; None for what is measured outside the
            stream or read from single predictions.
        unit: ``%`` of what is a fraction in files, or the unit of what stands in files as it is shown.
    """

    key: str
    title: str
    definition: str
    higher_is_better: bool
    compute: Formula | None = None
    unit: str = "%"


class Missing(Exception):
    """Cells that a metric needs were not evaluated; turned into an undefined value by ``evaluated``."""


def evaluated(formula: Formula, matrix: AccuracyMatrix) -> Value:
    """The result of a formula, undefined where it finds cells missing."""
    try:
        return Value(float(formula(matrix)))
    except Missing as missing:
        return undefined(str(missing))


def known(matrix: AccuracyMatrix, *names: str) -> FloatArray:
    """The cells of the last name in ``CELLS``; raises ``Missing`` where any cell of these names was not evaluated."""
    for name in names:
        choose, what = CELLS[name]
        cells = choose(matrix)
        if np.isnan(cells).any():
            raise Missing(f"not evaluated: {what}")
    return cells


def several(matrix: AccuracyMatrix) -> AccuracyMatrix:
    """The matrix of a stream in which something can be forgotten: raises ``Missing`` for one task."""
    if len(matrix) < 2:
        raise Missing("needs at least two tasks")
    return matrix


def columns(matrix: AccuracyMatrix) -> list[FloatArray]:
    """Accuracies R[j..T, j] of every task but the last."""
    known(several(matrix), "R[i,j], j<=i, j<T")
    return [matrix.value[j:, j] for j in range(len(matrix) - 1)]


def changes(matrix: AccuracyMatrix) -> FloatArray:
    """R[T,j] - R[j,j] of every task. [T]"""
    return known(several(matrix), "R[T,j]") - known(matrix, "R[j,j]")


def forward_transfer(matrix: AccuracyMatrix) -> float:
    """Mean of R[j-1,j] - b_j over every task but the first."""
    return float((known(several(matrix), "R[j-1,j]") - known(matrix, "b_j")).mean())


def general_delta(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Value]:
    """Change of accuracy on fixed probes outside the stream from before task 1 to after task T, by probe.

    Keys are ``general_delta/<probe>``; a probe that is in one of both only is undefined.
    """
    values = {}
    for probe in sorted({*before, *after}):
        if probe in before and probe in after:
            value = Value(after[probe] - before[probe])
        else:
            value = undefined(f"not measured {'before task 1' if probe in after else 'after task T'}")
        values[f"general_delta/{probe}"] = value
    return values


def mean_kl(key: str, stages: Mapping[int, Mapping[str, Any]]) -> dict[str, Value]:
    """Mean over the stages where it is defined of the KL per token, in nats; ``<key>/forward`` and ``<key>/reverse``.

    Args:
        key: ``kl_base`` or ``kl_prev``: which other policy.
        stages: figures of the drift probe by stage, ``<key>_forward`` among them; empty where it was not asked.
    """
    values = {}
    for direction in ("forward", "reverse"):
        name = f"{key}_{direction}"
        known = [figures[name] for figures in stages.values() if figures.get(name) is not None]
        reasons = dict.fromkeys(
            figures["undefined"][name] for figures in stages.values() if figures.get(name, 0) is None
        )
        why = "; ".join(reasons) or "not measured: nothing was trained, or evaluate.drift_prompts=0"
        values[f"{key}/{direction}"] = Value(float(np.mean(known))) if known else undefined(why)
    return values


def seen_accuracy(matrix: AccuracyMatrix) -> FloatArray:
    """Mean accuracy on the tasks so far after each stage, NaN where a cell is missing. [T]"""
    return np.array([matrix.value[i, : i + 1].mean() for i in range(len(matrix))])


def stage_accuracy(matrix: AccuracyMatrix) -> FloatArray:
    """A_i: accuracy after each stage over all test items of the tasks so far, NaN where there is none. [T]

    sum_{j<=i} correct[i,j] / sum_{j<=i} n_j, which is no mean over tasks of other sizes. Boxes of new classes: AP over
    all classes and images so far, A_t of RaPO (arXiv 2605.09640). Boxes in new domains have none.
    """
    # n_j; a task that was tested on a sample at a stage still counts with all of its items
    sizes = np.fmax.reduce(matrix.total, axis=0)
    counted = []
    for i in range(len(matrix)):
        correct, total, size = matrix.correct[i, : i + 1], matrix.total[i, : i + 1], sizes[: i + 1]
        whole = (total == size).all()
        counted.append(correct.sum() / total.sum() if whole else (matrix.value[i, : i + 1] * size).sum() / size.sum())
    return np.where(np.isnan(matrix.pooled), counted, matrix.pooled)


def accuracy_so_far(matrix: AccuracyMatrix) -> FloatArray:
    """What a curve over stages shows: A_i of boxes of new classes, the mean over tasks of everything else. [T]"""
    return np.where(np.isnan(matrix.pooled), seen_accuracy(matrix), matrix.pooled)


def forgetting_by_stage(matrix: AccuracyMatrix) -> FloatArray:
    """``forgetting`` of the stream cut after each stage: NaN for stage 1 and where a cell is missing. [T]"""
    curve = np.full(len(matrix), np.nan)
    for i in range(1, len(matrix)):
        columns = [matrix.value[j : i + 1, j] for j in range(i)]
        curve[i] = np.mean([column.max() - column[-1] for column in columns])  # max of NaN is NaN
    return curve


def _relative_forgetting(matrix: AccuracyMatrix) -> float:
    tasks = columns(matrix)
    never = [str(j) for j, column in enumerate(tasks, start=1) if column.max() == 0]
    if never:
        raise Missing(f"nothing to forget: accuracy on task {', '.join(never)} was 0 after every stage")
    return float(np.mean([(column.max() - column[-1]) / column.max() for column in tasks]))


# Cells that formulas are made of, by name: which of the matrix, and what is said where one of them is missing.
CELLS: dict[str, tuple[Callable[[AccuracyMatrix], FloatArray], str]] = {
    "R[T,j]": (lambda m: m.value[-1], "R[T,j] of every task"),
    "R[j,j]": (lambda m: np.diagonal(m.value), "R[j,j]: each task right after learning it"),
    "R[j-1,j]": (lambda m: np.diagonal(m.value, offset=1), "R[j-1,j]: future tasks"),
    "R[i,j], j<i": (lambda m: m.value[np.tril_indices(len(m), -1)], "R[i,j] of every j < i"),
    "R[i,j], j<i-1": (lambda m: m.value[np.tril_indices(len(m), -2)], "R[i,j] of every j < i"),
    "R[i,j], j<=i": (lambda m: m.value[np.tril_indices(len(m))], "R[i,j] of every j <= i"),
    "R[i,j], j<=i<T-1": (lambda m: m.value[np.tril_indices(len(m) - 2)], "R[i,j] of every j <= i"),
    "R[i,j], j<=i, j<T": (
        lambda m: m.value[np.tril_indices(len(m), m=len(m) - 1)],
        "R[i,j] of every task j < T at every stage i >= j",
    ),
    "R[i,j], i<T, j<T": (lambda m: m.value[:-1, :-1], "R[i,j] of every task j < T at every stage i < T: future tasks"),
    "mean R[i,j], j<=i": (seen_accuracy, "R[i,j] of every j <= i"),
    "A_i": (stage_accuracy, _NOT_POOLED),
    "A_T": (lambda m: stage_accuracy(m)[-1:], _NOT_POOLED),
    "b_j": (lambda m: m.base[1:], "b_j: the base model"),
    "J_j": (lambda m: m.joint, "J_j: joint training"),
    # that of the last task is R[T,T] and not needed
    "V_j": (lambda m: m.final_list[:-1], "V_j: task j < T right after learning it, under the final class list"),
}
_TABLE = (
    Metric(
        "last_acc",
        "last accuracy",
        f"A_T = Σ_j correct[T,j] / Σ_j n_j; {_POOLED}",
        True,
        lambda m: known(m, "R[T,j]", "A_T")[0],
    ),
    Metric("mean_final_acc", "mean final accuracy", "(1/T) Σ_j R[T,j]", True, lambda m: known(m, "R[T,j]").mean()),
    Metric("learning_acc", "learning accuracy", "(1/T) Σ_j R[j,j]", True, lambda m: known(m, "R[j,j]").mean()),
    Metric(
        "avg_incremental_acc",
        "average incremental accuracy",
        "(1/T) Σ_i (1/i) Σ_{j≤i} R[i,j]",
        True,
        lambda m: known(m, "mean R[i,j], j<=i").mean(),
    ),
    Metric(
        "avg_incremental_acc_micro",
        "average incremental accuracy, micro",
        f"(1/T) Σ_i A_i, A_i = Σ_{{j≤i}} correct[i,j] / Σ_{{j≤i}} n_j; {_POOLED}",
        True,
        lambda m: known(m, "mean R[i,j], j<=i", "A_i").mean(),
    ),
    Metric(
        "forgetting",
        "forgetting",
        "(1/(T−1)) Σ_{j<T} (max_{j≤i≤T} R[i,j] − R[T,j])",
        False,
        lambda m: np.mean([column.max() - column[-1] for column in columns(m)]),
    ),
    Metric(
        "forgetting_chaudhry",
        "forgetting (Chaudhry 2018)",
        "(1/(T−1)) Σ_{j<T} (max_{j≤i≤T−1} R[i,j] − R[T,j])",
        False,
        lambda m: np.mean([column[:-1].max() - column[-1] for column in columns(m)]),
    ),
    Metric(
        "forgetting_chaudhry_all",
        "forgetting (Chaudhry 2018, from task 1)",
        "(1/(T−1)) Σ_{j<T} (max_{1≤i≤T−1} R[i,j] − R[T,j])",
        False,
        lambda m: (known(several(m), "R[i,j], i<T, j<T").max(axis=0) - known(m, "R[T,j]")[:-1]).mean(),
    ),
    Metric(
        "forgetting_diag",
        "forgetting (diagonal)",
        "(1/(T−1)) Σ_{j<T} (R[j,j] − R[T,j])",
        False,
        lambda m: -changes(m)[:-1].mean(),
    ),
    Metric(
        "forgetting_vocabulary",
        "forgetting by the class list",
        "(1/(T−1)) Σ_{j<T} (R[j,j] − V_j)",
        False,
        lambda m: (known(several(m), "R[j,j]")[:-1] - known(m, "V_j")).mean(),
    ),
    Metric(
        "forgetting_weights",
        "forgetting by the weights",
        "(1/(T−1)) Σ_{j<T} (V_j − R[T,j])",
        False,
        lambda m: (known(several(m), "R[T,j]", "V_j") - known(m, "R[T,j]")[:-1]).mean(),
    ),
    Metric("forgetting_superficial", "superficial forgetting", "(1/(T−1)) Σ_{j<T} S_j / n_j", False),
    Metric("forgetting_essential", "essential forgetting", "(1/(T−1)) Σ_{j<T} E_j / n_j", False),
    Metric("gained", "gained", "(1/(T−1)) Σ_{j<T} G_j / n_j", True),
    Metric("lost_to_newest", "lost to the newest task", "Σ_{j<T} N_j / Σ_{j<T} (S_j + E_j)", False),
    Metric("bwt", "backward transfer", "(1/(T−1)) Σ_{j<T} (R[T,j] − R[j,j])", True, lambda m: changes(m)[:-1].mean()),
    Metric("fwt", "forward transfer", "(1/(T−1)) Σ_{j≥2} (R[j−1,j] − b_j)", True, forward_transfer),
    Metric(
        "relative_forgetting",
        "relative forgetting",
        "(1/(T−1)) Σ_{j<T} (max_{j≤i≤T} R[i,j] − R[T,j]) / max_{j≤i≤T} R[i,j]",
        False,
        _relative_forgetting,
    ),
    Metric(
        "intransigence",
        "intransigence",
        "(1/T) Σ_j (J_j − R[j,j])",
        False,
        lambda m: (known(m, "J_j") - known(m, "R[j,j]")).mean(),
    ),
    Metric("min_acc", "worst task", "min_j R[T,j]", True, lambda m: known(m, "R[T,j]").min()),
    Metric("general_delta", "general ability change", "probe accuracy after task T − before task 1", True),
    Metric("kl_base", "KL to the base", "mean over stages of KL per token on a new task's inputs", False, unit=NATS),
    Metric("kl_prev", "KL to the previous policy", "as kl_base, with the previous task's policy", False, unit=NATS),
)
METRICS: dict[str, Metric] = {metric.key: metric for metric in _TABLE}


def metric_of(key: str) -> Metric:
    """The metric of a name; ``general_delta/<probe>`` is ``general_delta``, ``kl_base/forward`` is ``kl_base``.

    Raises:
        UserError: there is none of that name.
    """
    name, _, _ = key.partition("/")
    name = name if name in ("general_delta", *DRIFTS) else key
    if name not in METRICS:
        raise UserError(unknown_name("metric", key, METRICS))
    return METRICS[name]


def compute_metrics(
    matrix: AccuracyMatrix,
    keys: Iterable[str] | None = None,
    before: Mapping[str, float] | None = None,
    after: Mapping[str, float] | None = None,
) -> dict[str, Value]:
    """Metrics by name, in the order of ``METRICS``; all of them by default.

    ``before`` and ``after`` are accuracies per probe outside the stream before task 1 and after task T.

    Raises:
        UserError: unknown names, all of them at once.
    """
    names = list(METRICS) if keys is None else list(keys)
    unknown = [unknown_name("metric", key, METRICS) for key in names if key not in METRICS]
    if unknown:
        raise UserError(*unknown)
    values: dict[str, Value] = {}
    for key in (key for key in METRICS if key in names):
        compute = METRICS[key].compute
        if compute is not None:
            values[key] = evaluated(compute, matrix)
        elif key in DRIFTS:
            values |= mean_kl(key, {})
        elif key != "general_delta":
            values[key] = undefined("not in the matrix: it is read from single predictions")
        elif before or after:
            values |= general_delta(before or {}, after or {})
        else:
            values[key] = undefined("not measured: no probe outside the stream")
    return values
