"""A plan as tables for the terminal, and as plain values."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.cost_tables import short
from clrft.analysis.formatting import Rows
from clrft.analysis.tables import rich_table
from clrft.memory.estimate import gib
from clrft.planning.fit_advice import cannot_run, does_not_fit
from clrft.planning.hardware import FAST, LIKELY, SLOW
from clrft.planning.notes import notes
from clrft.planning.operation_counts import OperationCounts, total_of
from clrft.planning.plan import CellPlan, Plan
from clrft.planning.suggestions import Suggestion
from clrft.planning.throughput import BOUNDARY, EXCHANGE, PARTS, START
from clrft.runs.cost_names import DRIFT, EVALUATE, TRAIN
from clrft.sweep.status import duration

SCHEMA = 1
COUNTS = ("prompt_tokens", "prompt_tokens_computed", "tokens_generated", "tokens_trained", "images", "model_flops")
WORK = ["", "cells", "tasks", "updates", "prompt tokens", "generated", "trained", "FLOPs"]
COST = ["", "cells", "one worker", "train", "tests", "other", "GiB", "disk"]
STREAMS = ["", "cells", "tasks", "updates", "FLOPs", "one worker", "GiB", "disk"]
CHEAPER = ["change", "wall time", "saved", "disk", "but"]
TOLD = 0.005  # of the time; a part that is less is not named
NAMES = {
    TRAIN: "training",
    EVALUATE: "tests",
    DRIFT: "drift",
    EXCHANGE: "exchange",
    BOUNDARY: "boundaries",
    START: "start",
}


def plan_to_terminal(plan: Plan, suggested: Sequence[Suggestion], twice: Plan) -> RenderableType:
    """What a sweep takes, what it rests on, and what would make it cheaper."""
    sharing, jobs = plan.target.sharing, plan.target.jobs
    tasks = sum(cell.tasks for cell in plan.cells)
    how = f", each {'split over' if sharing.split else 'shared by'} {sharing.processes} devices"
    cells = f"{len(plan.cells)} cells, {tasks} tasks, {f'{jobs} at a time' if jobs > 1 else 'one at a time'}"
    title = f"{plan.cells[0].config.run.sweep} on {plan.target.name} ({plan.target.title}): {cells}"
    parts: list[RenderableType] = [Text(f"{title}{how if sharing.processes > 1 else ''}", style="bold")]
    parts.append(rich_table("Work by method", WORK, rows_by(plan, named, work_row)))
    parts.append(rich_table("Cost by method: time, memory, disk that is kept", COST, rows_by(plan, named, cost_row)))
    if len({cell.config.stream_label for cell in plan.cells}) > 1:
        rows = rows_by(plan, lambda cell: cell.config.stream_label, stream_row)
        parts.append(rich_table("By stream", STREAMS, rows))
    parts += [Text(sentence) for sentence in sentences(plan, twice)]
    parts += [Text(f"does not fit: {reason}", style="bold red") for reason in does_not_fit(plan)]
    parts += [Text(f"cannot run: {reason}", style="bold red") for reason in cannot_run(plan)]
    if suggested:
        rows = [
            [
                one.word,
                duration(one.plan.wall()),
                f"{1 - one.plan.wall() / plan.wall():.0%}",
                size(one.plan.kept),
                one.note,
            ]
            for one in suggested
        ]
        parts.append(rich_table("What would make it cheaper, one at a time", CHEAPER, rows))
    parts += [Text(f"- {note}", style="dim") for note in notes(plan)]
    return RichGroup(*parts)


def named(cell: CellPlan) -> str:
    """A cell's method, with what a sweep varies."""
    suffix = f" [{cell.config.run.name_suffix}]" if cell.config.run.name_suffix else ""
    return f"{cell.config.method_label}{suffix}"


def rows_by(plan: Plan, name: Callable[[CellPlan], str], row: Callable[[str, Sequence[CellPlan]], list[str]]) -> Rows:
    """A row for each group of cells, and one for all."""
    found: dict[str, list[CellPlan]] = {}
    for cell in plan.cells:
        found.setdefault(name(cell), []).append(cell)
    rows = [row(label, cells) for label, cells in found.items()]
    return [*rows, row("all", plan.cells)] if len(rows) > 1 else rows


def work_row(label: str, cells: Sequence[CellPlan]) -> list[str]:
    """A row under ``WORK``."""
    names = ("updates", "prompt_tokens", "tokens_generated", "tokens_trained", "model_flops")
    return [label, *sizes_of(cells), *(short(getattr(total(cells), name)) for name in names)]


def cost_row(label: str, cells: Sequence[CellPlan]) -> list[str]:
    """A row under ``COST``."""
    spent = sum(cell.wall() for cell in cells)
    shares = [sum(cell.seconds[LIKELY][part] for cell in cells) / spent for part in (TRAIN, EVALUATE)]
    told = [f"{share:.0%}" for share in (*shares, 1 - sum(shares))]
    return [label, str(len(cells)), duration(spent), *told, *kept_by(cells)]


def stream_row(label: str, cells: Sequence[CellPlan]) -> list[str]:
    """A row under ``STREAMS``."""
    counts = [short(getattr(total(cells), name)) for name in ("updates", "model_flops")]
    return [label, *sizes_of(cells), *counts, duration(sum(cell.wall() for cell in cells)), *kept_by(cells)]


def total(cells: Sequence[CellPlan]) -> OperationCounts:
    """The work of some cells."""
    return total_of(cell.total for cell in cells)


def sizes_of(cells: Sequence[CellPlan]) -> list[str]:
    """Cells, and the tasks that they go through."""
    return [str(len(cells)), short(sum(cell.tasks for cell in cells))]


def kept_by(cells: Sequence[CellPlan]) -> list[str]:
    """Memory of the largest, and disk of all."""
    return [gib(max(cell.memory.peak.total for cell in cells)), size(sum(cell.disk.kept for cell in cells))]


def size(count: float) -> str:
    """Bytes with a prefix, thousands."""
    return f"{short(count)}B"


def sentences(plan: Plan, twice: Plan) -> list[str]:
    """Wall time with its parts, memory and disk."""
    spent, shared = sum(cell.wall() for cell in plan.cells), plan.target.sharing.processes > 1
    parts = {part: sum(cell.seconds[LIKELY].get(part, 0.0) for cell in plan.cells) / spent for part in PARTS}
    shares = ", ".join(f"{NAMES[part]} {share:.0%}" for part, share in parts.items() if share > TOLD)
    found = [f"wall time: {wall_text(plan)}; {shares}."]
    if twice.wall() > plan.wall():
        found.append(f"with completions twice as long: {wall_text(twice)}.")
    if shared:
        found.append(f"devices: {plan.device_seconds / 3600:,.0f} hours of one, all cells together.")
    there = "" if plan.target.memory is None else f" of {gib(plan.target.memory)} GiB"
    each = " on each of its devices" if shared else ""
    found.append(
        f"memory: {gib(plan.memory)} GiB{there} for the largest cell{each}, with the longest prompts and completions."
    )
    return [*found, f"disk: {size(plan.kept)} kept, {size(plan.most)} at most meanwhile."]


def wall_text(plan: Plan) -> str:
    """Wall time, and its range where that is assumed."""
    likely, slow, fast = (plan.wall(place) for place in (LIKELY, SLOW, FAST))
    return f"about {duration(likely)}" + (f" ({duration(fast)} to {duration(slow)})" if slow > likely else "")


def plan_to_json(plan: Plan, suggested: Sequence[Suggestion], twice: Plan) -> dict[str, Any]:
    """All of it in plain values: seconds, bytes, counts."""
    target = plan.target
    return {
        "schema": SCHEMA,
        "sweep": plan.cells[0].config.run.sweep,
        "hardware": {
            "name": target.name,
            "title": target.title,
            "jobs": target.jobs,
            "devices_per_cell": target.sharing.processes,
            "split": target.sharing.split,
        },
        **figures(plan),
        "tasks": sum(cell.tasks for cell in plan.cells),
        "twice_as_long": {"wall_seconds": walls(twice)},
        "does_not_fit": does_not_fit(plan),
        "cannot_run": cannot_run(plan),
        "cheaper": [{"change": one.word, "but": one.note, **figures(one.plan)} for one in suggested],
        "notes": notes(plan),
        "each": [
            {
                "cell": cell.config.cell,
                "tasks": cell.tasks,
                "data_here": cell.here,
                "counts": {activity: counts(work) for activity, work in cell.work.items()},
                "seconds": dict(cell.seconds[LIKELY]),
                "memory": cell.memory.to_json(),
                "disk_bytes": {"kept": cell.disk.kept, "meanwhile": cell.disk.meanwhile},
            }
            for cell in plan.cells
        ],
    }


def figures(plan: Plan) -> dict[str, Any]:
    """What a plan comes to."""
    return {
        "cells": len(plan.cells),
        "counts": counts(plan.total),
        "wall_seconds": walls(plan),
        "device_seconds": plan.device_seconds,
        "memory_bytes": plan.memory,
        "disk_bytes": {"kept": plan.kept, "most": plan.most},
    }


def walls(plan: Plan) -> dict[str, float]:
    """Wall seconds, and their range."""
    return {name: plan.wall(place) for name, place in (("likely", LIKELY), ("slow", SLOW), ("fast", FAST))}


def counts(work: OperationCounts) -> dict[str, float]:
    """Counted work by the names that a run's costs have."""
    return {"updates": work.updates, "test_items": work.items, **{name: getattr(work, name) for name in COUNTS}}
