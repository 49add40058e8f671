"""Accuracy matrices side by side on one scale: the base before training, then after every task."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clrft.analysis.compare import Group
from clrft.analysis.figures import matrices_figure, mean_matrix, over_orders
from clrft.analysis.formatting import DASH
from clrft.analysis.tables import show
from clrft.report.parts import Block, Cell, Column, Part, Picture, Section, Sentence, Subject, Table
from eval.matrix import FloatArray

SHADES = 50  # steps of the colour scale


def matrices_section(subject: Subject) -> Section:
    """Every method's matrix, mean over class orders."""
    explained = (
        "Row: after learning that task; column: accuracy on that task, in percent. A row of 0 is the base before any "
        "training, where it was tested. Every matrix has the same colour scale from 0 to 100."
    )
    parts: list[Part] = [Sentence(explained)]
    for stream in subject.streams:
        groups = subject.groups(stream)
        table = matrix_table(subject, stream)
        title = f"{stream}: {groups[0].measure} on each task after each task{over_orders(groups)}"
        picture = Picture(subject.key("matrices", stream), title, title, matrices_figure(groups, stream), table)
        has_base = not all(np.isnan(mean_base(group)).all() for group in groups)
        maps = [heatmap(group, has_base) for group in groups]
        scale = {"shades": range(0, SHADES + 1, 2), "measure": groups[0].measure}
        parts += subject.heading(stream)
        if not has_base:
            parts.append(Sentence(f"{stream}: the base was not tested on the tasks (evaluate.future).", "missing"))
        parts.append(Block("matrices", {"maps": maps, "title": title, **scale}, picture))
        parts.append(table)
    return Section("matrices", "Accuracy matrices", tuple(parts))


def heatmap(group: Group, has_base: bool) -> dict[str, Any]:
    """What the template shows of one method's matrix; with a row of 0, the base, where it was tested."""
    percent = 100 * np.vstack([mean_base(group), mean_matrix(group)])
    size = percent.shape[1]
    return {
        "label": group.label,
        "orders": len(group.runs),
        "last": show(group.metrics.get(group.final_metric)),
        "lost": show(group.metrics.get("forgetting")),
        "wide": size > 10,
        "tasks": range(1, size + 1),
        "rows": [(stage, [_shaded(value) for value in row]) for stage, row in enumerate(percent) if stage or has_base],
    }


def mean_base(group: Group) -> FloatArray:
    """Mean accuracy of the base on every task over class orders, NaN where an order lacks it. [T]"""
    rows: FloatArray = np.array([run.matrix.base for run in group.runs])
    return np.asarray(rows.mean(axis=0), dtype=np.float64)


def matrix_table(subject: Subject, stream: str) -> Table:
    """One row per method, stage and task: mean and standard deviation over class orders."""
    rows = [row for group in subject.groups(stream) for row in _long_rows(group)]
    columns = (Column("method", "text"), Column("after task"), Column("on task"), Column("accuracy, %", "summary"))
    title = f"{stream}: cells of the matrices; after task 0: the base"
    return Table(subject.key("matrices", stream), title, columns, tuple(rows), folded=True)


def _long_rows(group: Group) -> Sequence[tuple[Cell, ...]]:
    values: FloatArray = np.array([np.vstack([run.matrix.base, run.matrix.value]) for run in group.runs])
    means = values.mean(axis=0)
    spreads = values.std(axis=0, ddof=1) if len(values) > 1 else None
    rows = []
    for (stage, task), mean in np.ndenumerate(means):
        if math.isnan(mean):
            continue
        spread = None if spreads is None else float(spreads[stage, task])
        text = f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")
        places = (Cell(str(stage), float(stage)), Cell(str(task + 1), float(task + 1)))
        rows.append((Cell(group.label), *places, Cell(text, float(mean), spread)))
    return rows


def _shaded(percent: float) -> tuple[str, int | None]:
    """Text of a cell and its step on the colour scale; None where nothing was evaluated."""
    if math.isnan(percent):
        return DASH, None
    return f"{percent:.0f}", round(percent * SHADES / 100)
