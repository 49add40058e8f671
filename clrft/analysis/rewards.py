"""What the rewards of a run's rollouts were made of, task by task: read from its steps, averaged over class orders.

A batch of rollouts counts once, however many updates were made on it: the figures stand in the row of its first
update, and the means are over the rows that have them. What was not measured has no mean, never 0. Tables show rewards
as they are, shares of reranked pairs in percent; CSV holds fractions.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from clrft.analysis.compare import Comparison, Group, Study, Summary, over_n
from clrft.analysis.groups import summarise_all
from clrft.analysis.render import long_csv
from clrft.analysis.table import DASH, Column, Part, Sentence, Table, cells, number_cell, text_columns
from eval.judgement import COMPONENTS
from eval.metrics import Value, undefined

Kind = Literal["updates", "batches", "component", "reward", "added", "reranked", "shaped"]
StepRow = Mapping[str, float]
EXPLAINED = (
    "Means over a task's updates: the unshaped components and their sum (reward), what each shaper added to it, and "
    "the share of the pairs inside a group whose order it changed."
)

PARTS_OF_REWARDS = tuple(dict.fromkeys(name for names in COMPONENTS.values() for name in names))


class Figure(NamedTuple):
    """One figure of a task's rewards.

    Updates and batches (of rollouts) are counts; ``component``: mean of an unshaped component; ``reward``: their sum;
    ``added``: mean change that a method made; ``reranked``: share of the pairs inside a group whose order it changed;
    ``shaped``: what the advantages were made from.
    """

    kind: Kind
    name: str = ""  # of the component or method

    @property
    def column(self) -> str:
        """Name in ``steps.jsonl``; empty for counts."""
        if self.kind in ("added", "reranked"):
            return f"{self.name}_{self.kind}"
        columns = {"component": f"reward_{self.name}", "reward": "reward", "shaped": "reward_shaped"}
        return columns.get(self.kind, "")


UPDATES, BATCHES, REWARD, SHAPED = Figure("updates"), Figure("batches"), Figure("reward"), Figure("shaped")


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """Rewards of runs that differ in nothing but the class order."""

    group: Group
    components: tuple[str, ...]  # unshaped, in the order in which they are logged
    shapers: tuple[str, ...]  # methods that shaped the rewards, in their order
    tasks: dict[int, dict[Figure, Summary]]  # by position of the task; a joint run has one entry, its last stage

    def task_name(self, task: int) -> str:
        """A task's number; a joint run learns all at once."""
        return "all" if self.group.joint else str(task)


def reward_report(comparison: Comparison) -> Study[list[GroupRewards]]:
    """The rewards of a comparison's groups; runs without any are named.

    Raises:
        UserError: a file of steps is damaged.
    """
    found: dict[str, list[GroupRewards]] = {}
    without: list[str] = []
    for group in comparison.groups:
        # of every stage after the base; of a joint run the last alone
        steps = {run.seed: {stage: run.steps(stage) for stage in run.stages() if stage > 0} for run in group.runs}
        rows = [row for stages in steps.values() for stage in stages.values() for row in stage]
        if not any(measured(row, REWARD.column) is not None for row in rows):
            why = "it learned from targets" if rows else "nothing was trained"
            without.append(f"{group.stream}: {group.label} has no rewards: {why}.")
            continue
        recorded = {column for row in rows for column in row}
        components = [name for name in PARTS_OF_REWARDS if Figure("component", name).column in recorded]
        method = group.runs[0].config.get("method") or {}  # any of its names and parts may have shaped rewards
        names = [*str(method.get("name", group.method)).split("+"), *(method.get("parts") or {})]
        shapers = [name for name in dict.fromkeys(names) if Figure("added", name).column in recorded]
        figures = [REWARD, SHAPED, *(Figure("component", name) for name in components)]
        figures += [Figure(kind, name) for name in shapers for kind in ("added", "reranked")]
        tasks = {}
        for stage in sorted({stage for by_stage in steps.values() for stage in by_stage}):
            values = {seed: task_rewards(by_stage.get(stage, ()), figures) for seed, by_stage in steps.items()}
            tasks[stage] = summarise_all(values, "not measured")
        found.setdefault(group.stream, []).append(GroupRewards(group, tuple(components), tuple(shapers), tasks))
    return Study(comparison, found, without)


def task_rewards(rows: Sequence[StepRow], figures: Iterable[Figure]) -> dict[Figure, Value]:
    """The figures of one task: means over the rows that have them, and counts."""
    batches = sum(measured(row, REWARD.column) is not None for row in rows)
    found = {UPDATES: Value(float(len(rows))), BATCHES: Value(float(batches))}
    for figure in figures:
        values = [value for row in rows if (value := measured(row, figure.column)) is not None]
        found[figure] = Value(statistics.fmean(values)) if values else undefined("not measured")
    return found


def measured(row: StepRow, column: str) -> float | None:
    """A row's figure; None where it has none, or none that is a finite number."""
    value = row.get(column)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def reward_parts(report: Study[list[GroupRewards]]) -> list[Part]:
    """Everything that the terminal and Markdown show of the rewards, but the closing sentences."""
    parts: list[Part] = [Sentence(EXPLAINED, places=("markdown",))] if report.streams else []
    for stream, groups in report.streams.items():
        components = list(dict.fromkeys(name for one in groups for name in one.components))
        columns = [Column("method", "text"), Column("orders", short="n"), Column("task", "text"), Column("updates")]
        columns += [Column("batches", places=("markdown",)), *map(Column, components)]
        columns += [Column("reward"), Column("shaped reward", short="shaped")]
        means = [*(Figure("component", name) for name in components), REWARD, SHAPED]
        rows = []
        for one in groups:
            for task, figures in one.tasks.items():
                row = cells(one.group.label, len(one.group.runs), one.task_name(task))
                for figure in (UPDATES, BATCHES):
                    # mostly the same in every class order; otherwise the least and the most
                    counts = set(map(round, figures[figure].known().values()))
                    ends = [min(counts), max(counts)][: len(counts)] if counts else []
                    row += cells("–".join(map(str, ends)) or DASH)
                rows.append(row + [number_cell(figures[key].mean if key in figures else None, 3) for key in means])
        title = f"{stream}: rewards by task, {over_n((one.group for one in groups), 'mean')}"
        parts.append(Table(title, columns, rows, places=("terminal", "markdown")))
        rows = [
            cells(
                *(one.group.label, one.task_name(task), name),
                number_cell(figures[Figure("added", name)].mean, 3, sign=True),
                number_cell(figures[Figure("reranked", name)].mean, scale=100),
            )
            for one in groups
            for task, figures in one.tasks.items()
            for name in one.shapers
        ]
        columns = [*text_columns("method", "task", "shaper"), Column("added"), Column("reranked pairs, %")]
        if rows:
            parts.append(Table("What each shaper did", columns, rows, places=("terminal", "markdown")))
    return parts


def rewards_table(report: Study[list[GroupRewards]], stream: str) -> Table:
    """One row per method, task and figure of its rewards, for the report."""
    rows = [
        cells(one.group.label, one.task_name(task), " ".join(figure).strip(), number_cell(summary.mean, 3))
        for one in report.streams[stream]
        for task, figures in one.tasks.items()
        for figure, summary in figures.items()
    ]
    columns = [*text_columns("method", "task", "figure"), Column("mean")]
    return Table(f"{stream}: rewards", columns, rows, report.comparison.key("rewards", stream), folded=True)


def rewards_to_csv(report: Study[list[GroupRewards]]) -> str:
    """One row per stream, method, task and figure: mean, standard deviation, and the value of every class order.

    ``kind`` is that of ``Figure``, ``name`` the component or the shaper.
    """
    rows = [
        (one.group, [task, *figure], summary)
        for groups in report.streams.values()
        for one in groups
        for task, figures in one.tasks.items()
        for figure, summary in figures.items()
    ]
    return long_csv(["task", "kind", "name"], rows, report.comparison.mixed_by_stream())
