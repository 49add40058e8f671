"""The study of drift as tables: for the terminal (rich), Markdown and CSV.

Deliberately absent: any number that ``clrft.analysis.drift_study`` did not compute.
"""

from collections.abc import Sequence

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.drift_study import MEASURES, OUTCOMES, Correlation, DriftStudy, Point, Relation, StreamStudy
from clrft.analysis.tables import DASH, Rows, csv_text, markdown_table, raw, rich_table

EXPLAINED = """\
One point per run. KL and drift: nats per token, means over the run's tasks, on held-out items of each new task;
`forward` is the mean KL from the other policy on that policy's rollouts, `reverse` from the trained policy on its own.
Spearman's rank correlation over all runs, its 95 % interval by bootstrap over class orders (runs of one order are drawn
together; few orders make it coarse), and the correlation inside each order. R² is that of a fitted quadratic.
Spread: standard deviation of drift inside a group of rollouts of equal reward, mean over groups."""
RELATION_HEADER = ["outcome", "measure", "runs", "Spearman", "95 % interval", "in each order", "R²"]
SPREAD_TITLES = {"spread_prev": "equal rewards", "spread_prev_correct": "all right"}


def drift_to_terminal(study: DriftStudy) -> RenderableType:
    """Three tables per stream."""
    parts: list[RenderableType] = []
    for one in study.streams:
        parts.append(rich_table(f"{one.stream}: forgetting against drift", RELATION_HEADER, relation_rows(one)))
        header, rows = method_table(one)
        parts.append(rich_table(f"{one.stream}: each method, mean over its runs", header, rows))
        header, rows = spread_table(one)
        parts.append(rich_table(f"{one.stream}: spread of drift inside groups by task, in thousandths", header, rows))
    parts += [Text(sentence) for sentence in study.sentences()]
    return RichGroup(*parts)


def drift_to_markdown(study: DriftStudy) -> str:
    """The same in Markdown."""
    lines = ["# Drift and forgetting", "", EXPLAINED, ""]
    for one in study.streams:
        lines += [f"## {one.stream}", "", "### Forgetting against drift, over runs", ""]
        lines += markdown_table(RELATION_HEADER, relation_rows(one))
        lines += ["### Each method, mean over its runs", "", *markdown_table(*method_table(one))]
        lines += ["### Spread of drift inside groups by task, thousandths of a nat per token", ""]
        lines += markdown_table(*spread_table(one))
    lines += [f"- {sentence}" for sentence in study.sentences()]
    return "\n".join(lines).rstrip() + "\n"


def relations_to_csv(study: DriftStudy) -> str:
    """One row per stream, outcome and measure."""
    seeds = sorted({point.seed for one in study.streams for point in one.points})
    header = [
        "stream",
        "outcome",
        "measure",
        "n",
        "orders",
        "rho",
        "low_95",
        "high_95",
        "a",
        "b",
        "c",
        "r2",
        "undefined",
        "mixed",
    ]
    rows = [
        [one.stream, relation.outcome, relation.measure, *_numbers(relation.correlation), *_curve(relation)]
        + [relation.correlation.reason or "", study.mixed(one.stream)]
        + [raw(relation.correlation.by_order.get(seed)) for seed in seeds]
        for one in study.streams
        for relation in one.relations
    ]
    return csv_text([*header, *(f"order_{seed}" for seed in seeds)], rows)


def points_to_csv(study: DriftStudy) -> str:
    """One row per run: every measure and outcome; empty where it is undefined."""
    rows = [
        [one.stream, point.label, str(point.seed)]
        + [raw(point.measures.get(name)) for name in MEASURES]
        + [raw(point.outcomes.get(name)) for name in OUTCOMES]
        + [study.mixed(one.stream)]
        for one in study.streams
        for point in one.points
    ]
    return csv_text(["stream", "label", "order", *MEASURES, *OUTCOMES, "mixed"], rows)


def spreads_to_csv(study: DriftStudy) -> str:
    """One row per stream, method, kind of group and task: the spread of every class order, and the trend over tasks."""
    seeds = sorted({point.seed for one in study.streams for point in one.points})
    header = [
        "stream",
        "label",
        "groups",
        "task",
        "trend_n",
        "trend_orders",
        "trend_rho",
        "trend_low_95",
        "trend_high_95",
        "mixed",
    ]
    rows = [
        [one.stream, spread.group.label, SPREAD_TITLES[spread.name], str(task), *_numbers(spread.trend)]
        + [study.mixed(one.stream)]
        + [raw(orders.get(seed)) for seed in seeds]
        for one in study.streams
        for spread in one.spreads
        for task, orders in spread.values.items()
    ]
    return csv_text([*header, *(f"order_{seed}" for seed in seeds)], rows)


def relation_rows(study: StreamStudy) -> Rows:
    """Correlations and fits, one row each."""
    rows = []
    for one in study.relations:
        found = one.correlation
        r2 = DASH if one.curve is None else f"{one.curve.r2:.2f}"
        rows.append([one.outcome, one.measure, str(found.n), _rho(found), _interval(found), _each(found), r2])
    return rows


def method_table(study: StreamStudy) -> tuple[list[str], Rows]:
    """Means of every method over its runs; a dash where one of them has none."""
    rows = []
    for group in study.groups:
        points = [point for point in study.points if point.label == group.label]
        measures = [_number(_mean(points, name), 4) for name in MEASURES]
        outcomes = [_percent(_mean(points, name)) for name in OUTCOMES]
        rows.append([group.label, str(len(points)), *outcomes, *measures])
    return ["method", "n", *(f"{name} (%)" for name in OUTCOMES), *MEASURES], rows


def spread_table(study: StreamStudy) -> tuple[list[str], Rows]:
    """Mean spread by task, and its trend."""
    tasks = sorted({task for spread in study.spreads for task in spread.means()})
    rows = [
        [spread.group.label, SPREAD_TITLES[spread.name]]
        + [_number(None if task not in means else 1000 * means[task], 2) for task in tasks]
        + [_rho(spread.trend), _interval(spread.trend), _each(spread.trend)]
        for spread, means in ((spread, spread.means()) for spread in study.spreads)
    ]
    trend = ["Spearman with task", "95 % interval", "in each order"]
    return ["method", "groups", *(f"task {task}" for task in tasks), *trend], rows


def _mean(points: Sequence[Point], name: str) -> float | None:
    values = [point.measures.get(name, point.outcomes.get(name)) for point in points]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _numbers(found: Correlation) -> list[str]:
    return [str(found.n), str(found.orders), raw(found.rho), raw(found.low), raw(found.high)]


def _curve(relation: Relation) -> list[str]:
    if relation.curve is None:
        return [""] * 4
    return [raw(one) for one in (*relation.curve.coefficients, relation.curve.r2)]


def _rho(found: Correlation) -> str:
    return DASH if found.rho is None else _signed(found.rho)


def _interval(found: Correlation) -> str:
    return DASH if found.low is None or found.high is None else f"{_signed(found.low)} to {_signed(found.high)}"


def _each(found: Correlation) -> str:
    return ", ".join(_signed(rho) for _, rho in sorted(found.by_order.items())) or DASH


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _number(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}"
