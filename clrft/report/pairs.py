"""Paired differences between methods over the class orders that both were run in, with their intervals."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from clrft.analysis.compare import Paired
from clrft.analysis.figures import GRID, MUTED
from clrft.analysis.paired_tests import FEWEST
from clrft.analysis.tables import headline
from clrft.report.parts import Cell, Column, Part, Picture, Section, Sentence, Subject, Table, number_cell
from eval.metrics import metric_of

MOST_DRAWN = 24  # differences in one picture


def pairs_section(subject: Subject) -> Section:
    """Differences of forgetting and of the final result as a picture, those of every headline metric as a table."""
    parts: list[Part] = []
    for stream in subject.streams:
        parts += subject.heading(stream)
        keys = headline(subject.comparison, stream)
        pairs = [pair for pair in subject.comparison.pairs if pair.stream == stream and pair.metric in keys]
        if not pairs:
            why = "no two methods were run in the same class order"
            parts.append(Sentence(f"{stream}: no paired difference, as {why}.", "missing"))
            continue
        main = [pair for key in ("forgetting", _final(subject, stream)) for pair in pairs if pair.metric == key]
        parts += _picture(subject, stream, [pair for pair in main if pair.metric == "forgetting"])
        title = f"{stream}: paired differences over class orders, percentage points, 95 % interval"
        if main:
            parts.append(pairs_table(subject.key("pairs", stream), title, main))
        title = f"{stream}: paired differences of every metric above, percentage points, 95 % interval"
        parts.append(pairs_table(subject.key("all-pairs", stream), title, pairs, folded=True))
    return Section("pairs", "Paired differences", tuple(parts))


def _picture(subject: Subject, stream: str, pairs: Sequence[Paired]) -> list[Part]:
    if len(pairs) > MOST_DRAWN:
        return [Sentence(f"{stream}: {len(pairs)} differences are too many for a picture; the table has them.")]
    if not pairs:
        return []
    title = f"{stream}: paired differences in forgetting, percentage points"
    described = "Intervals of the paired differences, a dot at each mean. The table below holds the numbers."
    note = "Left of zero the first method forgets less. Grey dots: class orders. The table below has the numbers."
    return [Picture(subject.key("pairs", stream), title, described, intervals_figure(pairs), None, note)]


def _final(subject: Subject, stream: str) -> str:
    return subject.groups(stream)[0].final_metric


def intervals_figure(pairs: Sequence[Paired]) -> Figure:
    """Mean differences with 95 % intervals, one row each, in percentage points."""
    figure = Figure(figsize=(8.2, 0.42 * len(pairs) + 1.0), layout="constrained")
    axis = figure.subplots()
    for row, pair in enumerate(pairs):
        each = [100 * value for value in pair.differences.values()]
        axis.plot(each, [row] * len(each), ls="", marker="o", ms=4.5, color="#999999", mew=0, zorder=2)
        decided = pair.low is not None and pair.high is not None and (pair.low > 0 or pair.high < 0)
        color = "#0072B2" if decided else MUTED
        if pair.low is not None and pair.high is not None:
            axis.hlines(row, 100 * pair.low, 100 * pair.high, color=color, lw=2, zorder=3)
        axis.plot([100 * pair.mean], [row], marker="D" if decided else "o", ms=8, color=color, mec="white", zorder=4)
    axis.axvline(0, color=MUTED, lw=1, zorder=1)
    axis.set_yticks(range(len(pairs)), [f"{pair.first} − {pair.second}" for pair in pairs])
    axis.set_ylim(len(pairs) - 0.5, -0.5)
    axis.grid(axis="x", color=GRID)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("difference in forgetting (points); diamond: the interval is clear of zero")
    return figure


def pairs_table(key: str, title: str, pairs: Sequence[Paired], folded: bool = False) -> Table:
    """Every difference with its interval, in percentage points."""
    seeds = sorted({seed for pair in pairs for seed in pair.differences})
    columns = (
        Column("metric", "text"),
        Column("difference", "text"),
        Column("mean"),
        Column("std"),
        Column("low", explained="lower end of the 95 % interval by Student's t"),
        Column("high", explained="upper end of the 95 % interval by Student's t"),
        Column("bootstrap low", explained="lower end of the 95 % bootstrap interval; needs 6 class orders"),
        Column("bootstrap high", explained="upper end of the 95 % bootstrap interval; needs 6 class orders"),
        Column("p", explained="exact sign-flip test, two-sided"),
        Column("p (Holm)", explained="corrected for all pairs of methods of this metric"),
        Column("orders"),
        Column("orders needed", explained="to find such a difference 4 times in 5, at 5 %"),
        *(Column(f"order {seed}") for seed in seeds),
    )
    rows = [_row(pair, seeds) for pair in pairs]
    return Table(key, title, columns, tuple(rows), folded=folded)


def _row(pair: Paired, seeds: Sequence[int]) -> tuple[Cell, ...]:
    tests = pair.tests
    enough = pair.orders >= FEWEST  # fewer give an interval that is not what it is named after
    bootstrap = (tests.boot_low, tests.boot_high) if enough else (None, None)
    needed = None if tests.for_power.orders is None else float(tests.for_power.orders)
    name = metric_of(pair.metric).title + (f": {pair.metric.partition('/')[2]}" if "/" in pair.metric else "")
    return (
        *(Cell(name), Cell(f"{pair.first} − {pair.second}"), _points(pair.mean), number_cell(pair.std, scale=100)),
        *(_points(value) for value in (pair.low, pair.high, *bootstrap)),
        *(number_cell(value, 3) for value in (tests.p, tests.holm)),
        *(number_cell(value, 0) for value in (float(pair.orders), needed)),
        *(_points(pair.differences.get(seed)) for seed in seeds),
    )


def _points(value: float | None) -> Cell:
    return number_cell(value, scale=100, sign=True)
