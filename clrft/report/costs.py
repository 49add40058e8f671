"""Cost beside quality: what training and tests took, counted and by the clock, and memory."""

from collections.abc import Sequence

from clrft.analysis.cost_figures import costs_figure
from clrft.analysis.cost_tables import EXPLAINED, short
from clrft.analysis.costs import GroupCost, cost_report
from clrft.analysis.formatting import DASH
from clrft.analysis.tables import name_of
from clrft.report.parts import Cell, Column, Part, Picture, Section, Sentence, Subject, Table, summary_cell
from clrft.runs.cost_names import CPU, EVALUATE, GPU, TRAIN, WALL

HOUR = 3600.0
# Activity, figure, its unit and the column's title.
SHOWN = (
    (TRAIN, "tokens_generated", 1.0, "tokens generated"),
    (TRAIN, "tokens_trained", 1.0, "tokens trained"),
    (TRAIN, "model_flops", 1.0, "operations, training"),
    (EVALUATE, "model_flops", 1.0, "operations, tests"),
    (TRAIN, CPU, HOUR, "CPU hours, training"),
    (TRAIN, GPU, HOUR, "GPU hours, training"),
    (TRAIN, WALL, HOUR, "wall hours, training"),
)


def costs_section(subject: Subject) -> Section:
    """Quality against cost as a picture, and the figures."""
    report = cost_report(subject.comparison)
    parts: list[Part] = [Sentence(EXPLAINED)] if report.groups else []
    for stream in subject.streams:
        groups = report.of_stream(stream)
        parts += subject.heading(stream)
        if not groups:
            parts.append(Sentence(f"{stream}: no run counted what it cost.", "missing"))
            continue
        table = cost_table(subject, stream, groups)
        figure = costs_figure(groups, stream)
        if figure is not None:
            title = f"{stream}: quality against what the training cost"
            described = (
                "Scatter charts: last accuracy and forgetting upwards, each cost to the right, a mark per method."
            )
            note = "Bars are ± one standard deviation. The table below has the numbers."
            parts.append(Picture(table.key, title, described, figure, None, note))
        parts.append(table)
    parts += [Sentence(sentence, "missing") for sentence in report.without if report.groups]
    return Section("costs", "Cost beside quality", tuple(parts))


def cost_table(subject: Subject, stream: str, groups: Sequence[GroupCost]) -> Table:
    """Per run: what was counted, hours, the highest memory, and quality."""
    shown = [one for one in SHOWN if any((one[0], one[1]) in group.figures for group in groups)]
    rows = []
    for group in groups:
        counted = [_cell(group, activity, name, unit) for activity, name, unit, _ in shown]
        memory = max(group.memory.values(), default=None)
        most = Cell(DASH) if memory is None else Cell(f"{memory:.0f}", memory)
        quality = [summary_cell(group.group.metrics.get(key)) for key in (group.group.final_metric, "forgetting")]
        rows.append((Cell(name_of(group.group)), *counted, most, *quality))
    columns = (
        *(Column("method", "text"), *(Column(title, "summary") for *_, title in shown), Column("peak memory, MB")),
        *(Column("last accuracy, %", "summary"), Column("forgetting, points", "summary")),
    )
    title = f"{stream}: cost per run, mean over class orders, beside quality"
    return Table(subject.key("costs", stream), title, columns, tuple(rows))


def _cell(group: GroupCost, activity: str, name: str, unit: float) -> Cell:
    summary = group.figures.get((activity, name))
    if summary is None or summary.mean is None:
        return Cell(DASH)
    mean, spread = summary.mean / unit, None if summary.std is None else summary.std / unit
    text = f"{mean:.3g}" if unit == HOUR else short(mean)
    return Cell(text, mean, spread)
