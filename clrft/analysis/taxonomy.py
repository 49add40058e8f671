"""What kind of forgetting, method by method: the kinds of every run's answers, over class orders.

A run whose predictions are missing, damaged or not those of its matrix is named and left out, never averaged in.
Deliberately absent: what a kind is (``eval.taxonomy``), tables (``clrft.analysis.taxonomy_tables``), pictures
(``clrft.analysis.taxonomy_figures``).
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clrft.analysis.compare import Comparison, Group, Summary, summarise
from clrft.analysis.study import Study
from clrft.runs.read import RunRecord
from clrft.runs.taxonomy import RunKinds, run_kinds, task_classes
from eval.judgement import Failure
from eval.matrix import FloatArray
from eval.metrics import Value, undefined
from eval.taxonomy import KINDS, OUTCOME_TITLES, OUTCOMES, shares
from task_streams.errors import UserError

Shares = Mapping[Failure, Summary]
# Metrics that take forgetting apart: the whole, by what caused it, by what was lost.
BY_CAUSE = ("forgetting_vocabulary", "forgetting_weights")
SPLIT = ("forgetting_diag", *BY_CAUSE, *KINDS)


@dataclass(frozen=True, slots=True)
class GroupKinds:
    """Kinds of forgetting of runs that differ in nothing but the class order.

    Attributes:
        group: the runs, those left out that could not be read; its ``metrics`` are still over all of them.
        runs: kinds of every run, by seed of its class order.
        cells: share of every outcome by (stage, task), over class orders; the shares of a cell sum to 1.
        old: mean of these shares over the old tasks j < i, by stage i > 1; of joint training the last stage only.
        confusion: shares of a task's items (row) answered with a class of each task (column), then outside of the
            list, then without an answer, after the last stage; mean over class orders. None where the class of an
            answer does not tell its task. [T, T+2]
        undivided: why it does not; None where it does.
        metrics: the metrics of ``SPLIT``.
    """

    group: Group
    runs: Mapping[int, RunKinds]
    cells: Mapping[tuple[int, int], Shares]
    old: Mapping[int, Shares]
    confusion: FloatArray | None
    undivided: str | None
    metrics: Mapping[str, Summary]


KindReport = Study[GroupKinds]


def kind_report(comparison: Comparison) -> KindReport:
    """The kinds of forgetting of a comparison's groups."""
    found: list[GroupKinds] = []
    without: list[str] = []
    for group in comparison.groups:
        runs: dict[int, RunKinds] = {}
        for run in group.runs:
            try:
                runs[run.seed] = run_kinds(run.folder, run.matrix, task_classes(run.manifest, len(run.matrix)))
            except UserError as error:
                without.append(f"{run.folder}: its answers are left out: {shortened(error.problems)}")
        if runs:
            kept = tuple(run for run in group.runs if run.seed in runs)
            found.append(group_kinds(replace(group, runs=kept), runs))
    return Study(comparison=comparison, without=tuple(without), groups=tuple(found))


def group_kinds(group: Group, runs: Mapping[int, RunKinds]) -> GroupKinds:
    """The kinds of a group's runs over class orders; ``runs``: by seed, one for each run."""
    shared = {seed: {cell: shares(counts) for cell, counts in one.cells.items()} for seed, one in runs.items()}
    cells = {cell: over_orders({seed: one.get(cell) for seed, one in shared.items()}) for cell in _cells(runs.values())}
    stages = sorted({stage for stage, task in cells if task < stage})
    old = {stage: over_orders({seed: _mean_of_old(one, stage) for seed, one in shared.items()}) for stage in stages}
    reasons = [one.undivided for one in runs.values() if one.undivided is not None]
    tables = [_row_shares(one.confusion) for one in runs.values() if one.confusion is not None]
    return GroupKinds(
        group=group,
        runs=runs,
        cells=cells,
        old=old,
        confusion=None if reasons else np.asarray(np.mean(tables, axis=0)),
        undivided=reasons[0] if reasons else None,
        metrics=_split(group.runs, runs),
    )


def over_orders(values: Mapping[int, Mapping[Failure, float] | None]) -> Shares:
    """Share of every outcome over class orders; an order without the cell leaves it without a mean."""
    absent = undefined("not evaluated")
    return {
        outcome: summarise({seed: absent if one is None else Value(one[outcome]) for seed, one in values.items()})
        for outcome in OUTCOMES
    }


def shown_outcomes(groups: Sequence[GroupKinds]) -> dict[Failure, str]:
    """Outcomes that a stream's tables and figures show, with their titles: those that can come up in it."""
    if all(one.undivided is None for one in groups):
        return {outcome: OUTCOME_TITLES[outcome] for outcome in OUTCOMES if outcome != "wrong"}
    came_up = {
        outcome for one in groups for run in one.runs.values() for counts in run.cells.values() for outcome in counts
        if counts[outcome] > 0
    }  # fmt: skip
    titles = {**OUTCOME_TITLES, "same_task": "another class"}  # where all tasks have the same classes
    return {outcome: titles[outcome] for outcome in OUTCOMES if outcome in {*came_up, "none", "format"}}


def shortened(sentences: Sequence[str], most: int = 2) -> str:
    """The first sentences, and how many more there are."""
    more = f" (and {len(sentences) - most} more)" if len(sentences) > most else ""
    return " ".join(sentences[:most]) + more


def _split(records: Sequence[RunRecord], runs: Mapping[int, RunKinds]) -> dict[str, Summary]:
    """Metrics of ``SPLIT`` over class orders: those of the matrix, and those of the predictions."""
    values = {record.seed: {**record.metrics, **runs[record.seed].metrics} for record in records}
    return {key: summarise({seed: one[key] for seed, one in values.items()}) for key in SPLIT}


def _mean_of_old(cells: Mapping[tuple[int, int], Mapping[Failure, float]], stage: int) -> dict[Failure, float] | None:
    """Mean shares over the tasks before a stage's; None where one of them was not tested."""
    old = [cells.get((stage, task)) for task in range(1, stage)]
    tested = [one for one in old if one is not None]
    if len(tested) < len(old):
        return None
    return {outcome: statistics.fmean(one[outcome] for one in tested) for outcome in OUTCOMES}


def _cells(runs: Iterable[RunKinds]) -> list[tuple[int, int]]:
    return sorted({cell for run in runs for cell in run.cells})


def _row_shares(counts: np.typing.NDArray[np.int64]) -> FloatArray:
    """Counts as shares of their row, NaN in a row without items. [T, T+2]"""
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(axis=1, keepdims=True), dtype=np.float64)
