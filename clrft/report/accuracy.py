"""What was learned and forgotten: matrices, curves, class orders, plasticity, paired differences, general ability."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clrft.analysis import figures
from clrft.analysis.compare import FLOOR, Comparison, Group, Paired, summarise
from clrft.analysis.comparison_tables import headline
from clrft.analysis.pairs import pairs_table
from clrft.analysis.table import DASH, Column, Sentence, Table, cells, number_cell, show, summary_cell
from clrft.report.parts import Block, Part, Picture, Subject, missing
from eval.matrix import FloatArray
from eval.metrics import Value, accuracy_so_far, forgetting_by_stage, metric_of, undefined

SHADES = 50  # steps of the colour scale of matrices
MOST_PAIRS = 24  # paired differences in one picture
LEARNING, FORGETTING, CHANGE = "learning_acc", "forgetting", "general_delta/"


def matrices_section(subject: Subject) -> Iterator[Part]:
    """Every method's matrix, mean over class orders, side by side on one scale."""
    comparison = subject.comparison
    explained = (
        "Row: after learning that task; column: accuracy on that task, in percent. A row of 0 is the base before any "
        "training, where it was tested. Every matrix has the same colour scale from 0 to 100."
    )
    yield Sentence(explained)
    for stream, groups in comparison.streams.items():
        key, measure = comparison.key("matrices", stream), groups[0].measure
        title = f"{stream}: {measure} on each task after each task{figures.over_orders(groups)}"
        columns = [Column("method", "text"), Column("after task"), Column("on task"), Column("accuracy, %", "summary")]
        rows, means = [], []
        for group in groups:
            # of every class order, that of the base in a row of 0; NaN where it was not tested [N, T + 1, T]
            each = np.array([np.vstack([run.matrix.base, run.matrix.value]) for run in group.runs])
            means.append(each.mean(axis=0))
            spreads = each.std(axis=0, ddof=1) if len(each) > 1 else None
            for (stage, task), mean in np.ndenumerate(means[-1]):
                if not math.isnan(mean):
                    spread = None if spreads is None else spreads[stage, task]
                    cell = number_cell(mean, scale=100, spread=spread)
                    rows.append(cells(group.label, stage, task + 1, cell))
        table = Table(f"{stream}: cells of the matrices; after task 0: the base", columns, rows, key, folded=True)
        has_base = not all(np.isnan(mean[0]).all() for mean in means)
        maps = [_heatmap(group, mean, has_base) for group, mean in zip(groups, means, strict=True)]
        values = {"maps": maps, "shades": range(0, SHADES + 1, 2), "measure": measure}
        yield from comparison.heading(stream)
        if not has_base:
            yield missing(f"{stream}: the base was not tested on the tasks (evaluate.future).")
        yield Block("matrices", values, Picture(key, title, title, figures.matrices_figure(groups, stream), table))
        yield table


def _heatmap(group: Group, means: FloatArray, has_base: bool) -> dict[str, Any]:
    """What the template shows of one method's matrix; with a row of 0, the base, where it was tested."""
    rows = []
    for stage, row in enumerate(means):
        # text of a cell and its step on the colour scale; None where nothing was evaluated
        shown = [(DASH, None) if math.isnan(x) else (f"{100 * x:.0f}", round(100 * x * SHADES / 100)) for x in row]
        rows += [(stage, shown)] if stage or has_base else []
    last, lost = (show(group.metrics.get(key)) for key in (group.final_metric, FORGETTING))
    size = len(group.runs[0].matrix)
    about = {"label": group.label, "last": last, "lost": lost, "wide": size > 10}
    return {**about, "tasks": range(1, size + 1), "rows": rows}


def curves_section(subject: Subject) -> Iterator[Part]:
    """Curves over tasks, and one point per class order."""
    comparison = subject.comparison
    for stream, groups in comparison.streams.items():
        yield from comparison.heading(stream)
        measure, final = groups[0].measure_so_far, metric_of(groups[0].final_metric).title
        yield Picture(
            comparison.key("curves", stream),
            f"{stream}: {measure} on the tasks so far, and forgetting of the earlier ones, after each task",
            f"Two line charts over tasks, one line per method: {measure} on the tasks learned so far, and "
            "forgetting of the earlier tasks. The table behind it holds every point.",
            figures.curves_figure(groups, stream),
            _curve_table(comparison, stream),
            "Lines are means over class orders, bands ± one standard deviation.",
        )
        yield Picture(
            comparison.key("orders", stream),
            f"{stream}: every class order's {final} and forgetting",
            f"Two dot charts with one column per method and one dot per class order: {final}, and forgetting.",
            figures.orders_figure(groups, stream),
            _order_table(comparison, stream),
            "A bar is the mean; a thin line joins the runs of one class order.",
        )
    if not any(group.method == FLOOR for group in comparison.groups):
        yield Sentence("The frozen base was not run, so what the growing class list alone costs is not drawn.")


def _curve_table(comparison: Comparison, stream: str) -> Table:
    """Both curves' points; none where there is nothing to forget yet, or nothing was evaluated."""
    groups, rows = comparison.streams[stream], []
    for group in groups:
        curves = [figures.curve_over_orders(group, curve) for curve in (accuracy_so_far, forgetting_by_stage)]
        for stage in range(len(group.runs[0].matrix)):
            points = [
                number_cell(mean[stage], scale=100, spread=None if std is None else std[stage]) for mean, std in curves
            ]
            if any(cell.value is not None for cell in points):
                rows.append(cells(group.label, stage + 1, *points))
    so_far = Column(f"{groups[0].measure_so_far} on the tasks so far, %", "summary")
    columns = [Column("method", "text"), Column("after task"), so_far, Column("forgetting, points", "summary")]
    return Table(f"{stream}: the curves' points", columns, rows, comparison.key("curves", stream), folded=True)


def _order_table(comparison: Comparison, stream: str) -> Table:
    """Final result and forgetting by class order."""
    groups = comparison.streams[stream]
    keys = (groups[0].final_metric, FORGETTING)
    rows = [
        cells(group.label, run.seed, *(number_cell(group.values(key).get(run.seed), scale=100) for key in keys))
        for group in groups
        for run in group.runs
    ]
    columns = [Column("method", "text"), Column("class order"), *(Column(f"{metric_of(key).title}, %") for key in keys)]
    return Table(f"{stream}: every class order", columns, rows, comparison.key("orders", stream), folded=True)


def plane_section(subject: Subject) -> Iterator[Part]:
    """Learning against forgetting per stream: a large mark per method and a small one per class order."""
    comparison = subject.comparison
    yield Sentence("Up is learned better, left is forgotten less: the upper left corner has both.")
    for stream in comparison.streams:
        shown = [group for group in comparison.streams[stream] if _points(group, FORGETTING, LEARNING)]
        yield from comparison.heading(stream)
        if not shown:
            yield missing(f"{stream}: not drawn, as no method has both learning accuracy and forgetting.")
            continue
        rows = [cells(one.label, *(summary_cell(one.metrics[key]) for key in (LEARNING, FORGETTING))) for one in shown]
        names = ("learning accuracy, %", "forgetting, points")
        columns = [Column("method", "text"), *(Column(name, "summary") for name in names)]
        key = comparison.key("plane", stream)
        table = Table(f"{stream}: learning accuracy and forgetting", columns, rows, key, folded=True)
        title = f"{stream}: learning accuracy against forgetting"
        described = "A scatter chart: forgetting to the right, learning accuracy upwards, one mark per method."
        figure = scatter_figure(shown, LEARNING, "learning accuracy (%)")
        note = "Large mark: mean with ± one standard deviation; small marks: class orders."
        yield Picture(key, title, described, figure, table, note)


def ability_section(subject: Subject) -> Iterator[Part]:
    """Every probe outside of the stream, before training and after the last task, with forgetting in the same row."""
    comparison = subject.comparison
    for stream in comparison.streams:
        yield from comparison.heading(stream)
        probes = [key.removeprefix(CHANGE) for key in comparison.defined_metrics(stream) if CHANGE in key]
        if not probes:
            yield missing(f"{stream}: no probe outside of the stream was measured (evaluate.probe).")
        for probe in probes:
            table, name = _ability_table(comparison, stream, probe), probe.replace("_", " ")
            groups = comparison.streams[stream]
            shown = [one for one in groups if CHANGE + probe in one.metrics and one.mean(FORGETTING) is not None]
            if shown:
                figure = scatter_figure(shown, CHANGE + probe, f"change on {name} (points)")
                described = "A scatter chart: forgetting to the right, change on the probe upwards, "
                described += "one mark per method."
                note = "Below zero the model has lost ability that no task of the stream taught. "
                note += "The table below has the numbers."
                title = f"{stream}: change on {name} against forgetting"
                yield Picture(table.key, title, described, figure, None, note)
            yield table


def _ability_table(comparison: Comparison, stream: str, probe: str) -> Table:
    """Probe before, after, its change, and forgetting."""
    rows = []
    for group in comparison.streams[stream]:
        measured: list[dict[int, Value]] = [{}, {}]  # at the first and at the last stage, by seed
        for run in group.runs:
            stages = run.stages()
            for values, at in zip(measured, (0, -1), strict=True):
                found = run.task_metrics(stages[at]).get("probe", {}).get(probe) if stages else None
                values[run.seed] = undefined("not measured") if found is None else Value(float(found))
        both = [summary_cell(group.metrics.get(key)) for key in (CHANGE + probe, FORGETTING)]
        rows.append(cells(group.label, *(summary_cell(summarise(values)) for values in measured), *both))
    names = ("before training, %", "after the last task, %", "change, points", "forgetting, points")
    columns = [Column("method", "text"), *(Column(name, "summary") for name in names)]
    title = f"{stream}: {probe.replace('_', ' ')}, a probe outside of the stream"
    return Table(title, columns, rows, comparison.key(f"ability-{probe}", stream))


def scatter_figure(groups: Sequence[Group], up: str, up_title: str) -> Figure:
    """A metric against forgetting, in percent."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axis = figure.subplots()
    look = figures.styles(groups)
    for group in groups:
        color, marker = look[group.label].color, look[group.label].marker or "d"
        points = _points(group, FORGETTING, up)
        axis.plot(*zip(*points, strict=True), ls="", marker=marker, ms=5, color=color, alpha=0.45, mew=0, zorder=2)
        x, y = group.metrics[FORGETTING], group.metrics[up]
        if x.mean is not None and y.mean is not None:
            xerr, yerr = (None if one.std is None else 100 * one.std for one in (x, y))
            mark: Any = {"fmt": marker, "ms": 13 if marker == "*" else 9, "color": color, "mec": "white", "mew": 0.9}
            axis.errorbar(100 * x.mean, 100 * y.mean, yerr, xerr, **mark, elinewidth=1, label=group.label, zorder=3)
    axis.set(xlabel="forgetting (points)", ylabel=up_title)
    axis.grid(color=figures.GRID)
    axis.margins(0.09)
    return figures.finish(figure, "", [axis], 95)


def _points(group: Group, across: str, up: str) -> list[tuple[float, float]]:
    """Both metrics of every class order that has both, in percent."""
    xs, ys = group.values(across), group.values(up)
    return [(100 * xs[seed], 100 * ys[seed]) for seed in xs.keys() & ys.keys()]


def pairs_section(subject: Subject) -> Iterator[Part]:
    """Differences of forgetting and of the final result as a picture, those of every headline metric as a table."""
    comparison = subject.comparison
    for stream in comparison.streams:
        yield from comparison.heading(stream)
        keys = headline(comparison, stream)
        pairs = [pair for pair in comparison.pairs if pair.stream == stream and pair.metric in keys]
        if not pairs:
            yield missing(f"{stream}: no paired difference, as no two methods were run in the same class order.")
            continue
        final = comparison.streams[stream][0].final_metric
        lost = [pair for pair in pairs if pair.metric == FORGETTING]
        main = [*lost, *(pair for pair in pairs if pair.metric == final)]
        key = comparison.key("pairs", stream)
        if len(lost) > MOST_PAIRS:
            yield Sentence(f"{stream}: {len(lost)} differences are too many for a picture; the table has them.")
        elif lost:
            title = f"{stream}: paired differences in forgetting, percentage points"
            described = "Intervals of the paired differences, a dot at each mean. The table below holds the numbers."
            note = "Left of zero the first method forgets less. Grey dots: class orders. "
            note += "The table below has the numbers."
            yield Picture(key, title, described, intervals_figure(lost), None, note)
        if main:
            title = f"{stream}: paired differences over class orders, percentage points, 95 % interval"
            yield pairs_table(key, title, main)
        title = f"{stream}: paired differences of every metric above, percentage points, 95 % interval"
        yield pairs_table(comparison.key("all-pairs", stream), title, pairs, folded=True)


def intervals_figure(pairs: Sequence[Paired]) -> Figure:
    """Mean differences with 95 % intervals, one row each, in percentage points."""
    figure = Figure(figsize=(8.2, 0.42 * len(pairs) + 1.0), layout="constrained")
    axis = figure.subplots()
    for row, pair in enumerate(pairs):
        each = [100 * value for value in pair.differences.values()]
        axis.plot(each, [row] * len(each), ls="", marker="o", ms=4.5, color="#999999", mew=0, zorder=2)
        low, high = pair.tests.t_low, pair.tests.t_high
        decided = low is not None and high is not None and (low > 0 or high < 0)
        color = "#0072B2" if decided else figures.MUTED
        if low is not None and high is not None:
            axis.hlines(row, 100 * low, 100 * high, color=color, lw=2, zorder=3)
        axis.plot([100 * pair.mean], [row], marker="D" if decided else "o", ms=8, color=color, mec="white", zorder=4)
    axis.axvline(0, color=figures.MUTED, lw=1, zorder=1)
    axis.set_yticks(range(len(pairs)), [pair.name for pair in pairs])
    axis.grid(axis="x", color=figures.GRID)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    told = "difference in forgetting (points); diamond: the interval is clear of zero"
    axis.set(ylim=(len(pairs) - 0.5, -0.5), xlabel=told)
    return figure
