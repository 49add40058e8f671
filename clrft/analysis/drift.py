"""Whether drift goes with forgetting, over runs: rank correlations, fitted curves, and spread of drift over tasks.

A run is one point: how far its policy moved (``kl_base`` and so on, means over its stages) and how much it forgot.
Intervals are by bootstrap over class orders, whose runs are drawn together: runs of one order share their tasks. So few
orders give a coarse interval, and one order none. The curve is the quadratic of RL's Razor (arXiv 2509.04259); the
spread inside groups of equal reward is RaPO's pilot study (arXiv 2605.09640). Deliberately absent: a verdict.
"""

import itertools
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clrft.analysis.compare import Comparison, Group, Study
from clrft.analysis.render import csv_text
from clrft.analysis.table import DASH, Column, Part, Sentence, Table, TableCell, cells, number_cell, text_columns

MEASURES = (
    *("kl_base_forward", "kl_base_reverse", "kl_prev_forward", "kl_prev_reverse"),
    *("drift_base", "drift_prev", "retention_base", "retention_prev"),
)
OUTCOMES = ("forgetting", "forgetting_weights")
SPREADS = {"spread_prev": "equal rewards", "spread_prev_correct": "all right"}
RESAMPLES, SEED, LEVEL = 2000, 20260509, 0.95
FEWEST = 4  # points of a correlation, and of a curve with three coefficients

EXPLAINED = (
    "One point per run. KL and drift: nats per token, means over the run's tasks, on held-out items of each new task; "
    "`forward` is the mean KL from the other policy on that policy's rollouts, `reverse` from the trained policy on "
    "its own. Spearman's rank correlation over all runs, its 95 % interval by bootstrap over class orders (runs of one "
    "order are drawn together; few orders make it coarse), and the correlation inside each order. R² is that of a "
    "fitted quadratic. Spread: standard deviation of drift inside a group of rollouts of equal reward, mean over "
    "groups."
)

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """One run: its measures (means over the stages where they are defined) and outcomes by name, if defined."""

    label: str  # of its group
    seed: int  # of its class order
    values: Mapping[str, float]


class Correlation(NamedTuple):
    """Spearman's rank correlation of two columns, or why there is none."""

    n: int  # points
    orders: int  # class orders among them
    rho: float | None  # over all points; None with ``reason``
    low: float | None  # 95 % interval by bootstrap over class orders; None for one order
    high: float | None
    by_order: Mapping[int, float]  # rho among the points of each class order, where it is defined
    reason: str | None = None  # why there is no rho


class Curve(NamedTuple):
    """Least squares ``y = a + b x + c x^2``, with the share of the variance that it explains."""

    a: float
    b: float
    c: float
    r2: float


@dataclass(frozen=True, slots=True)
class Relation:
    """An outcome against a measure of drift, over runs; the curve is None where too few points would bear it."""

    measure: str
    outcome: str
    correlation: Correlation
    curve: Curve | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Spread of drift inside groups of equal reward, task by task, for one method."""

    group: Group
    name: str  # ``spread_prev`` (equal rewards) or ``spread_prev_correct`` (all right)
    values: Mapping[int, Mapping[int, float]]  # by task and class order; what is undefined is missing
    trend: Correlation  # rank correlation of spread with the number of the task

    def means(self) -> dict[int, float]:
        """Mean over class orders by task, of those tasks that have any."""
        return {task: statistics.fmean(orders.values()) for task, orders in self.values.items() if orders}


@dataclass(frozen=True, slots=True)
class StreamStudy:
    """Everything about the runs of one stream."""

    stream: str
    groups: Sequence[Group]
    points: Sequence[Point]
    relations: Sequence[Relation]
    spreads: Sequence[Spread]


DriftStudy = Study[StreamStudy]


def drift_study(comparison: Comparison) -> DriftStudy:
    """The study of a comparison's groups; runs without a measured drift are named."""
    by_stream: dict[str, list[Group]] = {}
    without: list[str] = []
    by_run: dict[Path, dict[int, Mapping[str, Any]]] = {}  # figures of the drift probes by stage
    for group in comparison.groups:
        for run in group.runs:
            records = {stage: run.task_metrics(stage) for stage in run.stages()}
            by_run[run.folder] = {stage: record["drift"] for stage, record in records.items() if record.get("drift")}
        if any(by_run[run.folder] for run in group.runs):
            by_stream.setdefault(group.stream, []).append(group)
        else:
            without.append(f"{group.stream}: {group.label} has no drift: nothing was trained, or it was not measured.")
    streams = {}
    for stream, groups in by_stream.items():
        points = []
        for group in groups:
            for run in group.runs:
                figures = by_run[run.folder].values()
                values = {name: [one[name] for one in figures if one.get(name) is not None] for name in MEASURES}
                known = {name: statistics.fmean(some) for name, some in values.items() if some}
                results = {name: run.metrics[name].value for name in OUTCOMES if name in run.metrics}
                known |= {name: value for name, value in results.items() if value is not None}
                points.append(Point(group.label, run.seed, known))
        relations = []
        for outcome in OUTCOMES:
            for measure in MEASURES:
                both = [point for point in points if {measure, outcome} <= point.values.keys()]
                rows = [(point.seed, point.values[measure], point.values[outcome]) for point in both]
                curve = quadratic([(x, y) for _, x, y in rows])
                relations.append(Relation(measure, outcome, correlation(rows), curve))
        spreads = []
        for name, group in itertools.product(SPREADS, [one for one in groups if not one.joint]):
            drifts = {run.seed: by_run[run.folder] for run in group.runs}
            by_task: dict[int, dict[int, float]] = {}
            for task in sorted({stage for stages in drifts.values() for stage in stages}):
                found = {seed: stages.get(task, {}).get(name) for seed, stages in drifts.items()}
                by_task[task] = {seed: value for seed, value in found.items() if value is not None}
            rows = [(seed, float(task), one) for task, orders in by_task.items() for seed, one in orders.items()]
            spreads.append(Spread(group, name, by_task, correlation(rows)))
        streams[stream] = StreamStudy(stream, groups, points, relations, spreads)
    return Study(comparison, streams, without)


def correlation(rows: Sequence[tuple[int, float, float]]) -> Correlation:
    """Spearman's correlation of the second and third column; the first is the class order.

    Its interval is that of percentiles over resampled class orders, each with all of its points.
    """
    seeds = sorted({seed for seed, _, _ in rows})
    parts = [np.array([(x, y) for one, x, y in rows if one == seed]) for seed in seeds]
    by_order = {seed: rho for seed, part in zip(seeds, parts, strict=True) if (rho := spearman(part)) is not None}
    whole = spearman(np.concatenate(parts)) if rows else None
    if whole is None:
        few = f"{len(rows)} points, expected at least {FEWEST}" if len(rows) < FEWEST else "a column does not vary"
        return Correlation(len(rows), len(seeds), None, None, None, by_order, few)
    if len(seeds) < 2:
        return Correlation(len(rows), len(seeds), whole, None, None, by_order)
    draws = np.sort(np.random.RandomState(SEED).randint(len(parts), size=(RESAMPLES, len(parts))), axis=1)
    ways, times = np.unique(draws, axis=0, return_counts=True)
    rhos = [spearman(np.concatenate([parts[place] for place in way])) for way in ways]
    drawn = np.repeat(np.array(rhos, dtype=np.float64), times)  # NaN where there is none
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Correlation(len(rows), len(seeds), whole, low, high, by_order)


def spearman(points: Array) -> float | None:
    """Rank correlation of two columns, [n, 2]; None for too few points or a column that does not vary."""
    from scipy import stats  # takes a second

    if len(points) < FEWEST or (points == points[0]).all(axis=0).any():
        return None
    return float(stats.spearmanr(points[:, 0], points[:, 1]).statistic)


def quadratic(points: Sequence[tuple[float, float]]) -> Curve | None:
    """The fitted curve; None for too few different places, or heights that do not vary."""
    x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if len(set(x.tolist())) < FEWEST or len(set(y.tolist())) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.RankWarning)
        try:
            c, b, a = np.polyfit(x, y, 2).tolist()
        except np.exceptions.RankWarning:
            return None
    residuals = y - (a + b * x + c * x**2)
    return Curve(a, b, c, 1 - float((residuals**2).sum() / ((y - y.mean()) ** 2).sum()))


def drift_parts(study: DriftStudy) -> list[Part]:
    """Everything that the terminal and Markdown show."""
    parts: list[Part] = [Sentence(EXPLAINED, places=("markdown",))]
    for one in study.streams.values():
        parts.append(relation_table(study, one))
        rows = []  # means of every method over its runs; a dash where one of them has none
        for group in one.groups:
            points = [point for point in one.points if point.label == group.label]
            means = {
                name: statistics.fmean(point.values.get(name, float("nan")) for point in points)
                for name in (*OUTCOMES, *MEASURES)
            }
            figures = [number_cell(means[name], scale=100) for name in OUTCOMES]
            figures += [number_cell(means[name], 4) for name in MEASURES]
            rows.append(cells(group.label, len(points), *figures))
        columns = [Column("method", "text"), Column("n"), *(Column(f"{name} (%)") for name in OUTCOMES)]
        columns += map(Column, MEASURES)
        title = f"{one.stream}: each method, mean over its runs"
        parts += [Table(title, columns, rows, places=("terminal", "markdown")), spread_table(study, one)]
    return [*parts, *study.comparison.closing(study.without)]


def relation_table(study: DriftStudy, one: StreamStudy) -> Table:
    """Rank correlations of every measure with every outcome."""
    rows = [
        cells(
            *(found.outcome, found.measure, found.correlation.n),
            *_correlation_cells(found.correlation),
            number_cell(None if found.curve is None else found.curve.r2, 2),
            found.correlation.reason or "",
        )
        for found in one.relations
    ]
    columns = [*text_columns("outcome", "measure"), Column("runs"), Column("Spearman's rho", short="Spearman")]
    columns += [*_INTERVAL, Column("R² of the quadratic", short="R²")]
    columns.append(Column("undefined because", "text", places=("markdown", "report")))
    title = f"{one.stream}: forgetting against drift over runs, rank correlation with its 95 % interval"
    return Table(title, columns, rows, study.comparison.key("drift-relations", one.stream), folded=True)


def spread_table(study: DriftStudy, one: StreamStudy) -> Table:
    """Spread of drift in groups of rollouts by method, a column for each task."""
    means = [spread.means() for spread in one.spreads]
    tasks = sorted(set().union(*means))
    rows = [
        cells(
            *(spread.group.label, SPREADS[spread.name]),
            *(number_cell(each.get(task), scale=1000) for task in tasks),
            *_correlation_cells(spread.trend),
        )
        for spread, each in zip(one.spreads, means, strict=True)
    ]
    columns = [*text_columns("method", "groups"), *(Column(f"task {task}") for task in tasks)]
    columns += [Column("rho with the task", short="Spearman"), *_INTERVAL]
    title = f"{one.stream}: spread of drift in groups by task, thousandths of a nat per token, and its rank correlation"
    return Table(title, columns, rows, study.comparison.key("drift-spread", one.stream), folded=True)


def point_table(study: DriftStudy, one: StreamStudy) -> Table:
    """Every run's measures and outcomes, for the report."""
    rows = [
        cells(
            *(point.label, point.seed),
            *(number_cell(point.values.get(name), 4) for name in MEASURES),
            *(number_cell(point.values.get(name), scale=100) for name in OUTCOMES),
        )
        for point in one.points
    ]
    columns = [Column("method", "text"), Column("class order"), *(Column(name.replace("_", " ")) for name in MEASURES)]
    columns += [Column(f"{name.replace('_', ' ')}, points") for name in OUTCOMES]
    title = f"{one.stream}: KL and drift of every run, nats per token, means over its tasks"
    return Table(title, columns, rows, study.comparison.key("drift-runs", one.stream), folded=True)


_INTERVAL = (Column("low"), Column("high"), Column("in each order", "text", places=("terminal", "markdown")))


def _correlation_cells(found: Correlation) -> list[TableCell]:
    each = [number_cell(rho, 2, sign=True).text for _, rho in sorted(found.by_order.items())]
    numbers = [number_cell(value, 2, sign=True) for value in (found.rho, found.low, found.high)]
    return [*numbers, TableCell(", ".join(each) or DASH)]


def relations_to_csv(study: DriftStudy) -> str:
    """One row per stream, outcome and measure."""
    seeds = sorted({point.seed for one in study.streams.values() for point in one.points})
    mixed, rows = study.comparison.mixed_by_stream(), []
    for one in study.streams.values():
        for relation in one.relations:
            found = relation.correlation
            row = [one.stream, relation.outcome, relation.measure, *found[:5], *(relation.curve or [None] * 4)]
            rows.append([*row, found.reason, mixed[one.stream], *map(found.by_order.get, seeds)])
    header = ["stream", "outcome", "measure", "n", "orders", "rho", "low_95", "high_95", "a", "b", "c", "r2"]
    return csv_text([*header, "undefined", "mixed", *(f"order_{seed}" for seed in seeds)], rows)


def points_to_csv(study: DriftStudy) -> str:
    """One row per run: every measure and outcome; empty where it is undefined."""
    names, mixed = (*MEASURES, *OUTCOMES), study.comparison.mixed_by_stream()
    rows = [
        [one.stream, point.label, point.seed, *map(point.values.get, names), mixed[one.stream]]
        for one in study.streams.values()
        for point in one.points
    ]
    return csv_text(["stream", "label", "order", *names, "mixed"], rows)


def spreads_to_csv(study: DriftStudy) -> str:
    """One row per stream, method, kind of group and task: the spread of every class order, and the trend over tasks."""
    seeds = sorted({point.seed for one in study.streams.values() for point in one.points})
    mixed = study.comparison.mixed_by_stream()
    rows = [
        [one.stream, spread.group.label, SPREADS[spread.name], task, *spread.trend[:5], mixed[one.stream]]
        + [orders.get(seed) for seed in seeds]
        for one in study.streams.values()
        for spread in one.spreads
        for task, orders in spread.values.items()
    ]
    trend = [f"trend_{name}" for name in ("n", "orders", "rho", "low_95", "high_95")]
    return csv_text(["stream", "label", "groups", "task", *trend, "mixed", *(f"order_{seed}" for seed in seeds)], rows)
