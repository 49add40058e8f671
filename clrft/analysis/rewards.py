"""What the rewards of a run's rollouts were made of, task by task: read from its steps, averaged over class orders.

A batch of rollouts counts once, however many updates were made on it: the figures stand in the row of its first
update, and the means are over the rows that have them. What was not measured has no mean, never 0.
Deliberately absent: tables (``clrft.analysis.reward_tables``) and the picture (``clrft.analysis.reward_figures``).
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from clrft.analysis.compare import Comparison, Group, Summary, summarise
from clrft.analysis.study import Study
from clrft.runs.read import RunRecord
from eval.judgement import COMPONENTS
from eval.metrics import Value, undefined

Kind = Literal["updates", "batches", "component", "reward", "added", "reranked", "shaped"]
StepRow = Mapping[str, float]

PARTS_OF_REWARDS = tuple(dict.fromkeys(name for names in COMPONENTS.values() for name in names))


class Figure(NamedTuple):
    """One figure of a task's rewards.

    Attributes:
        kind: ``updates`` and ``batches`` (of rollouts) are counts; ``component``: mean of an unshaped component;
            ``reward``: their sum; ``added``: mean change that a method made; ``reranked``: share of the pairs inside a
            group whose order it changed; ``shaped``: what the advantages were made from.
        name: of the component or method; empty for the others.
    """

    kind: Kind
    name: str = ""

    @property
    def column(self) -> str:
        """Name in ``steps.jsonl``; empty for counts."""
        columns = {
            "component": f"reward_{self.name}",
            "reward": "reward",
            "added": f"{self.name}_added",
            "reranked": f"{self.name}_reranked",
            "shaped": "reward_shaped",
        }
        return columns.get(self.kind, "")


UPDATES, BATCHES, REWARD, SHAPED = Figure("updates"), Figure("batches"), Figure("reward"), Figure("shaped")


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """Rewards of runs that differ in nothing but the class order.

    Attributes:
        group: the runs.
        components: unshaped components, in the order in which they are logged.
        shapers: methods that shaped the rewards, in their order.
        tasks: figures over class orders, by position of the task; a joint run has one entry, its last stage.
    """

    group: Group
    components: tuple[str, ...]
    shapers: tuple[str, ...]
    tasks: dict[int, dict[Figure, Summary]]


RewardReport = Study[GroupRewards]


def reward_report(comparison: Comparison) -> RewardReport:
    """The rewards of a comparison's groups; runs without any are named.

    Raises:
        UserError: a file of steps is damaged.
    """
    found: list[GroupRewards] = []
    without: list[str] = []
    for group in comparison.groups:
        steps = {run.seed: trained_steps(run) for run in group.runs}
        rows = [row for stages in steps.values() for stage in stages.values() for row in stage]
        if any(measured(row, REWARD.column) is not None for row in rows):
            found.append(_group_rewards(group, steps, rows))
        else:
            why = "it learned from targets" if rows else "nothing was trained"
            without.append(f"{group.stream}: {group.label} has no rewards: {why}.")
    return Study(comparison=comparison, without=tuple(without), groups=tuple(found))


def trained_steps(run: RunRecord) -> dict[int, list[dict[str, float]]]:
    """Rows of every stage after the base, by stage; of a joint run only the last."""
    return {stage: run.steps(stage) for stage in run.stages() if stage > 0}


def task_rewards(rows: Sequence[StepRow], figures: Iterable[Figure]) -> dict[Figure, Value]:
    """The figures of one task: means over the rows that have them, and counts."""
    batches = sum(measured(row, REWARD.column) is not None for row in rows)
    counts = {UPDATES: Value(float(len(rows))), BATCHES: Value(float(batches))}
    return counts | {figure: _mean(rows, figure.column) for figure in figures}


def measured(row: StepRow, column: str) -> float | None:
    """A row's figure; None where it has none, or none that is a finite number."""
    value = row.get(column)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def shapers_of(run: RunRecord) -> list[str]:
    """Names of the run's methods, in their order: any of them may have shaped rewards."""
    method = run.config.get("method") or {}
    return [*str(method.get("name", run.method)).split("+"), *(method.get("parts") or {})]


def _group_rewards(
    group: Group, steps: Mapping[int, Mapping[int, Sequence[StepRow]]], rows: Sequence[StepRow]
) -> GroupRewards:
    recorded = {column for row in rows for column in row}
    components = [name for name in PARTS_OF_REWARDS if Figure("component", name).column in recorded]
    shapers = [name for name in dict.fromkeys(shapers_of(group.runs[0])) if Figure("added", name).column in recorded]
    figures = [REWARD, SHAPED, *(Figure("component", name) for name in components)]
    for name in shapers:
        figures += [Figure("added", name), Figure("reranked", name)]
    stages = sorted({stage for by_stage in steps.values() for stage in by_stage})
    tasks = {}
    for stage in stages:
        values = {seed: task_rewards(by_stage.get(stage, ()), figures) for seed, by_stage in steps.items()}
        tasks[stage] = {
            figure: summarise({seed: one[figure] for seed, one in values.items()})
            for figure in (UPDATES, BATCHES, *figures)
        }
    return GroupRewards(group, tuple(components), tuple(shapers), tasks)


def _mean(rows: Sequence[StepRow], column: str) -> Value:
    values = [value for row in rows if (value := measured(row, column)) is not None]
    return Value(statistics.fmean(values)) if values else undefined("not measured")
