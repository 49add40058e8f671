"""Accuracy and forgetting over tasks with bands, and every class order's end."""

from clrft.analysis.compare import FLOOR, Group
from clrft.analysis.figures import curve_over_orders, curves_figure, orders_figure
from clrft.analysis.formatting import DASH
from clrft.report.parts import Cell, Column, Part, Picture, Section, Sentence, Subject, Table, summary_cell
from eval.matrix import FloatArray
from eval.metrics import accuracy_so_far, forgetting_by_stage, metric_of


def curves_section(subject: Subject) -> Section:
    """Curves over tasks, and one point per class order."""
    parts: list[Part] = []
    for stream in subject.streams:
        groups = subject.groups(stream)
        parts += subject.heading(stream)
        measure, final = groups[0].measure_so_far, metric_of(groups[0].final_metric).title
        curves = Picture(
            subject.key("curves", stream),
            f"{stream}: {measure} on the tasks so far, and forgetting of the earlier ones, after each task",
            f"Two line charts over tasks, one line per method: {measure} on the tasks learned so far, and "
            "forgetting of the earlier tasks. The table behind it holds every point.",
            curves_figure(groups, stream),
            curve_table(subject, stream),
            "Lines are means over class orders, bands ± one standard deviation.",
        )
        orders = Picture(
            subject.key("orders", stream),
            f"{stream}: every class order's {final} and forgetting",
            f"Two dot charts with one column per method and one dot per class order: {final}, and forgetting.",
            orders_figure(groups, stream),
            order_table(subject, stream),
            "A bar is the mean; a thin line joins the runs of one class order.",
        )
        parts += [curves, orders]
    if not any(group.method == FLOOR for group in subject.comparison.groups):
        parts.append(Sentence("The frozen base was not run, so what the growing class list alone costs is not drawn."))
    return Section("curves", "Over tasks and class orders", tuple(parts))


def curve_table(subject: Subject, stream: str) -> Table:
    """Both curves' points."""
    rows = []
    for group in subject.groups(stream):
        accuracy = curve_over_orders(group, accuracy_so_far)
        lost = curve_over_orders(group, forgetting_by_stage)
        for stage in range(len(accuracy[0])):
            cells = (_point(*accuracy, stage), _point(*lost, stage))
            if any(cell.value is not None for cell in cells):
                rows.append((Cell(group.label), Cell(str(stage + 1), float(stage + 1)), *cells))
    columns = (
        Column("method", "text"),
        Column("after task"),
        Column(f"{subject.groups(stream)[0].measure_so_far} on the tasks so far, %", "summary"),
        Column("forgetting, points", "summary"),
    )
    return Table(subject.key("curves", stream), f"{stream}: the curves' points", columns, tuple(rows), folded=True)


def order_table(subject: Subject, stream: str) -> Table:
    """Final result and forgetting by class order."""
    groups = subject.groups(stream)
    keys = (groups[0].final_metric, "forgetting")
    rows = [
        (Cell(group.label), Cell(str(run.seed), float(run.seed)), *(_order(group, key, run.seed) for key in keys))
        for group in groups
        for run in group.runs
    ]
    columns = (Column("method", "text"), Column("class order"), *(Column(f"{metric_of(key).title}, %") for key in keys))
    return Table(subject.key("orders", stream), f"{stream}: every class order", columns, tuple(rows), folded=True)


def _order(group: Group, key: str, seed: int) -> Cell:
    found = dict(summary_cell(group.metrics.get(key)).orders).get(str(seed), DASH)
    return Cell(found, None if found == DASH else group.metrics[key].values[seed].value)


def _point(mean: FloatArray, std: FloatArray | None, stage: int) -> Cell:
    if mean[stage] != mean[stage]:  # NaN: nothing to forget yet, or not evaluated
        return Cell(DASH)
    spread = None if std is None else float(std[stage])
    return Cell(
        f"{100 * mean[stage]:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}"), float(mean[stage]), spread
    )
