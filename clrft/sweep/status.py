"""``clrft status``: what of a sweep is done, running, failed, stopped or waiting, and how long the rest takes."""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from clrft.config.records import Seconds, read_record
from clrft.config.run_config import RunConfig, parse_overrides
from clrft.config.sweeps import load_sweep
from clrft.runner.outcome import failure_of, is_complete, is_done
from clrft.runs.fork_history import origins_of
from clrft.runs.integrity import stage_files
from clrft.runs.layout import METRICS_FILE, UNFINISHED
from clrft.runs.read import MARKS
from clrft.utils.files import config_root, read_json
from clrft.utils.locks import Found, lock_path, look
from clrft.utils.plain import read_yaml
from methods.registry import method_class
from task_streams.errors import UserError, unknown_name

State = Literal["done", "running", "failed", "stopped", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "failed", "stopped", "waiting")
_LOCK = re.compile(r"\.(.+)\.lock")


@dataclass(frozen=True, slots=True)
class CellStatus:
    """How far one cell is.

    Attributes:
        folder: its run folder, there or not.
        method: name of its method; empty if nothing tells.
        stages: its stages, 0 = the base before any training; empty if nothing tells how many.
        seconds: measured seconds of each finished stage.
        state: done, running, failed, stopped (begun, and nobody is at it) or waiting.
        detail: where it is, who is at it, or why it failed.
        forked: the last stage that is another run's, learned there by another method maybe; -1 if there is none.
    """

    folder: Path
    method: str
    stages: tuple[int, ...]
    seconds: Mapping[int, float]
    state: State
    detail: str
    forked: int = -1

    @property
    def remaining(self) -> tuple[int, ...]:
        """Stages to come, the one at work included."""
        return tuple(stage for stage in self.stages if stage not in self.seconds)

    def to_json(self) -> dict[str, Any]:
        """The cell in plain values."""
        return {
            "cell": self.folder.name,
            "folder": str(self.folder),
            "method": self.method,
            "state": self.state,
            "stages": len(self.stages) or None,
            "stages_done": len(self.seconds),
            "detail": self.detail,
        }


def status_of_cell(config: RunConfig) -> CellStatus:
    """A cell of a sweep."""
    folder = config.folder
    stages = stages_of(config.method_name, manifest_tasks(folder) or getattr(config.stream, "tasks", None))
    try:
        complete = is_complete(config)
        lacking = "" if not complete or is_done(config) else "MLflow lacks it; the next sweep tells it"
    except UserError as error:  # of other settings
        return CellStatus(folder, config.method_label, stages, measured(folder), "failed", str(error))
    return standing(folder, config.method_label, stages, complete, lacking)


def status_of_folder(folder: Path) -> CellStatus:
    """A run folder as it lies there."""
    label, name = "", ""
    with contextlib.suppress(UserError):
        section = read_yaml(folder / "config.yaml").get("method")
        if isinstance(section, dict):
            label, name = str(section.get("label", "")), str(section.get("name", ""))
    return standing(folder, label, stages_of(name, manifest_tasks(folder)), (folder / METRICS_FILE).is_file(), "")


def standing(folder: Path, method: str, stages: tuple[int, ...], complete: bool, lacking: str) -> CellStatus:
    """A cell's state and detail."""
    seconds = measured(folder)
    lock = look(lock_path(folder))
    state, detail = told(folder, stages, seconds, lock, complete)
    return CellStatus(folder, method, stages, seconds, state, detail or lacking, forked_stage(folder))


def told(
    folder: Path, stages: tuple[int, ...], seconds: Mapping[int, float], lock: Found | None, complete: bool
) -> tuple[State, str]:
    """State and detail of a cell from its lock and its files."""
    place = where(folder, stages, seconds)
    if lock is not None and not lock.gone:
        return "running", f"{place}, {lock.who}"
    if complete:
        return "done", ""
    if reason := failure_of(folder):
        return "failed", reason
    if lock is not None:
        return "stopped", f"{place}; {lock.gone}"
    if any((folder / mark).exists() for mark in MARKS):
        return "stopped", place
    return "waiting", ""


def where(folder: Path, stages: tuple[int, ...], seconds: Mapping[int, float]) -> str:
    """The stage that a cell is in, and its last update that is on disk."""
    ahead = [stage for stage in stages if stage not in seconds]
    stage = ahead[0] if ahead else max(seconds, default=-1) + 1
    last = max(stages, default=None)
    if last is not None and not ahead:
        return "every task done, results to be written"
    task = f"task {stage} of {'?' if last is None else last}" if stage else "before task 1"
    work = folder / UNFINISHED / f"task_{stage:02d}"
    if (work / "trained").is_dir():
        return f"{task}, trained, to be tested"
    steps = sorted(path.name.removeprefix("step_") for path in work.glob("step_*"))
    return f"{task}, update {int(steps[-1])}" if steps and steps[-1].isdigit() else task


def measured(folder: Path) -> dict[int, float]:
    """Seconds of each finished stage of a run."""
    found = {}
    for stage, path in stage_files(folder).items():
        with contextlib.suppress(UserError):
            found[stage] = sum(float(value) for value in seconds_of(path).values())
    return found


def seconds_of(path: Path) -> dict[str, float]:
    """Seconds of a finished stage, by activity; UserError for a damaged record."""
    return dict(read_record(path, None, Seconds).get("seconds", {}))


def manifest_tasks(folder: Path) -> int | None:
    """How many tasks a run's stream has; None if no manifest tells."""
    with contextlib.suppress(UserError):
        tasks = read_json(folder / "manifest.json").get("tasks")
        return len(tasks) if isinstance(tasks, list) else None
    return None


def forked_stage(folder: Path) -> int:
    """The last stage of a run that is another run's; -1 if it is no fork, or its manifest tells nothing."""
    with contextlib.suppress(UserError):
        origins = origins_of(folder, read_json(folder / "manifest.json"))
        return origins[-1].stage if origins else -1
    return -1


def stages_of(method: str, tasks: int | None) -> tuple[int, ...]:
    """Stages of a run: the base, then every task; a joint method learns all tasks as the last stage."""
    if tasks is None:
        return ()
    joint = False
    with contextlib.suppress(UserError):  # a method of the user's own, not loaded
        joint = method_class(method).joint
    return (0, tasks) if joint else tuple(range(tasks + 1))


def folders_of(path: Path) -> list[Path]:
    """Run folders in a folder, or the folder itself if it is one; also those that only a lock or a failure tells of.

    Raises:
        UserError: there are none.
    """
    if is_begun(path):
        return [path]
    names = {child.name for child in path.iterdir() if not child.name.startswith(".") and is_begun(child)}
    names |= set(locked_names(path.iterdir()))
    if not names:
        raise UserError(f"{path} holds no run; expected a sweep's folder, a run's folder, or a sweep's name.")
    return [path / name for name in sorted(names)]


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a run, whole or not, or what a failed one left."""
    return any((folder / mark).exists() for mark in MARKS) or bool(failure_of(folder))


def locked_names(paths: Iterable[Path]) -> list[str]:
    """Names of the cells whose locks are among some paths; other hidden files of that ending name no holder."""
    found = ((path, _LOCK.fullmatch(path.name)) for path in paths)
    return [match[1] for path, match in found if match and (lock := look(path)) and lock.holder]


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


def statuses(words: Sequence[str]) -> list[CellStatus]:
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
    cells: dict[Path, CellStatus] = {}
    asked = [word for word in settings if not word.startswith("run.plugins=")]
    for name in names:
        for cell in standings_of(name, settings, asked):
            cells.setdefault(cell.folder.resolve(), cell)
    return list(cells.values())


def standings_of(name: str, settings: Sequence[str], asked: Sequence[str]) -> list[CellStatus]:
    """The cells of one sweep or folder."""
    if is_sweep(name):
        return [status_of_cell(cell) for cell in load_sweep(name, parse_overrides(settings))]
    if not os.path.isdir(name):
        known = [path.stem for path in (config_root() / "sweeps").glob("*.yaml")]
        raise UserError(f"{unknown_name('sweep', name, known)} There is no folder {name} either.")
    if asked:
        raise UserError(f"{name} is a folder: it takes no {' '.join(asked)}; expected the name of a sweep with it.")
    return [status_of_folder(folder) for folder in folders_of(Path(name))]


def is_sweep(name: str) -> bool:
    """Whether a name is a sweep's: a shipped one's, or a path to a YAML file."""
    return name.endswith((".yaml", ".yml")) or os.path.isfile(config_root() / "sweeps" / f"{name}.yaml")


def estimate(cells: Sequence[CellStatus]) -> Estimate:
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


def medians(cells: Sequence[CellStatus]) -> Mapping[tuple[str | None, bool], float]:
    """Median seconds of a stage by method (None: of all) and by whether it is the base's."""
    found: dict[tuple[str | None, bool], list[float]] = {}
    for cell in cells:
        own = {stage: seconds for stage, seconds in cell.seconds.items() if stage > cell.forked}
        for stage, seconds in own.items():
            for method in (cell.method, None):
                found.setdefault((method, stage == 0), []).append(seconds)
    return {kind: median(times) for kind, times in found.items()}


def counts(cells: Sequence[CellStatus]) -> dict[str, int]:
    """How many cells are in each state."""
    return {state: sum(cell.state == state for cell in cells) for state in STATES}


def to_json(cells: Sequence[CellStatus], rest: Estimate) -> dict[str, Any]:
    """Everything in plain values; ``seconds_left`` is null where nothing tells it."""
    return {
        "schema": SCHEMA,
        "cells": [cell.to_json() for cell in cells],
        "counts": counts(cells),
        "stages_left": rest.stages,
        "processes": rest.processes,
        "seconds_left": rest.seconds,
    }


def to_table(cells: Sequence[CellStatus]) -> Table:
    """A line for each cell."""
    table = Table("cell", "state", "tasks", "")
    for cell in cells:
        done = len([stage for stage in cell.seconds if stage])
        of = len(cell.stages) - 1 if cell.stages else "?"
        state = f"[{COLOURS[cell.state]}]{cell.state}[/]"
        table.add_row(escape(cell.folder.name), state, f"{done}/{of}", escape(cell.detail))
    return table


def counts_line(cells: Sequence[CellStatus]) -> str:
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
