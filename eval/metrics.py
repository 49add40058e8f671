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
        compute: the metric as a function of the matrix; None for what is measured outside the stream or read from
            single predictions.
        unit: ``%`` of what is a fraction in files, or the unit of what stands in files as it is shown.
    """

    key: str
    title: str
    definition: str
    higher_is_better: bool
    compute: Callable[[AccuracyMatrix], Value] | None
    unit: str = "%"


class Missing(Exception):
    """Cells that a metric needs were not evaluated; turned into an undefined value by ``or_undefined``."""


def or_undefined(formula: Formula) -> Callable[[AccuracyMatrix], Value]:
    """A formula that may find cells missing, as a function that then gives an undefined value."""

    def compute(matrix: AccuracyMatrix) -> Value:
        try:
            return Value(float(formula(matrix)))
        except Missing as missing:
            return undefined(str(missing))

    compute.__doc__ = formula.__doc__
    return compute


def need(cells: FloatArray, what: str) -> FloatArray:
    """The cells, all of them evaluated; raises ``Missing`` with ``what`` they are if one was not."""
    if np.isnan(cells).any():
        raise Missing(f"not evaluated: {what}")
    return cells


def need_two_tasks(matrix: AccuracyMatrix) -> None:
    """Refuse a stream in which nothing can be forgotten: raises ``Missing`` for one task."""
    if len(matrix) < 2:
        raise Missing("needs at least two tasks")


def diagonal(matrix: AccuracyMatrix) -> FloatArray:
    """R[j,j] of every task. [T]"""
    return need(np.diagonal(matrix.value), "R[j,j]: each task right after learning it")


def _final_list(matrix: AccuracyMatrix) -> FloatArray:
    """V_j of every task; that of the last is R[T,T] and not needed."""
    need(matrix.final_list[:-1], "V_j: task j < T right after learning it, under the final class list")
    return matrix.final_list


def _columns(matrix: AccuracyMatrix) -> list[FloatArray]:
    """Accuracies R[j..T, j] of every task but the last."""
    need_two_tasks(matrix)
    columns = [matrix.value[j:, j] for j in range(len(matrix) - 1)]
    for column in columns:
        need(column, "R[i,j] of every task j < T at every stage i >= j")
    return columns


def _transfer(matrix: AccuracyMatrix) -> float:
    need_two_tasks(matrix)
    final = need(matrix.value[-1], "R[T,j] of every task")
    return float((final - diagonal(matrix))[:-1].mean())


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
    counted = [matrix.correct[i, : i + 1].sum() / matrix.total[i, : i + 1].sum() for i in range(len(matrix))]
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


METRICS: dict[str, Metric] = {}


def _add(
    key: str,
    title: str,
    definition: str,
    higher_is_better: bool,
    compute: Callable[[AccuracyMatrix], Value] | None = None,
    unit: str = "%",
) -> None:
    METRICS[key] = Metric(key, title, definition, higher_is_better, compute, unit)


def _metric(key: str, title: str, definition: str, higher_is_better: bool) -> Callable[[Formula], Formula]:
    """Enter a formula among ``METRICS``."""

    def enter(formula: Formula) -> Formula:
        _add(key, title, definition, higher_is_better, or_undefined(formula))
        return formula

    return enter


@_metric("last_acc", "last accuracy", f"A_T = Σ_j correct[T,j] / Σ_j n_j; {_POOLED}", True)
def _last_acc(matrix: AccuracyMatrix) -> float:
    need(matrix.value[-1], "R[T,j] of every task")
    return float(need(stage_accuracy(matrix)[-1:], _NOT_POOLED)[0])


@_metric("mean_final_acc", "mean final accuracy", "(1/T) Σ_j R[T,j]", True)
def _mean_final_acc(matrix: AccuracyMatrix) -> float:
    return float(need(matrix.value[-1], "R[T,j] of every task").mean())


@_metric("learning_acc", "learning accuracy", "(1/T) Σ_j R[j,j]", True)
def _learning_acc(matrix: AccuracyMatrix) -> float:
    return float(diagonal(matrix).mean())


@_metric("avg_incremental_acc", "average incremental accuracy", "(1/T) Σ_i (1/i) Σ_{j≤i} R[i,j]", True)
def _avg_incremental_acc(matrix: AccuracyMatrix) -> float:
    return float(np.mean(need(seen_accuracy(matrix), "R[i,j] of every j <= i")))


@_metric(
    "avg_incremental_acc_micro",
    "average incremental accuracy, micro",
    f"(1/T) Σ_i A_i, A_i = Σ_{{j≤i}} correct[i,j] / Σ_{{j≤i}} n_j; {_POOLED}",
    True,
)
def _avg_incremental_acc_micro(matrix: AccuracyMatrix) -> float:
    need(seen_accuracy(matrix), "R[i,j] of every j <= i")
    return float(np.mean(need(stage_accuracy(matrix), _NOT_POOLED)))


@_metric("forgetting", "forgetting", "(1/(T−1)) Σ_{j<T} (max_{j≤i≤T} R[i,j] − R[T,j])", False)
def _forgetting(matrix: AccuracyMatrix) -> float:
    return float(np.mean([column.max() - column[-1] for column in _columns(matrix)]))


@_metric(
    "forgetting_chaudhry", "forgetting (Chaudhry 2018)", "(1/(T−1)) Σ_{j<T} (max_{j≤i≤T−1} R[i,j] − R[T,j])", False
)
def _forgetting_chaudhry(matrix: AccuracyMatrix) -> float:
    return float(np.mean([column[:-1].max() - column[-1] for column in _columns(matrix)]))


@_metric(
    "forgetting_chaudhry_all",
    "forgetting (Chaudhry 2018, from task 1)",
    "(1/(T−1)) Σ_{j<T} (max_{1≤i≤T−1} R[i,j] − R[T,j])",
    False,
)
def _forgetting_chaudhry_all(matrix: AccuracyMatrix) -> float:
    need_two_tasks(matrix)
    earlier = need(matrix.value[:-1, :-1], "R[i,j] of every task j < T at every stage i < T: future tasks")
    final = need(matrix.value[-1], "R[T,j] of every task")
    return float((earlier.max(axis=0) - final[:-1]).mean())


@_metric("forgetting_diag", "forgetting (diagonal)", "(1/(T−1)) Σ_{j<T} (R[j,j] − R[T,j])", False)
def _forgetting_diag(matrix: AccuracyMatrix) -> float:
    return -_transfer(matrix)


@_metric("forgetting_vocabulary", "forgetting by the class list", "(1/(T−1)) Σ_{j<T} (R[j,j] − V_j)", False)
def _forgetting_vocabulary(matrix: AccuracyMatrix) -> float:
    need_two_tasks(matrix)
    return float((diagonal(matrix) - _final_list(matrix))[:-1].mean())


@_metric("forgetting_weights", "forgetting by the weights", "(1/(T−1)) Σ_{j<T} (V_j − R[T,j])", False)
def _forgetting_weights(matrix: AccuracyMatrix) -> float:
    need_two_tasks(matrix)
    final = need(matrix.value[-1], "R[T,j] of every task")
    return float((_final_list(matrix) - final)[:-1].mean())


_add("forgetting_superficial", "superficial forgetting", "(1/(T−1)) Σ_{j<T} S_j / n_j", False)
_add("forgetting_essential", "essential forgetting", "(1/(T−1)) Σ_{j<T} E_j / n_j", False)
_add("gained", "gained", "(1/(T−1)) Σ_{j<T} G_j / n_j", True)
_add("lost_to_newest", "lost to the newest task", "Σ_{j<T} N_j / Σ_{j<T} (S_j + E_j)", False)


@_metric("bwt", "backward transfer", "(1/(T−1)) Σ_{j<T} (R[T,j] − R[j,j])", True)
def _bwt(matrix: AccuracyMatrix) -> float:
    return _transfer(matrix)


@_metric("fwt", "forward transfer", "(1/(T−1)) Σ_{j≥2} (R[j−1,j] − b_j)", True)
def _fwt(matrix: AccuracyMatrix) -> float:
    need_two_tasks(matrix)
    before = need(np.diagonal(matrix.value, offset=1), "R[j-1,j]: future tasks")
    return float((before - need(matrix.base[1:], "b_j: the base model")).mean())


@_metric(
    "relative_forgetting",
    "relative forgetting",
    "(1/(T−1)) Σ_{j<T} (max_{j≤i≤T} R[i,j] − R[T,j]) / max_{j≤i≤T} R[i,j]",
    False,
)
def _relative_forgetting(matrix: AccuracyMatrix) -> float:
    columns = _columns(matrix)
    never = [str(j) for j, column in enumerate(columns, start=1) if column.max() == 0]
    if never:
        raise Missing(f"nothing to forget: accuracy on task {', '.join(never)} was 0 after every stage")
    return float(np.mean([(column.max() - column[-1]) / column.max() for column in columns]))


@_metric("intransigence", "intransigence", "(1/T) Σ_j (J_j − R[j,j])", False)
def _intransigence(matrix: AccuracyMatrix) -> float:
    return float((need(matrix.joint, "J_j: joint training") - diagonal(matrix)).mean())


@_metric("min_acc", "worst task", "min_j R[T,j]", True)
def _min_acc(matrix: AccuracyMatrix) -> float:
    return float(need(matrix.value[-1], "R[T,j] of every task").min())


_add("general_delta", "general ability change", "probe accuracy after task T − before task 1", True)
_add("kl_base", "KL to the base", "mean over stages of KL per token on a new task's inputs", False, unit=NATS)
_add("kl_prev", "KL to the previous policy", "as kl_base, with the previous task's policy", False, unit=NATS)


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
            values[key] = compute(matrix)
        elif key in DRIFTS:
            values |= mean_kl(key, {})
        elif key != "general_delta":
            values[key] = undefined("not in the matrix: it is read from single predictions")
        elif before or after:
            values |= general_delta(before or {}, after or {})
        else:
            values[key] = undefined("not measured: no probe outside the stream")
    return values
