"""A plan as tables for the terminal, and as plain values."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.render import rich_table
from clrft.analysis.table import Rows, short
from clrft.memory.estimate import gib
from clrft.planning.clock import PARTS
from clrft.planning.hardware import FAST, LIKELY, SLOW
from clrft.planning.notes import cannot_run, notes, refusals
from clrft.planning.operation_counts import Tally
from clrft.planning.plan import CellPlan, Plan, summed
from clrft.planning.suggestions import Remedy
from clrft.runs.cost_names import EVALUATE, TRAIN
from clrft.sweep.status import duration

SCHEMA = 1
COUNTS = ("prompt_tokens", "prompt_tokens_computed", "tokens_generated", "tokens_trained", "images", "model_flops")
WORK = ["", "cells", "tasks", "updates", "prompt tokens", "generated", "trained", "FLOPs"]
COST = ["", "cells", "one worker", "train", "tests", "other", "GiB", "disk"]
STREAMS = ["", "cells", "tasks", "updates", "FLOPs", "one worker", "GiB", "disk"]
TOLD = 0.005  # of the time; a part that is less is not named
NAMES = {
    "train": "training",
    "evaluate": "tests",
    "drift": "drift",
    "exchange": "exchange",
    "boundary": "boundaries",
    "start": "start",
}


def plan_to_terminal(plan: Plan, remedies: Sequence[Remedy], twice: Plan | None) -> RenderableType:
    """What a sweep takes, what it rests on, and what would make it cheaper."""
    parts: list[RenderableType] = [Text(headline(plan), style="bold")]
    parts += [rich_table(title, header, rows) for title, header, rows in groups(plan)]
    parts += [Text(sentence) for sentence in sentences(plan, twice)]
    parts += [Text(f"does not fit: {reason}", style="bold red") for reason in refusals(plan)]
    parts += [Text(f"cannot run: {reason}", style="bold red") for reason in cannot_run(plan)]
    if remedies:
        parts.append(rich_table("What would make it cheaper, one at a time", CHEAPER, remedy_rows(plan, remedies)))
    parts += [Text(f"- {note}", style="dim") for note in notes(plan)]
    return RichGroup(*parts)


def headline(plan: Plan) -> str:
    """The sweep and the hardware on a line."""
    tasks = sum(cell.tasks for cell in plan.cells)
    name = plan.cells[0].config.run.sweep
    at = f"{plan.target.jobs} at a time" if plan.target.jobs > 1 else "one at a time"
    cells = f"{len(plan.cells)} cells, {tasks} tasks, {at}{devices_text(plan)}"
    return f"{name} on {plan.target.name} ({plan.target.title}): {cells}"


def devices_text(plan: Plan) -> str:
    """How a cell's devices share it; nothing where it has one."""
    sharing = plan.target.sharing
    if sharing.processes == 1:
        return ""
    return f", each {'split over' if sharing.split else 'shared by'} {sharing.processes} devices"


def groups(plan: Plan) -> list[tuple[str, list[str], Rows]]:
    """Tables by method and, where there are several, by stream; each ends with the sum."""
    hours = "Cost by method: time, memory, disk that is kept"
    tables = [("Work by method", WORK, rows_by(plan, named, work_row)), (hours, COST, rows_by(plan, named, cost_row))]
    if len({cell.config.stream_label for cell in plan.cells}) > 1:
        rows = rows_by(plan, lambda cell: cell.config.stream_label, stream_row)
        tables.append(("By stream", STREAMS, rows))
    return tables


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
    total = summed(cell.total for cell in cells)
    names = ("updates", "prompt_tokens", "tokens_generated", "tokens_trained", "model_flops")
    return [label, *sizes_of(cells), *(short(getattr(total, name)) for name in names)]


def cost_row(label: str, cells: Sequence[CellPlan]) -> list[str]:
    """A row under ``COST``."""
    spent = sum(cell.wall() for cell in cells)
    shares = [sum(cell.seconds[LIKELY][part] for cell in cells) / spent for part in (TRAIN, EVALUATE)]
    other = 1 - sum(shares)
    return [label, str(len(cells)), hours_of(cells), *(f"{share:.0%}" for share in (*shares, other)), *kept_by(cells)]


def stream_row(label: str, cells: Sequence[CellPlan]) -> list[str]:
    """A row under ``STREAMS``."""
    total = summed(cell.total for cell in cells)
    counts = [short(getattr(total, name)) for name in ("updates", "model_flops")]
    return [label, *sizes_of(cells), *counts, hours_of(cells), *kept_by(cells)]


def sizes_of(cells: Sequence[CellPlan]) -> list[str]:
    """Cells, and the tasks that they go through."""
    return [str(len(cells)), short(sum(cell.tasks for cell in cells))]


def hours_of(cells: Sequence[CellPlan]) -> str:
    """Time of some cells one after the other."""
    return duration(sum(cell.wall() for cell in cells))


def kept_by(cells: Sequence[CellPlan]) -> list[str]:
    """Memory of the largest, and disk of all."""
    return [gib(max(cell.memory.peak.total for cell in cells)), size(sum(cell.disk.kept for cell in cells))]


def size(count: float) -> str:
    """Bytes with a prefix, thousands."""
    return f"{short(count)}B"


def sentences(plan: Plan, twice: Plan | None) -> list[str]:
    """Wall time with its parts, memory and disk."""
    spent = [cell.wall() for cell in plan.cells]
    parts = {part: sum(cell.seconds[LIKELY].get(part, 0.0) for cell in plan.cells) for part in PARTS}
    shares = ", ".join(
        f"{NAMES[part]} {value / sum(spent):.0%}" for part, value in parts.items() if value > TOLD * sum(spent)
    )
    found = [f"wall time: {wall_text(plan)}; {shares}."]
    if twice is not None and twice.wall() > plan.wall():
        found.append(f"with completions twice as long: {wall_text(twice)}.")
    shared = plan.target.sharing.processes > 1
    if shared:
        found.append(f"devices: {plan.device_seconds / 3600:,.0f} hours of one, all cells together.")
    there = "" if plan.target.memory is None else f" of {gib(plan.target.memory)} GiB"
    each = " on each of its devices" if shared else ""
    found.append(
        f"memory: {gib(plan.memory)} GiB{there} for the largest cell{each}, with the longest prompts and completions."
    )
    found.append(f"disk: {size(plan.kept)} kept, {size(plan.most)} at most meanwhile.")
    return found


def wall_text(plan: Plan) -> str:
    """Wall time, and its range where that is assumed."""
    likely, slow, fast = (plan.wall(place) for place in (LIKELY, SLOW, FAST))
    return f"about {duration(likely)}" + (f" ({duration(fast)} to {duration(slow)})" if slow > likely else "")


CHEAPER = ["change", "wall time", "saved", "disk", "but"]


def remedy_rows(plan: Plan, remedies: Sequence[Remedy]) -> Rows:
    """Rows under ``CHEAPER``."""
    return [
        [
            one.word,
            duration(one.plan.wall()),
            f"{1 - one.plan.wall() / plan.wall():.0%}",
            size(one.plan.kept),
            one.note,
        ]
        for one in remedies
    ]


def plan_to_json(plan: Plan, remedies: Sequence[Remedy], twice: Plan | None) -> dict[str, Any]:
    """All of it in plain values: seconds, bytes, counts."""
    return {
        "schema": SCHEMA,
        "sweep": plan.cells[0].config.run.sweep,
        "hardware": {
            "name": plan.target.name,
            "title": plan.target.title,
            "jobs": plan.target.jobs,
            "devices_per_cell": plan.target.sharing.processes,
            "split": plan.target.sharing.split,
        },
        **figures(plan),
        "tasks": sum(cell.tasks for cell in plan.cells),
        "twice_as_long": None if twice is None else {"wall_seconds": walls(twice)},
        "does_not_fit": refusals(plan),
        "cannot_run": cannot_run(plan),
        "cheaper": [{"change": one.word, "but": one.note, **figures(one.plan)} for one in remedies],
        "notes": notes(plan),
        "each": [cell_to_json(cell) for cell in plan.cells],
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


def counts(tally: Tally) -> dict[str, float]:
    """Counted work by the names that a run's costs have."""
    return {"updates": tally.updates, "test_items": tally.items, **{name: getattr(tally, name) for name in COUNTS}}


def cell_to_json(cell: CellPlan) -> dict[str, Any]:
    """One cell."""
    return {
        "cell": cell.config.cell,
        "tasks": cell.tasks,
        "data_here": cell.here,
        "counts": {activity: counts(tally) for activity, tally in cell.work.items()},
        "seconds": dict(cell.seconds[LIKELY]),
        "memory": cell.memory.to_json(),
        "disk_bytes": {"kept": cell.disk.kept, "meanwhile": cell.disk.meanwhile},
    }
