"""``clrft status``: what of a sweep is done, running, failed, stopped or waiting, and how long the rest takes."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
SCHEMA = 1
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "stopped": "yellow", "waiting": "dim"}


@dataclass(frozen=True, slots=True)
class CellStatus:
    """How far one cell is."""

    folder: Path  # its run folder, there or not
    method: str  # name of its method; empty if nothing tells
    stages: tuple[int, ...]  # its stages, 0 = the base before any training; empty if nothing tells how many
    seconds: Mapping[int, float]  # measured seconds of each finished stage
    state: State  # done, running, failed, stopped (begun, and nobody is at it) or waiting
    detail: str  # where it is, who is at it, or why it failed
    forked: int = -1  # the last stage that is another run's, learned there by another method maybe; -1 if there is none


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long the rest of some cells takes."""

    seconds: float | None  # for all processes at work together; None where nothing was measured that tells it
    stages: int  # stages to come, of cells that did not fail
    processes: int  # at work now; 0 = none, and the time is that of one


def status_of_cell(config: RunConfig) -> CellStatus:
    """A cell of a sweep."""
    asked = getattr(config.stream, "tasks", None)
    try:
        complete = is_complete(config)
        lacking = "" if not complete or is_done(config) else "MLflow lacks it; the next sweep tells it"
    except UserError as error:  # of other settings
        found = status_of(config.folder, config.method_label, config.method_name, asked, False)
        return replace(found, state="failed", detail=str(error))
    found = status_of(config.folder, config.method_label, config.method_name, asked, complete)
    return replace(found, detail=found.detail or lacking)


def status_of_folder(folder: Path) -> CellStatus:
    """A run folder as it lies there."""
    label, name = "", ""
    with contextlib.suppress(UserError):
        section = read_yaml(folder / "config.yaml").get("method")
        if isinstance(section, dict):
            label, name = str(section.get("label", "")), str(section.get("name", ""))
    return status_of(folder, label, name, None, (folder / METRICS_FILE).is_file())


def status_of(folder: Path, label: str, method: str, asked: int | None, complete: bool) -> CellStatus:
    """How far a cell is, by its lock and its files; ``complete``: it has all its results.

    Its method's ``label`` is shown, the ``method`` tells its stages, where its tasks are known: by the manifest, else
    ``asked`` for by its settings.
    """
    manifest: dict[str, Any] = {}
    forked, joint = -1, False
    with contextlib.suppress(UserError):  # none yet, or a damaged one
        manifest = read_json(folder / "manifest.json")
        forked = next((origin.stage for origin in reversed(origins_of(folder, manifest))), -1)
    with contextlib.suppress(UserError):  # a method of the user's own, not loaded
        joint = method_class(method).joint
    listed = manifest.get("tasks")
    tasks = (len(listed) if isinstance(listed, list) else 0) or asked
    stages: tuple[int, ...] = ()
    if tasks is not None:  # a joint method learns all tasks as the last stage
        stages = (0, tasks) if joint else tuple(range(tasks + 1))
    seconds: dict[int, float] = {}
    for stage, path in stage_files(folder).items():
        with contextlib.suppress(UserError):  # a damaged record
            record = read_record(path, None, Seconds)
            seconds[stage] = sum(map(float, dict(record.get("seconds", {})).values()))
    state, detail = told(folder, stages, seconds, look(lock_path(folder)), complete)
    return CellStatus(folder, label, stages, seconds, state, detail, forked)


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
    if is_begun(folder):
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


def statuses(words: Sequence[str]) -> list[CellStatus]:
    """Every cell of sweeps and folders, each once.

    Args:
        words: names of sweeps, folders, and KEY=VALUE words as ``clrft sweep`` takes them.

    Raises:
        UserError: nothing is named, a name is neither sweep nor folder, or a folder comes with KEY=VALUE words.
    """
    names = [word for word in words if "=" not in word or os.path.exists(word)]  # of any length
    settings = [word for word in words if word not in names]
    asked = [word for word in settings if not word.startswith("run.plugins=")]
    if not names:
        raise UserError("status: got no name, expected a sweep of clrft list sweeps or a folder of runs.")
    known = [path.stem for path in (config_root() / "sweeps").glob("*.yaml")]
    cells: dict[Path, CellStatus] = {}
    for name in names:
        if name in known or name.endswith((".yaml", ".yml")):
            found = [status_of_cell(cell) for cell in load_sweep(name, parse_overrides(settings))]
        elif not os.path.isdir(name):
            raise UserError(f"{unknown_name('sweep', name, known)} There is no folder {name} either.")
        elif asked:
            raise UserError(f"{name} is a folder: it takes no {' '.join(asked)}; expected the name of a sweep with it.")
        else:
            found = [status_of_folder(folder) for folder in folders_of(Path(name))]
        for cell in found:
            cells.setdefault(cell.folder.resolve(), cell)
    return list(cells.values())


def folders_of(path: Path) -> list[Path]:
    """Run folders in a folder, or the folder itself if it is one; also those that only a lock or a failure tells of.

    Raises:
        UserError: there are none.
    """
    if is_begun(path) or failure_of(path):
        return [path]
    names = set()
    for child in path.iterdir():
        if lock := _LOCK.fullmatch(child.name):
            if (found := look(child)) is not None and found.holder is not None:  # else no cell's
                names.add(lock[1])
        elif not child.name.startswith(".") and (is_begun(child) or failure_of(child)):
            names.add(child.name)
    if not names:
        raise UserError(f"{path} holds no run; expected a sweep's folder, a run's folder, or a sweep's name.")
    return [path / name for name in sorted(names)]


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a run, whole or not."""
    return any((folder / mark).exists() for mark in MARKS)


def estimate(cells: Sequence[CellStatus]) -> Estimate:
    """Stages to come, each at the median time of its kind, shared by the processes at work.

    The median is over the method's finished stages, else over those of all methods; the test of the base before any
    training is a kind of its own.
    """
    measured: dict[tuple[str | None, bool], list[float]] = {}  # by method (None: of all), and whether it is the base's
    for cell in cells:
        for stage, seconds in cell.seconds.items():
            for method in (cell.method, None) if stage > cell.forked else ():
                measured.setdefault((method, stage == 0), []).append(seconds)
    usual = {kind: median(times) for kind, times in measured.items()}
    to_come = [cell for cell in cells if cell.state in ("running", "stopped", "waiting")]
    stages = [(cell.method, stage == 0) for cell in to_come for stage in cell.stages if stage not in cell.seconds]
    times = [usual.get(kind, usual.get((None, kind[1]))) for kind in stages]
    processes = sum(cell.state == "running" for cell in cells)
    unsure = any(not cell.stages for cell in to_come) or None in times
    left = None if unsure else sum(time for time in times if time is not None) / max(1, processes)
    return Estimate(left, len(stages), processes)


def to_json(cells: Sequence[CellStatus], rest: Estimate) -> dict[str, Any]:
    """Everything in plain values; ``seconds_left`` is null where nothing tells it."""
    rows = [
        {
            "cell": cell.folder.name,
            "folder": str(cell.folder),
            "method": cell.method,
            "state": cell.state,
            "stages": len(cell.stages) or None,
            "stages_done": len(cell.seconds),
            "detail": cell.detail,
        }
        for cell in cells
    ]
    return {
        "schema": SCHEMA,
        "cells": rows,
        "counts": {state: sum(cell.state == state for cell in cells) for state in STATES},
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


def summary(cells: Sequence[CellStatus], rest: Estimate) -> list[str]:
    """The states that there are, counted, and the estimate in words."""
    counts = Counter(cell.state for cell in cells)
    found = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    idle = "" if rest.processes else " (none is at work)"
    if rest.seconds == 0:
        left = "nothing is left to do"
    elif rest.seconds is None:
        left = f"time left: unknown: nothing like it was measured yet{idle}"
    else:
        who = f"{rest.processes} processes at work" if rest.processes > 1 else "one process"
        left = f"time left: about {duration(rest.seconds)}, by {who}{idle}"
    return [f"{len(cells)} cells: {found}", left]


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
