"""A plan as tables and sentences for the terminal, and as plain values."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.render import rich_table
from clrft.analysis.table import short
from clrft.memory.estimate import gib
from clrft.planning.fit_advice import cannot_run, does_not_fit
from clrft.planning.hardware import FAST, LIKELY, LINKED, SLOW, Hardware
from clrft.planning.operation_counts import OperationCounts, total_of
from clrft.planning.plan import CellPlan, Plan
from clrft.planning.stage_work import uncounted
from clrft.planning.suggestions import Suggestion
from clrft.planning.throughput import BOUNDARY, EXCHANGE, START
from clrft.runs.cost_names import DRIFT, EVALUATE, TRAIN
from clrft.sweep.status import duration
from methods.settings import KAHAN, WIDE

SCHEMA = 1
COUNTS = ("prompt_tokens", "prompt_tokens_computed", "tokens_generated", "tokens_trained", "images", "model_flops")
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
    tasks = sum(len(cell.statistics.tasks) for cell in plan.cells)
    how = f", each {'split over' if sharing.split else 'shared by'} {sharing.processes} devices"
    cells = f"{len(plan.cells)} cells, {tasks} tasks, {f'{jobs} at a time' if jobs > 1 else 'one at a time'}"
    title = f"{plan.cells[0].config.run.sweep} on {plan.target.name} ({plan.target.title}): {cells}"
    parts: list[RenderableType] = [Text(f"{title}{how if sharing.processes > 1 else ''}", style="bold")]
    parts.append(table(plan, "Work by method", method_of, WORK))
    parts.append(table(plan, "Cost by method: time, memory, disk that is kept", method_of, COST))
    if len({cell.config.stream_label for cell in plan.cells}) > 1:
        parts.append(table(plan, "By stream", lambda cell: cell.config.stream_label, STREAMS))
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


def size(count: float) -> str:
    """Bytes with a prefix, thousands."""
    return f"{short(count)}B"


Cells = Sequence[CellPlan]


def spent(cells: Cells) -> float:
    """Seconds of cells one after the other."""
    return sum(cell.wall() for cell in cells)


def share(cells: Cells, *parts: str) -> float:
    """The share of their time that some parts take."""
    return sum(cell.seconds[LIKELY].get(part, 0.0) for cell in cells for part in parts) / spent(cells)


def counted(name: str) -> Callable[[Cells], str]:
    """A column of a count."""
    return lambda cells: short(getattr(total_of(cell.total for cell in cells), name))


COLUMNS: dict[str, Callable[[Cells], str]] = {
    "cells": lambda cells: str(len(cells)),
    "tasks": lambda cells: short(sum(len(cell.statistics.tasks) for cell in cells)),
    "updates": counted("updates"),
    "prompt tokens": counted("prompt_tokens"),
    "generated": counted("tokens_generated"),
    "trained": counted("tokens_trained"),
    "FLOPs": counted("model_flops"),
    "one worker": lambda cells: duration(spent(cells)),
    "train": lambda cells: f"{share(cells, TRAIN):.0%}",
    "tests": lambda cells: f"{share(cells, EVALUATE):.0%}",
    "other": lambda cells: f"{1 - share(cells, TRAIN, EVALUATE):.0%}",
    "GiB": lambda cells: gib(max(cell.memory.peak.total for cell in cells)),  # of the largest
    "disk": lambda cells: size(sum(cell.disk.kept for cell in cells)),
}
WORK = ("cells", "tasks", "updates", "prompt tokens", "generated", "trained", "FLOPs")
COST = ("cells", "one worker", "train", "tests", "other", "GiB", "disk")
STREAMS = ("cells", "tasks", "updates", "FLOPs", "one worker", "GiB", "disk")


def method_of(cell: CellPlan) -> str:
    """A cell's method, with what a sweep varies."""
    suffix = f" [{cell.config.run.name_suffix}]" if cell.config.run.name_suffix else ""
    return f"{cell.config.method_label}{suffix}"


def table(plan: Plan, title: str, name: Callable[[CellPlan], str], columns: Sequence[str]) -> RenderableType:
    """A row for each group of cells of one name, and one for all."""
    found: dict[str, list[CellPlan]] = {}
    for cell in plan.cells:
        found.setdefault(name(cell), []).append(cell)
    groups: list[tuple[str, Cells]] = [*found.items(), *([("all", plan.cells)] if len(found) > 1 else [])]
    return rich_table(
        title, ["", *columns], [[label, *(COLUMNS[one](cells) for one in columns)] for label, cells in groups]
    )


def sentences(plan: Plan, twice: Plan) -> list[str]:
    """Wall time with its parts, memory and disk."""
    shared, parts = plan.target.sharing.processes > 1, {part: share(plan.cells, part) for part in NAMES}
    shares = ", ".join(f"{NAMES[part]} {taken:.0%}" for part, taken in parts.items() if taken > TOLD)
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
        "tasks": sum(len(cell.statistics.tasks) for cell in plan.cells),
        "twice_as_long": {"wall_seconds": walls(twice)},
        "does_not_fit": does_not_fit(plan),
        "cannot_run": cannot_run(plan),
        "cheaper": [{"change": one.word, "but": one.note, **figures(one.plan)} for one in suggested],
        "notes": notes(plan),
        "each": [
            {
                "cell": cell.config.cell,
                "tasks": len(cell.statistics.tasks),
                "data_here": cell.statistics.here,
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


def notes(plan: Plan) -> list[str]:
    """What a plan rests on, in sentences."""
    cells, target = plan.cells, plan.target
    found = []
    away = dict.fromkeys(cell.config.stream_label for cell in cells if not cell.statistics.here)
    if away:
        found.append(f"Estimated, data not here: {', '.join(away)}; sizes as published, names of classes made up.")
    rough = dict.fromkeys(str(cell.config.model.path) for cell in cells if not cell.statistics.exact)
    if rough:
        found.append(f"Prompt lengths are estimated for {', '.join(rough)}: 4 letters a token, images by their size.")
    if target.measured is not None:
        found.append(
            f"Hours and lengths of completions: measured now in {target.measured.took:.0f} s, a few updates and tests "
            "of every kind of cell, as many at a time as the sweep runs."
        )
    elif target.hardware is not None:
        found += assumed_notes(plan, target.hardware)
    lengths = {cell.config.stream_label: cell.statistics.longest.tokens for cell in cells}
    limits = {cell.config.stream_label: cell.config.train.max_prompt_tokens for cell in cells}
    if over := [f"{name} ({tokens})" for name, tokens in lengths.items() if tokens > limits[name]]:
        found.append(f"Longer than train.max_prompt_tokens, which a run refuses: {', '.join(over)} tokens.")
    chosen = Counter(cell.config.train.optimizer for cell in cells)
    if optimizers := [f"{name} in {chosen[name]} cells" for name in (WIDE, KAHAN) if chosen[name]]:
        found.append(f"Weights are moved by {' and '.join(optimizers)}, as memory allows (train.optimizer).")
    if own := dict.fromkeys(name for cell in cells for name in uncounted(cell.config)):
        found.append(f"Not counted: passes of their own of {', '.join(own)}.")
    return found


def assumed_notes(plan: Plan, hardware: Hardware) -> list[str]:
    """What is assumed of a hardware that was not measured; what several processes of a cell do, and their start."""
    share, reach, launch = (hardware.assumed[name] for name in ("share", "reach", "launch"))
    means = sorted({round(cell.lengths.train) for cell in plan.cells if cell.config.method_name != "zero_shot"}) or [0]
    asked = "as asked for" if plan.target.completion else "assumed; --completion-tokens N sets it"
    found = [
        f"The speed of {hardware.title} is assumed: {share[0]:.0%} of peak operations "
        f"({share[1]:.0%} to {share[2]:.0%}), {reach[0]:.0%} of bandwidth ({reach[1]:.0%} to {reach[2]:.0%}), "
        f"{1e3 * launch[0]:.1f} ms to launch a layer ({1e3 * launch[1]:.1f} to {1e3 * launch[2]:.1f}).",
        f"Rollouts of {means[0]} to {means[-1]} tokens ({asked}). Not in the hours: "
        "decoding of images and clips by CPUs, the comparison and the report.",
    ]
    sharing = plan.target.sharing
    if sharing.processes > 1 and hardware.link is not None:
        likely, slow, fast = hardware.assumed[LINKED]
        wanted = "ACCELERATE_USE_FSDP=true " if sharing.split else ""
        found += [
            f"Between devices {likely:.0%} of {hardware.link / 1e9:.0f} GB/s each way ({slow:.0%} to {fast:.0%}) are "
            "assumed, with nothing computed meanwhile. Every process does all of drift, of Fisher information and of "
            "what a method makes for itself; tests are dealt out by whole batches.",
            f"clrft sweep starts a cell as one process. To share one: {wanted}torchrun --nproc-per-node "
            f"{sharing.processes} -m clrft run stream=… method=… model=… (docs/several-processes.md).",
        ]
    return found
