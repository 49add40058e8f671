"""Whether drift goes with forgetting, over runs: rank correlations, fitted curves, and spread of drift over tasks.

A run is one point: how far its policy moved (``kl_base`` and so on, means over its stages) and how much it forgot.
Intervals are by bootstrap over class orders, whose runs are drawn together: runs of one order share their tasks. So few
orders give a coarse interval, and one order none. The curve is the quadratic of RL's Razor (arXiv 2509.04259); the
spread inside groups of equal reward is RaPO's pilot study (arXiv 2605.09640). Deliberately absent: tables
(``clrft.analysis.drift_tables``) and pictures (``clrft.analysis.drift_figures``), a verdict.
"""

import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from clrft.analysis.compare import Comparison, Group
from clrft.analysis.study import Told
from clrft.runs.read import RunRecord

MEASURES = (
    *("kl_base_forward", "kl_base_reverse", "kl_prev_forward", "kl_prev_reverse"),
    *("drift_base", "drift_prev", "retention_base", "retention_prev"),
)
OUTCOMES = ("forgetting", "forgetting_weights")
SPREADS = ("spread_prev", "spread_prev_correct")
RESAMPLES, SEED, LEVEL = 2000, 20260509, 0.95
FEWEST = 4  # points of a correlation, and of a curve with three coefficients

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """One run.

    Attributes:
        label: of its group.
        seed: of its class order.
        measures: by name, means over the stages where they are defined; those that never are have none.
        outcomes: metrics by name; those that are undefined have none.
    """

    label: str
    seed: int
    measures: Mapping[str, float]
    outcomes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation of two columns, or why there is none.

    Attributes:
        n: points.
        orders: class orders among them.
        rho: over all points; None with ``reason``.
        low, high: 95 % interval by bootstrap over class orders; None for one order.
        by_order: rho among the points of each class order, where it is defined.
        reason: why there is no rho.
    """

    n: int
    orders: int
    rho: float | None
    low: float | None
    high: float | None
    by_order: Mapping[int, float]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Least squares ``y = a + b x + c x^2``, with the share of the variance that it explains."""

    coefficients: tuple[float, float, float]
    r2: float

    def at(self, x: Array) -> Array:
        """Its height at some places."""
        a, b, c = self.coefficients
        return a + b * x + c * x**2


@dataclass(frozen=True, slots=True)
class Relation:
    """An outcome against a measure of drift, over runs; the curve is None where too few points would bear it."""

    measure: str
    outcome: str
    correlation: Correlation
    curve: Curve | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Spread of drift inside groups of equal reward, task by task, for one method.

    Attributes:
        group: the runs.
        name: ``spread_prev`` (equal rewards) or ``spread_prev_correct`` (all right).
        values: by task and class order; what is undefined is missing.
        trend: rank correlation of spread with the number of the task.
    """

    group: Group
    name: str
    values: Mapping[int, Mapping[int, float]]
    trend: Correlation

    def means(self) -> dict[int, float]:
        """Mean over class orders by task, of those tasks that have any."""
        return {task: statistics.fmean(orders.values()) for task, orders in self.values.items() if orders}


@dataclass(frozen=True, slots=True)
class StreamStudy:
    """Everything about the runs of one stream."""

    stream: str
    groups: tuple[Group, ...]
    points: tuple[Point, ...]
    relations: tuple[Relation, ...]
    spreads: tuple[Spread, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftStudy(Told):
    """The study of all streams; a group whose drift was not measured is named."""

    streams: tuple[StreamStudy, ...]


def drift_study(comparison: Comparison) -> DriftStudy:
    """The study of a comparison's groups; runs without a measured drift are named."""
    by_stream: dict[str, list[Group]] = {}
    without: list[str] = []
    for group in comparison.groups:
        if any(drift_by_stage(run) for run in group.runs):
            by_stream.setdefault(group.stream, []).append(group)
        else:
            without.append(f"{group.stream}: {group.label} has no drift: nothing was trained, or it was not measured.")
    streams = tuple(_of_stream(stream, found) for stream, found in by_stream.items())
    return DriftStudy(comparison=comparison, without=tuple(without), streams=streams)


def drift_by_stage(run: RunRecord) -> dict[int, Mapping[str, Any]]:
    """Figures of a run's drift probes, by stage."""
    records = {stage: run.task_metrics(stage) for stage in run.stages()}
    return {stage: record["drift"] for stage, record in records.items() if record.get("drift")}


def point_of(group: Group, run: RunRecord) -> Point:
    """A run as a point."""
    stages = drift_by_stage(run).values()
    columns = {name: [one[name] for one in stages if one.get(name) is not None] for name in MEASURES}
    outcomes = {name: run.metrics[name].value for name in OUTCOMES if name in run.metrics}
    return Point(
        group.label,
        run.seed,
        {name: statistics.fmean(values) for name, values in columns.items() if values},
        {name: value for name, value in outcomes.items() if value is not None},
    )


def relation(points: Sequence[Point], measure: str, outcome: str) -> Relation:
    """An outcome against a measure, over the runs that have both."""
    both = [point for point in points if measure in point.measures and outcome in point.outcomes]
    rows = [(point.seed, point.measures[measure], point.outcomes[outcome]) for point in both]
    return Relation(measure, outcome, correlation(rows), quadratic([(x, y) for _, x, y in rows]))


def spread_of(group: Group, name: str) -> Spread:
    """A method's spread of drift by task, and its trend."""
    drifts = {run.seed: drift_by_stage(run) for run in group.runs}
    tasks = sorted({stage for stages in drifts.values() for stage in stages})
    values: dict[int, dict[int, float]] = {task: {} for task in tasks}
    for seed, stages in drifts.items():
        for task, figures in stages.items():
            if figures.get(name) is not None:
                values[task][seed] = figures[name]
    rows = [(seed, float(task), one) for task, orders in values.items() for seed, one in orders.items()]
    return Spread(group, name, values, correlation(rows))


def correlation(rows: Sequence[tuple[int, float, float]]) -> Correlation:
    """Spearman's correlation of the second and third column; the first is the class order."""
    seeds = sorted({seed for seed, _, _ in rows})
    parts = {seed: np.array([(x, y) for one, x, y in rows if one == seed]) for seed in seeds}
    by_order = {seed: rho for seed, part in parts.items() if (rho := spearman(part)) is not None}
    whole = spearman(np.concatenate(list(parts.values()))) if rows else None
    if whole is None:
        few = f"{len(rows)} points, expected at least {FEWEST}" if len(rows) < FEWEST else "a column does not vary"
        return Correlation(len(rows), len(seeds), None, None, None, by_order, few)
    low, high = interval(list(parts.values()))
    return Correlation(len(rows), len(seeds), whole, low, high, by_order)


def spearman(points: Array) -> float | None:
    """Rank correlation of two columns, [n, 2]; None for too few points or a column that does not vary."""
    if len(points) < FEWEST or (points == points[0]).all(axis=0).any():
        return None
    return float(stats.spearmanr(points[:, 0], points[:, 1]).statistic)


def interval(parts: Sequence[Array]) -> tuple[float | None, float | None]:
    """Percentile interval of the rank correlation over resampled class orders, each with all of its points."""
    if len(parts) < 2:
        return None, None
    generator = np.random.RandomState(SEED)
    draws = generator.randint(len(parts), size=(RESAMPLES, len(parts)))
    found: dict[tuple[int, ...], float | None] = {}
    values = []
    for draw in draws:
        key = tuple(sorted(draw.tolist()))
        if key not in found:
            found[key] = spearman(np.concatenate([parts[place] for place in key]))
        if (rho := found[key]) is not None:
            values.append(rho)
    if not values:
        return None, None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


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
    curve = Curve((a, b, c), 0.0)
    r2 = 1 - float(((y - curve.at(x)) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    return Curve(curve.coefficients, r2)


def _of_stream(stream: str, groups: Sequence[Group]) -> StreamStudy:
    points = tuple(point_of(group, run) for group in groups for run in group.runs)
    relations = [relation(points, measure, outcome) for outcome in OUTCOMES for measure in MEASURES]
    spreads = [spread_of(group, name) for name in SPREADS for group in groups if not group.joint]
    return StreamStudy(stream, tuple(groups), points, tuple(relations), tuple(spreads))
