"""What kind of forgetting, method by method: what every run's answers were, over class orders.

A run whose predictions are missing, damaged or not those of its matrix is named and left out, never averaged in.
Tables show percent, CSV holds fractions. Deliberately absent: what a kind is (``eval.taxonomy``).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clrft.analysis.compare import Comparison, Group, Study, Summary, over_n, summarise
from clrft.analysis.render import Figures, long_csv
from clrft.analysis.table import Column, Medium, Part, Sentence, Table, cells, number_cell, summary_cell
from clrft.runs.taxonomy import RunKinds, run_kinds, task_classes
from eval.judgement import Failure
from eval.matrix import FloatArray
from eval.metrics import METRICS, Value, metric_of, undefined
from eval.taxonomy import BESIDE, KINDS, OUTCOME_TITLES, OUTCOMES, shares
from task_streams.errors import UserError

Shares = Mapping[Failure, Summary]
# Metrics that take forgetting apart: the whole, by what caused it, by what was lost.
BY_CAUSE = ("forgetting_vocabulary", "forgetting_weights")
SPLIT = ("forgetting_diag", *BY_CAUSE, *KINDS)
NARROW = ("whole", "by the list", "by the weights", "superficial", "essential", "gained", "to newest, % of lost")
LOST = ("format", "outside", "named", "essential", "newest")
EXPLAINED = (
    "Forgetting of the old tasks from right after learning them to the end (`forgetting_diag`), taken apart in two "
    "ways. By cause: what the growing class list alone takes (`forgetting_vocabulary`), and what the later training "
    "takes (`forgetting_weights`). By what was lost: items whose answer lost its form, or whose right class is still "
    "named beside the answer (`forgetting_superficial`), all other lost items (`forgetting_essential`), less what was "
    "`gained`. Last: the share of the lost items that were answered with a class of the newest task "
    "(`lost_to_newest`)."
)


@dataclass(frozen=True, slots=True)
class GroupTaxonomy:
    """Kinds of forgetting of runs that differ in nothing but the class order.

    ``confusion`` holds, after the last stage and as a mean over class orders, the share of a task's items (row) that
    were answered with a class of each task (column), then outside of the list, then without an answer. [T, T+2]
    """

    group: Group  # without the runs that could not be read; its ``metrics`` are still over all of them
    runs: Mapping[int, RunKinds]  # by seed of the class order
    cells: Mapping[tuple[int, int], Shares]  # by (stage, task), over class orders
    old: Mapping[int, Shares]  # mean over the old tasks j < i, by stage i > 1; of joint training the last stage only
    confusion: FloatArray | None  # None where the class of an answer does not tell its task
    undivided: str | None  # why it does not
    metrics: Mapping[str, Summary]  # those of ``SPLIT``


def taxonomy_report(comparison: Comparison) -> Study[list[GroupTaxonomy]]:
    """The kinds of forgetting of a comparison's groups."""
    found: dict[str, list[GroupTaxonomy]] = {}
    without: list[str] = []
    for group in comparison.groups:
        runs: dict[int, RunKinds] = {}
        for run in group.runs:
            try:
                runs[run.seed] = run_kinds(run.folder, run.matrix, task_classes(run.manifest, len(run.matrix)))
            except UserError as error:
                more = f" (and {len(error.problems) - 2} more)" if len(error.problems) > 2 else ""
                without.append(f"{run.folder}: its answers are left out: {' '.join(error.problems[:2])}{more}")
        if runs:
            kept = tuple(run for run in group.runs if run.seed in runs)
            found.setdefault(group.stream, []).append(group_taxonomy(replace(group, runs=kept), runs))
    return Study(comparison, found, without)


def group_taxonomy(group: Group, runs: Mapping[int, RunKinds]) -> GroupTaxonomy:
    """The kinds of a group's runs over class orders; ``runs``: by seed, one for each run."""
    shared = {seed: {cell: shares(counts) for cell, counts in one.cells.items()} for seed, one in runs.items()}
    found = sorted({cell for one in runs.values() for cell in one.cells})
    by_cell = {cell: _over_orders({seed: one.get(cell, {}) for seed, one in shared.items()}) for cell in found}
    stages = sorted({stage for stage, task in by_cell if task < stage})
    old = {}
    for stage in stages:
        means: dict[int, dict[Failure, float]] = {}
        for seed, one in shared.items():  # none where one of the tasks before the stage's was not tested
            before = [one.get((stage, task), {}) for task in range(1, stage)]
            means[seed] = {name: statistics.fmean(cell[name] for cell in before) for name in OUTCOMES if all(before)}
        old[stage] = _over_orders(means)
    why = next((one.undivided for one in runs.values() if one.undivided is not None), None)
    counts = [one.confusion for one in runs.values() if one.confusion is not None]
    with np.errstate(invalid="ignore"):  # NaN in a row without items
        tables = [table / table.sum(axis=1, keepdims=True) for table in counts]
    metrics = {run.seed: {**run.metrics, **runs[run.seed].metrics} for run in group.runs}
    return GroupTaxonomy(
        group=group,
        runs=runs,
        cells=by_cell,
        old=old,
        confusion=np.asarray(np.mean(tables, axis=0)) if why is None else None,
        undivided=why,
        metrics={key: summarise({seed: one[key] for seed, one in metrics.items()}) for key in SPLIT},
    )


def _over_orders(values: Mapping[int, Mapping[Failure, float]]) -> Shares:
    """Share of every outcome over class orders; an order without the cell leaves it without a mean."""
    absent = undefined("not evaluated")
    return {
        outcome: summarise({seed: Value(one[outcome]) if one else absent for seed, one in values.items()})
        for outcome in OUTCOMES
    }


def shown_outcomes(groups: Sequence[GroupTaxonomy]) -> dict[Failure, str]:
    """Outcomes that a stream's tables and figures show, with their titles: those that can come up in it."""
    if all(one.undivided is None for one in groups):
        return {outcome: OUTCOME_TITLES[outcome] for outcome in OUTCOMES if outcome != "wrong"}
    came_up = {
        outcome for one in groups for run in one.runs.values() for counts in run.cells.values() for outcome in counts
        if counts[outcome] > 0
    }  # fmt: skip
    titles = {**OUTCOME_TITLES, "same_task": "another class"}  # where all tasks have the same classes
    return {outcome: titles[outcome] for outcome in OUTCOMES if outcome in {*came_up, "none", "format"}}


def taxonomy_parts(report: Study[list[GroupTaxonomy]]) -> list[Part]:
    """Everything that the terminal and Markdown show: forgetting taken apart, answers to old tasks, tasks confused."""
    parts: list[Part] = [Sentence(EXPLAINED, places=("markdown",))]
    by_cause = ("forgetting_diag", *BY_CAUSE)
    for stream in report.streams:
        groups = report.streams[stream]
        parts += [split_table(report, stream, keys, ("terminal",)) for keys in (by_cause, KINDS)]  # in two, to fit
        parts += [split_table(report, stream), answers_table(report, stream, last=True), answers_table(report, stream)]
        if any(one.confusion is not None for one in groups):
            parts.append(confusion_table(report, stream))
        why: dict[str, list[str]] = {}  # once for all methods that share a reason
        for one in groups:
            for key, summary in one.metrics.items():
                if summary.reason is not None:
                    why.setdefault(f"{METRICS[key].title}: undefined ({summary.reason})", []).append(one.group.label)
            if one.undivided is not None:
                why.setdefault(f"task of the answer: undefined ({one.undivided})", []).append(one.group.label)
        parts += [Sentence(f"{sentence}: {', '.join(labels)}.", "note") for sentence, labels in why.items()]
    return [*parts, *report.comparison.closing(report.without)]


def split_table(
    report: Study[list[GroupTaxonomy]],
    stream: str,
    keys: Sequence[str] = SPLIT,
    places: tuple[Medium, ...] = ("markdown", "report"),
) -> Table:
    """The parts of forgetting by their metrics."""
    groups = report.streams[stream]
    rows = [
        cells(one.group.name, len(one.group.runs), *(summary_cell(one.metrics[key]) for key in keys)) for one in groups
    ]
    columns = [Column("method", "text"), Column("orders", short="n", places=("terminal", "markdown"))]
    for key in keys:
        columns.append(Column(metric_of(key).title, "summary", metric_of(key).definition, NARROW[SPLIT.index(key)]))
    title = f"{stream}: forgetting taken apart, {over_n(one.group for one in groups)}, percentage points"
    return Table(title, columns, rows, report.comparison.key("parts", stream), folded=True, places=places)


def answers_table(report: Study[list[GroupTaxonomy]], stream: str, last: bool = False) -> Table:
    """Share of every kind of answer to the old tasks after each task, or in the terminal after the last."""
    groups = report.streams[stream]
    outcomes = shown_outcomes(groups)
    rows = [
        cells(one.group.name, stage, *(summary_cell(shared[key]) for key in outcomes))
        for one in groups
        for stage, shared in one.old.items()
        if not last or stage == len(one.group.runs[0].matrix)
    ]
    columns = [Column("method", "text"), Column("after task", places=("markdown", "report"))]
    columns += [Column(name, "summary") for name in outcomes.values()]
    title = f"{stream}: answers to items of old tasks{' after the last task' if last else ''}, percent"
    places: tuple[Medium, ...] = ("terminal",) if last else ("markdown", "report")
    return Table(title, columns, rows, report.comparison.key("answers", stream), folded=True, places=places)


def confusion_table(report: Study[list[GroupTaxonomy]], stream: str) -> Table:
    """One row per method and task of the item: share of answers with a class of each task."""
    groups = report.streams[stream]
    rows = [
        cells(one.group.name, task, *(number_cell(float(share), scale=100) for share in row))
        for one in groups
        if one.confusion is not None
        for task, row in enumerate(one.confusion, start=1)
    ]
    size = len(groups[0].group.runs[0].matrix)
    names = (*(f"task {task}" for task in range(1, size + 1)), "outside of the list", "no answer")
    columns = (Column("method", "text"), Column("item of task"), *(Column(name) for name in names))
    title = f"{stream}: answers after the last task by task of the item and of the answer, percent"
    key = report.comparison.key("confusion", stream)
    return Table(title, columns, rows, key, folded=True, places=("markdown", "report"))


def taxonomy_to_csv(report: Study[list[GroupTaxonomy]]) -> str:
    """One row per stream, method and figure: mean, standard deviation, and the value of every class order.

    ``figure`` is ``forgetting`` (``name``: a metric), ``answers`` (``name``: an outcome's share of the items of a task
    after a stage), ``old`` (likewise, mean over the old tasks), and in counts of every order: ``confusion`` (answers to
    a task's items at the end; ``name``: the task of the chosen class) and ``lost`` (items of a task; ``name``:
    format, outside, named and essential, the ways in which they were lost; newest, those answered with a class of the
    newest task; and gained).
    """
    rows: list[tuple[Group, list[str | int], Summary | Figures]] = []
    groups = [one for groups in report.streams.values() for one in groups]
    for one in groups:
        rows += [(one.group, ["forgetting", "", "", key], summary) for key, summary in one.metrics.items()]
        shared = [("answers", stage, str(task), by_outcome) for (stage, task), by_outcome in one.cells.items()]
        shared += [("old", stage, "", by_outcome) for stage, by_outcome in one.old.items()]
        for figure, stage, task, by_outcome in shared:
            for outcome, summary in by_outcome.items():
                rows.append((one.group, [figure, stage, task, "right" if outcome == "none" else outcome], summary))
    for one in groups:
        tasks = len(one.group.runs[0].matrix)
        tables = {seed: run.confusion for seed, run in one.runs.items() if run.confusion is not None}
        for j in range(1, tasks + 1) if tables else ():
            for column, name in enumerate([*map(str, range(1, tasks + 1)), *BESIDE]):
                items = {seed: int(table[j - 1, column]) for seed, table in tables.items()}
                figures = Figures(len(items), None, None, None, items)
                rows.append((one.group, ["confusion", tasks, j, name], figures))
        for j in range(1, tasks):
            changes = {seed: run.changes[j] for seed, run in one.runs.items() if j in run.changes}
            for name in (*LOST, "gained") if changes else ():
                field = name if name == "gained" else f"lost_{name}"
                items = {seed: int(getattr(change, field)) for seed, change in changes.items()}
                rows.append((one.group, ["lost", tasks, j, name], Figures(len(items), None, None, None, items)))
    return long_csv(["figure", "stage", "task", "name"], rows, report.comparison.mixed_by_stream())
