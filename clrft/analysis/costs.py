"""What runs cost: tokens, images, model operations and processor time by activity, per run and over class orders.

Every figure is a sum over a run's stages of what their ``metrics.json`` tells. A figure that one stage lacks is
undefined for the run, with a reason; an activity that a run does not have costs nothing. Tables show numbers with a
prefix (``1.23 T`` operations) and hours, CSV holds counts and seconds.
Deliberately absent: money, energy, and a comparison of runs from different machines: seconds are those of the machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from clrft.analysis.compare import Comparison, Group, Study, Summary, over_n
from clrft.analysis.groups import summarise_all
from clrft.analysis.render import Figures, long_csv
from clrft.analysis.table import (
    DASH,
    EVERYWHERE,
    Column,
    Medium,
    Part,
    Sentence,
    Table,
    TableCell,
    cells,
    short,
    summary_cell,
    text_columns,
)
from clrft.runs.layout import ACTIVITIES, CPU, EVALUATE, FIGURES, GPU, MEMORY, TRAIN, WALL
from clrft.runs.read import RunRecord
from eval.metrics import Value, undefined

Figure = tuple[str, str]  # activity and name
HOUR = 3600.0
EXPLAINED = (
    "Per run, added up over its tasks. Prompt tokens are those of every row and pass, beside them those that went "
    "through the model (a group's shared prompt once); operations are floating point operations of the model, forward "
    "and backward; CPU hours are those of all threads, GPU hours the wall hours of a model on a GPU. Hours of runs "
    "from different machines, or that shared one, do not compare; counts do."
)
# Figure, its unit, the column's name, its name in the terminal, and where it is shown.
SHOWN: tuple[tuple[Figure, float, str, str, tuple[Medium, ...]], ...] = (
    ((TRAIN, "tokens_generated"), 1.0, "tokens generated", "generated", EVERYWHERE),
    ((TRAIN, "tokens_trained"), 1.0, "tokens trained", "", ("markdown", "report")),
    ((TRAIN, "prompt_tokens"), 1.0, "prompt tokens", "", ("markdown",)),
    ((TRAIN, "prompt_tokens_computed"), 1.0, "prompt tokens computed", "", ("markdown",)),
    ((TRAIN, "images"), 1.0, "images", "", ("markdown",)),
    ((TRAIN, "model_flops"), 1.0, "operations, training", "operations", EVERYWHERE),
    ((EVALUATE, "model_flops"), 1.0, "operations, tests", "test op.", EVERYWHERE),
    ((TRAIN, CPU), HOUR, "CPU hours, training", "CPU h", EVERYWHERE),
    ((TRAIN, GPU), HOUR, "GPU hours, training", "GPU h", EVERYWHERE),
    ((TRAIN, WALL), HOUR, "wall hours, training", "", ("markdown", "report")),
)


@dataclass(frozen=True, slots=True)
class GroupCost:
    """What a method cost over class orders: every figure of its runs, and the highest memory of any."""

    group: Group
    figures: Mapping[Figure, Summary]
    memory: Mapping[str, float]


def cost_report(comparison: Comparison) -> Study[list[GroupCost]]:
    """Costs of every group's runs.

    Raises:
        UserError: a stage's figures cannot be read.
    """
    found: dict[str, list[GroupCost]] = {}
    without = []
    for group in comparison.groups:
        costs = {run.seed: cost_of_run(run) for run in group.runs}
        counted = summarise_all({seed: figures for seed, (figures, _) in costs.items()}, "not counted in this run")
        if not counted:
            without.append(f"{group.stream}, {group.label}: its runs did not count what they cost.")
            continue
        names = sorted(counted, key=lambda one: (ACTIVITIES.index(one[0]), [*FIGURES, one[1]].index(one[1])))
        peaks = [peak for _, peaks in costs.values() for peak in peaks]
        memory = {kind: max(some) for kind in MEMORY if (some := [peak[kind] for peak in peaks if kind in peak])}
        found.setdefault(group.stream, []).append(GroupCost(group, {name: counted[name] for name in names}, memory))
    return Study(comparison, found, without)


def cost_of_run(run: RunRecord) -> tuple[dict[Figure, Value], list[Mapping[str, float]]]:
    """What a run cost, stage by stage added up, and the highest memory of the process at each of them, MB, by kind.

    A figure that was not counted in every stage is undefined.

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
    return figures, [record.get("peak_memory_mb", {}) for record in records.values()]


def cost_parts(report: Study[list[GroupCost]]) -> list[Part]:
    """Everything that the terminal and Markdown show."""
    parts: list[Part] = [Sentence(EXPLAINED, places=("markdown",))]
    names = ("generated", "prompt tokens", "images", "operations", "CPU h", "GPU h")
    figures = ("tokens_generated", "prompt_tokens", "images", "model_flops", CPU, GPU)
    for stream, groups in report.streams.items():
        parts.append(cost_table(report, stream))
        rows = []  # what was done beside training
        for one in groups:
            for activity in dict.fromkeys(activity for activity, _ in one.figures if activity != TRAIN):
                spent = [_cell(one.figures.get((activity, x)), HOUR if x in (CPU, GPU) else 1.0) for x in figures]
                rows.append(cells(one.group.name, activity, *spent))
        columns = [*text_columns("method", "activity"), *map(Column, names)]
        parts.append(Table(f"{stream}: everything but training", columns, rows, places=("markdown",)))
    return [*parts, *report.comparison.closing(report.without)]


def cost_table(report: Study[list[GroupCost]], stream: str) -> Table:
    """Per run: what was counted, hours, the highest memory, and quality."""
    groups = report.streams[stream]
    shown = [one for one in SHOWN if any(one[0] in group.figures for group in groups)]
    on_gpu = any(figure == (TRAIN, GPU) for figure, *_ in shown)
    columns = [Column("method", "text"), Column("n", places=("terminal", "markdown"))]
    for figure, _, name, narrow, places in shown:
        if on_gpu and figure == (TRAIN, CPU):  # the terminal has room for one of them
            places = ("markdown", "report")
        columns.append(Column(name, "summary", short=narrow, places=places))
    columns += [Column("peak memory, MB", short="MB"), Column("last accuracy, %", "summary", short="last")]
    columns.append(Column("forgetting, points", "summary", short="forgotten"))
    rows = []
    for one in groups:
        memory = TableCell(
            " + ".join(f"{most:,.0f}" for most in one.memory.values()) or DASH, max(one.memory.values(), default=None)
        )
        counted = [_cell(one.figures.get(figure), unit) for figure, unit, *_ in shown]
        quality = [summary_cell(one.group.metrics.get(key)) for key in (one.group.final_metric, "forgetting")]
        rows.append(cells(one.group.name, len(one.group.runs), *counted, memory, *quality))
    title = f"{stream}: cost per run, {over_n(one.group for one in groups)}, beside quality"
    return Table(title, columns, rows, report.comparison.key("costs", stream))


def costs_to_csv(report: Study[list[GroupCost]]) -> str:
    """One row per stream, method, activity and figure: mean, standard deviation, and every class order's value."""
    groups = [one for groups in report.streams.values() for one in groups]
    rows: list[tuple[Group, list[str], Summary | Figures]] = [
        (one.group, [*figure], summary) for one in groups for figure, summary in one.figures.items()
    ]
    rows += [
        (one.group, ["", kind], Figures(len(one.group.runs), most, None, None, {}))
        for one in groups
        for kind, most in one.memory.items()
    ]
    return long_csv(["activity", "figure"], rows, report.comparison.mixed_by_stream())


def _cell(summary: Summary | None, unit: float) -> TableCell:
    """A figure with its spread, in a unit."""
    if summary is None or summary.mean is None:
        return TableCell(DASH)
    spread = None if summary.std is None else summary.std / unit
    text = short(summary.mean / unit) + (f" ± {short(spread)}" if spread else "")
    return TableCell(text, summary.mean / unit, spread)
