"""Stability against plasticity: what each method learns, against what it forgets."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clrft.analysis.compare import Group
from clrft.analysis.figures import GRID, legend_columns, styles
from clrft.report.parts import Cell, Column, Part, Picture, Section, Sentence, Subject, Table, summary_cell

LEARNING, FORGETTING = "learning_acc", "forgetting"


def plane_section(subject: Subject) -> Section:
    """A plane per stream with one large mark per method and a small one per class order."""
    parts: list[Part] = [Sentence("Up is learned better, left is forgotten less: the upper left corner has both.")]
    for stream in subject.streams:
        shown = [group for group in subject.groups(stream) if len(_points(group, LEARNING, FORGETTING)) > 0]
        parts += subject.heading(stream)
        if not shown:
            reason = "no method has both learning accuracy and forgetting"
            parts.append(Sentence(f"{stream}: not drawn, as {reason}.", "missing"))
            continue
        title = f"{stream}: learning accuracy against forgetting"
        described = "A scatter chart: forgetting to the right, learning accuracy upwards, one mark per method."
        figure = scatter_figure(shown, FORGETTING, LEARNING, "forgetting (points)", "learning accuracy (%)")
        note = "Large mark: mean with ± one standard deviation; small marks: class orders."
        parts.append(
            Picture(subject.key("plane", stream), title, described, figure, _table(subject, stream, shown), note)
        )
    return Section("plane", "Stability against plasticity", tuple(parts))


def scatter_figure(groups: list[Group], across: str, up: str, across_title: str, up_title: str) -> Figure:
    """Two metrics against each other in percent."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axis = figure.subplots()
    look = styles(groups)
    for group in groups:
        _draw(axis, group, across, up, look[group.label].color, look[group.label].marker or "d")
    axis.set_xlabel(across_title)
    axis.set_ylabel(up_title)
    axis.grid(color=GRID)
    axis.margins(0.09)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels, 95))
    return figure


def _draw(axis: Axes, group: Group, across: str, up: str, color: str, marker: str) -> None:
    points = _points(group, across, up)
    axis.plot(*zip(*points, strict=True), ls="", marker=marker, ms=5, color=color, alpha=0.45, mew=0, zorder=2)
    x, y = group.metrics[across], group.metrics[up]
    if x.mean is None or y.mean is None:
        return
    axis.errorbar(
        [100 * x.mean],
        [100 * y.mean],
        xerr=None if x.std is None else [100 * x.std],
        yerr=None if y.std is None else [100 * y.std],
        fmt=marker,
        ms=13 if marker == "*" else 9,
        color=color,
        mec="white",
        mew=0.9,
        elinewidth=1,
        label=group.label,
        zorder=3,
    )


def _points(group: Group, across: str, up: str) -> list[tuple[float, float]]:
    """Both metrics of every class order that has both, in percent."""
    if across not in group.metrics or up not in group.metrics:
        return []
    xs, ys = group.metrics[across].values, group.metrics[up].values
    return [
        (100 * x, 100 * y)
        for seed in xs.keys() & ys.keys()
        if (x := xs[seed].value) is not None and (y := ys[seed].value) is not None
    ]


def _table(subject: Subject, stream: str, groups: list[Group]) -> Table:
    rows = [
        (Cell(group.label), summary_cell(group.metrics[LEARNING]), summary_cell(group.metrics[FORGETTING]))
        for group in groups
    ]
    columns = (
        Column("method", "text"),
        Column("learning accuracy, %", "summary"),
        Column("forgetting, points", "summary"),
    )
    title = f"{stream}: learning accuracy and forgetting"
    return Table(subject.key("plane", stream), title, columns, tuple(rows), folded=True)
