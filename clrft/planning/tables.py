"""A plan as tables and sentences for the terminal, and as plain values."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.render import rich_table
from clrft.analysis.table import short
from clrft.memory.phases import gib
from clrft.planning.advice import Suggestion, cannot_run, does_not_fit, grouped
from clrft.planning.hardware import FAST, LIKELY, SLOW, Hardware
from clrft.planning.plan import PARTS, CellPlan, Plan
from clrft.planning.stage_work import COUNTED
from clrft.runs.layout import COUNTS, EVALUATE, TRAIN
from clrft.sweep.status import duration
from methods.settings import KAHAN, WIDE

SCHEMA = 1
WORK = ("cells", "tasks", "updates", "prompt tokens", "generated", "trained", "FLOPs")
COST = ("cells", "one worker", "train", "tests", "other", "GiB", "disk")
STREAMS = ("cells", "tasks", "updates", "FLOPs", "one worker", "GiB", "disk")
TOLD_COUNTS = ("updates", "test_items", *COUNTS)
TOLD = 0.005  # of the time; a part that is less is not named
NAMES = dict(zip(PARTS, ("training", "tests", "drift", "exchange", "boundaries", "start"), strict=True))


def plan_to_terminal(plan: Plan, suggested: Sequence[Suggestion], twice: Plan) -> RenderableType:
    """What a sweep takes, what it rests on, and what would make it cheaper."""
    target, sharing = plan.target, plan.target.sharing
    tasks = sum(len(cell.statistics.tasks) for cell in plan.cells)
    how = f", each {'split over' if sharing.split else 'shared by'} {sharing.processes} devices"
    beside = f"{target.jobs} at a time" if target.jobs > 1 else "one at a time"
    title = (
        f"{plan.cells[0].config.run.sweep} on {target.name} ({target.title}): {len(plan.cells)} cells, {tasks} tasks"
    )
    parts: list[RenderableType] = [Text(f"{title}, {beside}{how if sharing.processes > 1 else ''}", style="bold")]
    methods: list[tuple[str, CellPlan]] = []  # with what a sweep varies
    for cell in plan.cells:
        suffix = cell.config.run.name_suffix
        methods.append((f"{cell.config.method_label} [{suffix}]" if suffix else cell.config.method_label, cell))
    parts.append(table("Work by method", methods, WORK))
    parts.append(table("Cost by method: time, memory, disk that is kept", methods, COST))
    if len({cell.config.stream_label for cell in plan.cells}) > 1:
        parts.append(table("By stream", [(cell.config.stream_label, cell) for cell in plan.cells], STREAMS))
    parts += map(Text, sentences(plan, twice))
    parts += [Text(f"does not fit: {reason}", style="bold red") for reason in does_not_fit(plan)]
    parts += [Text(f"cannot run: {reason}", style="bold red") for reason in cannot_run(plan)]
    rows = [
        [word, duration(then.wall()), f"{1 - then.wall() / plan.wall():.0%}", f"{short(then.kept)}B", note]
        for word, then, note in suggested
    ]
    if rows:
        header = ["change", "wall time", "saved", "disk", "but"]
        parts.append(rich_table("What would make it cheaper, one at a time", header, rows))
    parts += [Text(f"- {note}", style="dim") for note in notes(plan)]
    return RichGroup(*parts)


def table(title: str, named: Sequence[tuple[str, CellPlan]], columns: Sequence[str]) -> RenderableType:
    """A row for each group of cells of one name, and one for all."""
    groups = grouped(named)
    if len(groups) > 1:
        groups["all"] = [cell for _, cell in named]
    rows = []
    for label, cells in groups.items():
        work, spent = pd.concat([cell.work for cell in cells]).sum(), sum(cell.wall() for cell in cells)
        train, tests = (sum(cell.seconds[LIKELY][part] for cell in cells) / spent for part in (TRAIN, EVALUATE))
        row = {
            "cells": str(len(cells)),
            "tasks": short(sum(len(cell.statistics.tasks) for cell in cells)),
            "updates": short(work.updates),
            "prompt tokens": short(work.prompt_tokens),
            "generated": short(work.tokens_generated),
            "trained": short(work.tokens_trained),
            "FLOPs": short(work.model_flops),
            "one worker": duration(spent),  # one cell after the other
            "train": f"{train:.0%}",
            "tests": f"{tests:.0%}",
            "other": f"{1 - train - tests:.0%}",
            "GiB": gib(max(cell.memory.peak.total for cell in cells)),  # of the largest
            "disk": f"{short(sum(cell.disk.kept for cell in cells))}B",
        }
        rows.append([label, *(row[column] for column in columns)])
    return rich_table(title, ["", *columns], rows)


def sentences(plan: Plan, twice: Plan) -> list[str]:
    """Wall time with its parts, memory and disk."""
    values, shared, memory = figures(plan), plan.target.sharing.processes > 1, plan.target.memory
    spent = sum(cell.wall() for cell in plan.cells)
    parts = {part: sum(cell.seconds[LIKELY][part] for cell in plan.cells) / spent for part in PARTS}
    shares = ", ".join(f"{NAMES[part]} {taken:.0%}" for part, taken in parts.items() if taken > TOLD)
    walls = []
    for one in (plan, twice):  # with its range where that is assumed
        likely, slow, fast = (duration(one.wall(place)) for place in (LIKELY, SLOW, FAST))
        walls.append(f"about {likely}" + (f" ({fast} to {slow})" if one.wall(SLOW) > one.wall() else ""))
    found = [f"wall time: {walls[0]}; {shares}."]
    if twice.wall() > plan.wall():
        found.append(f"with completions twice as long: {walls[1]}.")
    if shared:
        found.append(f"devices: {values['device_seconds'] / 3600:,.0f} hours of one, all cells together.")
    there = "" if memory is None else f" of {gib(memory)} GiB"
    each = " on each of its devices" if shared else ""
    largest = f"memory: {gib(values['memory_bytes'])} GiB{there} for the largest cell{each}"
    found.append(f"{largest}, with the longest prompts and completions.")
    return [*found, f"disk: {short(plan.kept)}B kept, {short(plan.most)}B at most meanwhile."]


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
        "twice_as_long": {"wall_seconds": figures(twice)["wall_seconds"]},
        "does_not_fit": does_not_fit(plan),
        "cannot_run": cannot_run(plan),
        "cheaper": [{"change": one.word, "but": one.note, **figures(one.plan)} for one in suggested],
        "notes": notes(plan),
        "each": [
            {
                "cell": cell.config.cell,
                "tasks": len(cell.statistics.tasks),
                "data_here": cell.statistics.here,
                "counts": {name: work.to_dict() for name, work in cell.work[list(TOLD_COUNTS)].iterrows()},
                "seconds": dict(cell.seconds[LIKELY]),
                "memory": cell.memory.to_json(),
                "disk_bytes": {"kept": cell.disk.kept, "meanwhile": cell.disk.meanwhile},
            }
            for cell in plan.cells
        ],
    }


def figures(plan: Plan) -> dict[str, Any]:
    """What a plan comes to; devices' seconds are those of all of them, all cells together."""
    return {
        "cells": len(plan.cells),
        "counts": pd.concat([cell.work for cell in plan.cells]).sum()[list(TOLD_COUNTS)].to_dict(),
        "wall_seconds": {"likely": plan.wall(LIKELY), "slow": plan.wall(SLOW), "fast": plan.wall(FAST)},
        "device_seconds": sum(cell.wall() for cell in plan.cells) * plan.target.sharing.processes,
        "memory_bytes": max(cell.memory.peak.total for cell in plan.cells),
        "disk_bytes": {"kept": plan.kept, "most": plan.most},
    }


def notes(plan: Plan) -> list[str]:
    """What a plan rests on, in sentences."""
    cells, target = plan.cells, plan.target
    found = []
    if away := dict.fromkeys(cell.config.stream_label for cell in cells if not cell.statistics.here):
        found.append(f"Estimated, data not here: {', '.join(away)}; sizes as published, names of classes made up.")
    if rough := dict.fromkeys(str(cell.config.model.path) for cell in cells if not cell.statistics.exact):
        found.append(f"Prompt lengths are estimated for {', '.join(rough)}: 4 letters a token, images by their size.")
    if target.measured is not None:
        found.append(
            f"Hours and lengths of completions: measured now in {target.measured.took:.0f} s, a few updates and tests "
            "of every kind of cell, as many at a time as the sweep runs."
        )
    elif target.hardware is not None:
        found += assumed_notes(plan, target.hardware)
    over = {
        f"{cell.config.stream_label} ({cell.statistics.longest.tokens})": None
        for cell in cells
        if cell.statistics.longest.tokens > cell.config.train.max_prompt_tokens
    }
    if over:
        found.append(f"Longer than train.max_prompt_tokens, which a run refuses: {', '.join(over)} tokens.")
    chosen = Counter(cell.config.train.optimizer for cell in cells)
    if optimizers := [f"{name} in {chosen[name]} cells" for name in (WIDE, KAHAN) if chosen[name]]:
        found.append(f"Weights are moved by {' and '.join(optimizers)}, as memory allows (train.optimizer).")
    members = [name for cell in cells for name in (cell.config.method_name, *dict(cell.config.parts))]
    if own := dict.fromkeys(name for name in members if name not in COUNTED):
        found.append(f"Not counted: passes of their own of {', '.join(own)}.")
    return found


def assumed_notes(plan: Plan, hardware: Hardware) -> list[str]:
    """What is assumed of a hardware that was not measured; what several processes of a cell do, and their start."""
    device = hardware.device
    share, reach, launch = device.share, device.reach, device.launch
    means = [round(cell.lengths.train) for cell in plan.cells if cell.config.method_name != "zero_shot"] or [0]
    asked = "as asked for" if plan.target.completion else "assumed; --completion-tokens N sets it"
    found = [
        f"The speed of {device.title} is assumed: {share[0]:.0%} of peak operations "
        f"({share[1]:.0%} to {share[2]:.0%}), {reach[0]:.0%} of bandwidth ({reach[1]:.0%} to {reach[2]:.0%}), "
        f"{1e3 * launch[0]:.1f} ms to launch a layer ({1e3 * launch[1]:.1f} to {1e3 * launch[2]:.1f}).",
        f"Rollouts of {min(means)} to {max(means)} tokens ({asked}). Not in the hours: "
        "decoding of images and clips by CPUs, the comparison and the report.",
    ]
    sharing = plan.target.sharing
    if sharing.processes > 1 and device.link and device.linked:
        likely, slow, fast = device.linked
        wanted = "ACCELERATE_USE_FSDP=true " if sharing.split else ""
        found += [
            f"Between devices {likely:.0%} of {device.link / 1e9:.0f} GB/s each way ({slow:.0%} to {fast:.0%}) are "
            "assumed, with nothing computed meanwhile. Every process does all of drift, of Fisher information and of "
            "what a method makes for itself; tests are dealt out by whole batches.",
            f"clrft sweep starts a cell as one process. To share one: {wanted}torchrun --nproc-per-node "
            f"{sharing.processes} -m clrft run stream=… method=… model=… (docs/several-processes.md).",
        ]
    return found
