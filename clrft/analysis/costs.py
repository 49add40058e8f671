"""What runs cost: tokens, images, model operations and processor time by activity, per run and over class orders.

Data for tables and pictures; every figure is a sum over a run's stages of what their ``metrics.json`` tells. A figure
that one stage lacks is undefined for the run, with a reason; an activity that a run does not have costs nothing.
Deliberately absent: money, energy, and a comparison of runs from different machines: seconds are those of the machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clrft.analysis.compare import Comparison, Group, Summary, summarise
from clrft.analysis.study import Study
from clrft.runs.cost_names import ACTIVITIES, FIGURES, MEMORY, TRAIN
from clrft.runs.read import RunRecord
from eval.metrics import Value, undefined

Figure = tuple[str, str]  # activity and name


@dataclass(frozen=True, slots=True)
class RunCost:
    """What one run cost.

    Attributes:
        run: the run.
        figures: by activity and name; those of ``FIGURES`` that were counted in every stage, others with the reason.
        memory: highest memory of the process at any stage, MB, by kind.
    """

    run: RunRecord
    figures: Mapping[Figure, Value]
    memory: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class GroupCost:
    """What a method cost over class orders: every figure of its runs, and the highest memory of any."""

    group: Group
    figures: Mapping[Figure, Summary]
    memory: Mapping[str, float]

    @property
    def trains(self) -> bool:
        """Whether the runs trained at all."""
        return any(activity == TRAIN for activity, _ in self.figures)

    def mean(self, activity: str, name: str) -> float | None:
        """Mean of a figure over class orders; None where it is undefined or the activity is absent."""
        summary = self.figures.get((activity, name))
        return None if summary is None else summary.mean


CostReport = Study[GroupCost]


def cost_report(comparison: Comparison) -> CostReport:
    """Costs of every group's runs.

    Raises:
        UserError: a stage's figures cannot be read.
    """
    found, without = [], []
    for group in comparison.groups:
        costs = [cost_of_run(run) for run in group.runs]
        if any(cost.figures for cost in costs):
            found.append(_over_orders(group, costs))
        else:
            without.append(f"{group.stream}, {group.label}: its runs did not count what they cost.")
    return Study(comparison=comparison, without=tuple(without), groups=tuple(found))


def cost_of_run(run: RunRecord) -> RunCost:
    """What a run cost, stage by stage added up.

    Raises:
        UserError: a stage's figures cannot be read.
    """
    records = {stage: run.task_metrics(stage) for stage in run.stages()}
    figures: dict[Figure, Value] = {}
    for activity in ACTIVITIES:
        parts = {stage: record.get("cost", {}).get(activity) for stage, record in records.items()}
        had = {stage: part for stage, part in parts.items() if part}
        silent = [
            stage for stage, record in records.items() if activity in record.get("seconds", {}) and stage not in had
        ]
        for name in dict.fromkeys(name for part in had.values() for name in part):
            missing = [*silent, *(stage for stage, part in had.items() if name not in part)]
            if missing:
                figures[activity, name] = undefined(f"not counted in stage {', '.join(map(str, missing))}")
            else:
                figures[activity, name] = Value(float(sum(part[name] for part in had.values())))
    peaks = [record.get("peak_memory_mb", {}) for record in records.values()]
    memory = {
        kind: max(peak[kind] for peak in peaks if kind in peak) for kind in MEMORY if any(kind in p for p in peaks)
    }
    return RunCost(run, figures, memory)


def _over_orders(group: Group, costs: Sequence[RunCost]) -> GroupCost:
    names = sorted({figure for cost in costs for figure in cost.figures}, key=_rank)
    absent = undefined("not counted in this run")
    figures = {name: summarise({cost.run.seed: cost.figures.get(name, absent) for cost in costs}) for name in names}
    memory = {kind: max(c.memory[kind] for c in costs if kind in c.memory) for kind in MEMORY if _any(costs, kind)}
    return GroupCost(group, figures, memory)


def _any(costs: Sequence[RunCost], kind: str) -> bool:
    return any(kind in cost.memory for cost in costs)


def _rank(figure: Figure) -> tuple[int, int]:
    activity, name = figure
    return ACTIVITIES.index(activity), FIGURES.index(name) if name in FIGURES else len(FIGURES)
