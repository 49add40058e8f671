"""``clrft status``: what of a sweep is done, running, failed, stopped or waiting, and how long the rest takes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.markup import escape
from rich.table import Table

from clrft.config.run_config import parse_overrides
from clrft.config.sweeps import load_sweep
from clrft.sweep.cell_status import STATES, Standing, folders_of, standing_of_cell, standing_of_folder
from clrft.utils.files import config_root
from task_streams.errors import UserError, unknown_name

SCHEMA = 1
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "stopped": "yellow", "waiting": "dim"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long the rest of some cells takes.

    Attributes:
        seconds: for all processes at work together; None where nothing was measured that tells it.
        stages: stages to come, of cells that did not fail.
        processes: at work now; 0 = none, and the time is that of one.
    """

    seconds: float | None
    stages: int
    processes: int


def standings(words: Sequence[str]) -> list[Standing]:
    """Every cell of sweeps and folders, each once.

    Args:
        words: names of sweeps, folders, and KEY=VALUE words as ``clrft sweep`` takes them.

    Raises:
        UserError: nothing is named, a name is neither sweep nor folder, or a folder comes with KEY=VALUE words.
    """
    names = [word for word in words if "=" not in word or os.path.exists(word)]  # of any length
    settings = [word for word in words if word not in names]
    if not names:
        raise UserError("status: got no name, expected a sweep of clrft list sweeps or a folder of runs.")
    cells: dict[Path, Standing] = {}
    asked = [word for word in settings if not word.startswith("run.plugins=")]
    for name in names:
        for cell in standings_of(name, settings, asked):
            cells.setdefault(cell.folder.resolve(), cell)
    return list(cells.values())


def standings_of(name: str, settings: Sequence[str], asked: Sequence[str]) -> list[Standing]:
    """The cells of one sweep or folder."""
    if is_sweep(name):
        return [standing_of_cell(cell) for cell in load_sweep(name, parse_overrides(settings))]
    if not os.path.isdir(name):
        known = [path.stem for path in (config_root() / "sweeps").glob("*.yaml")]
        raise UserError(f"{unknown_name('sweep', name, known)} There is no folder {name} either.")
    if asked:
        raise UserError(f"{name} is a folder: it takes no {' '.join(asked)}; expected the name of a sweep with it.")
    return [standing_of_folder(folder) for folder in folders_of(Path(name))]


def is_sweep(name: str) -> bool:
    """Whether a name is a sweep's: a shipped one's, or a path to a YAML file."""
    return name.endswith((".yaml", ".yml")) or os.path.isfile(config_root() / "sweeps" / f"{name}.yaml")


def estimate(cells: Sequence[Standing]) -> Estimate:
    """Stages to come, each at the median time of its kind, shared by the processes at work.

    The median is over the method's finished stages, else over those of all methods; the test of the base before any
    training is a kind of its own.
    """
    to_come = [cell for cell in cells if cell.state in ("running", "stopped", "waiting")]
    processes = sum(cell.state == "running" for cell in cells)
    known = medians(cells)
    stages = [(cell.method, stage == 0) for cell in to_come for stage in cell.remaining]
    times = [known.get(kind, known.get((None, kind[1]))) for kind in stages]
    unsure = any(not cell.stages for cell in to_come) or None in times
    seconds = None if unsure else sum(time for time in times if time is not None) / max(1, processes)
    return Estimate(seconds, len(stages), processes)


def medians(cells: Sequence[Standing]) -> Mapping[tuple[str | None, bool], float]:
    """Median seconds of a stage by method (None: of all) and by whether it is the base's."""
    found: dict[tuple[str | None, bool], list[float]] = {}
    for cell in cells:
        own = {stage: seconds for stage, seconds in cell.seconds.items() if stage > cell.forked}
        for stage, seconds in own.items():
            for method in (cell.method, None):
                found.setdefault((method, stage == 0), []).append(seconds)
    return {kind: median(times) for kind, times in found.items()}


def counts(cells: Sequence[Standing]) -> dict[str, int]:
    """How many cells are in each state."""
    return {state: sum(cell.state == state for cell in cells) for state in STATES}


def to_json(cells: Sequence[Standing], rest: Estimate) -> dict[str, Any]:
    """Everything in plain values; ``seconds_left`` is null where nothing tells it."""
    return {
        "schema": SCHEMA,
        "cells": [cell.to_json() for cell in cells],
        "counts": counts(cells),
        "stages_left": rest.stages,
        "processes": rest.processes,
        "seconds_left": rest.seconds,
    }


def to_table(cells: Sequence[Standing]) -> Table:
    """A line for each cell."""
    table = Table("cell", "state", "tasks", "")
    for cell in cells:
        done = len([stage for stage in cell.seconds if stage])
        of = len(cell.stages) - 1 if cell.stages else "?"
        state = f"[{COLOURS[cell.state]}]{cell.state}[/]"
        table.add_row(escape(cell.folder.name), state, f"{done}/{of}", escape(cell.detail))
    return table


def counts_line(cells: Sequence[Standing]) -> str:
    """The states that there are, counted."""
    return f"{len(cells)} cells: " + ", ".join(f"{number} {state}" for state, number in counts(cells).items() if number)


def estimate_line(rest: Estimate) -> str:
    """The estimate in words."""
    if rest.seconds == 0:
        return "nothing is left to do"
    who = f"{rest.processes} processes at work" if rest.processes > 1 else "one process"
    idle = "" if rest.processes else " (none is at work)"
    time = "unknown: nothing like it was measured yet" if rest.seconds is None else f"about {duration(rest.seconds)}"
    return f"time left: {time}" + (f", by {who}{idle}" if rest.seconds is not None else idle)


def duration(seconds: float) -> str:
    """Seconds in the two largest units that say something."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
