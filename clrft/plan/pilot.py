"""Real work of a sweep, a little of each kind of cell, measured on this machine.

Of every kind (stream, method, model, settings; one class order) the base is tested, and two tasks are learned with a
few updates and tested on a batch of items each, by the code that runs cells, at as many at a time as the sweep would;
those with most work first, so that they run beside each other. It all goes to a folder, and to a tracking store in it,
that is removed. Deliberately absent: a tracking store elsewhere, which is not to be written to.
"""

import json
import math
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from clrft.checkpoint import METRICS_FILE, stage_folder
from clrft.config import RunConfig
from clrft.cost_names import EVALUATE, TRAIN, WALL
from clrft.plan.activities import Cell, Lengths, stage_work
from clrft.plan.checkpoint import checkpoint_of
from clrft.plan.clock import Pace
from clrft.plan.outline import outline_of
from clrft.plan.tally import Passes
from clrft.progress import Silent
from clrft.results import write_results
from clrft.run import finish_tracking, open_folder, prepare, track_finished
from clrft.stage import learn_stage
from clrft.state import Run, stage_name
from clrft.tracking import CellTracker, Tracker, manifest_tags
from clrft.workers import Setup
from clrft.workers import prepare as prepare_worker
from methods.fit import StepRow, rows_per_update
from methods.model_config import choose_device
from task_streams.types import TaskStream

UPDATES = 12  # of a training that is measured: one state is kept among them, as of every ten
TASKS = 2
SPREAD = 1.3  # the longest of a batch's completions to their mean, where only the mean was counted
FOLDER = "pilot"  # name of the sweep in the folder that is removed


@dataclass(frozen=True, slots=True)
class Pilot:
    """What was measured of one kind of cell.

    Attributes:
        waited: seconds from the request to the begin of the work: of a new process, its start.
        ready: seconds to the first stage, and behind the last one.
        stages: seconds of every stage.
        steps: seconds between updates, by stage.
        costs: as the stages' records have them.
    """

    waited: float
    ready: float
    stages: Mapping[int, float]
    steps: Mapping[int, Sequence[float]]
    costs: Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Measured:
    """A sweep's pace on this machine.

    Attributes:
        paces: by kind of cell.
        start: seconds from the command to the first cell.
        closing: seconds of the comparison and the report.
        took: seconds of the measurement.
    """

    paces: Mapping[tuple[str, ...], Pace]
    start: float
    closing: float
    took: float


def kind_of(config: RunConfig) -> tuple[str, ...]:
    """What makes cells alike: all but the class order."""
    return config.stream_label, config.method_label, config.model_label, config.run.name_suffix


def measured(cells: Sequence[RunConfig], jobs: int, threads: int) -> Measured:
    """Measure every kind of cell.

    Args:
        cells: of the sweep.
        jobs: cells at a time.
        threads: of each; 0 = as many as the libraries choose.
    """
    began = time.perf_counter()
    kinds = {kind_of(cell): cell for cell in reversed(cells)}
    with removed_folder() as folder:
        tracked = "MLFLOW_TRACKING_URI" not in os.environ
        pilots = {kind: pilot_config(config, folder, tracked) for kind, config in kinds.items()}
        order = sorted(pilots, key=lambda kind: -work_of(pilots[kind], kinds[kind]))
        store = store_seconds(folder) if any(pilot.run.mlflow for pilot in pilots.values()) else 0.0
        plugins = tuple(dict.fromkeys(path for cell in cells for path in cell.run.plugins))
        with ProcessPoolExecutor(
            jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=prepare_worker,
            initargs=(Setup(threads, plugins, 0),),
        ) as pool:
            waiting = {kind: pool.submit(run_pilot, pilots[kind], time.time()) for kind in order}
            results = {kind: future.result() for kind, future in waiting.items()}
        closing = closing_seconds(folder)
    paces = {kind: pace_of(pilots[kind], kinds[kind], result) for kind, result in results.items()}
    start = store + 2 * min(result.waited for result in results.values())  # the sweep's own process, and a worker's
    return Measured(paces, start, closing, time.perf_counter() - began)


@contextmanager
def removed_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="clrft-plan-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pilot_config(config: RunConfig, folder: Path, tracked: bool) -> RunConfig:
    """A cell's settings with a small budget, in a folder of its own; ``tracked``: if the settings ask for it."""
    tracked = tracked and config.run.mlflow
    batch = config.evaluate.batch_size
    again = int(getattr(config.method, "updates_per_batch", 1))
    updates = again * math.ceil(UPDATES / again)
    return replace(
        config,
        train=replace(config.train, updates=updates, epochs=None),
        evaluate=replace(config.evaluate, probe=min(config.evaluate.probe, batch), probes=()),
        run=replace(config.run, output=str(folder), sweep=FOLDER, mlflow=tracked, keep_weights="all"),
    )


def cut(stream: TaskStream, test: int) -> TaskStream:
    """A stream's first tasks, tested on at most so many items each."""
    return replace(stream, tasks=tuple(replace(task, test=task.test[:test]) for task in stream.tasks[:TASKS]))


def run_pilot(config: RunConfig, asked: float) -> Pilot:
    """Run a cell's pilot; ``asked``: the time when that was asked for."""
    waited, began = time.time() - asked, time.perf_counter()
    state = prepare(config, Silent())
    state.stream = cut(state.stream, config.evaluate.batch_size)
    manifest = open_folder(state)
    tracker = Tracker(Path(config.run.output), FOLDER, enabled=config.run.mlflow)
    cell = tracker.cell(config.cell, config.to_dict(), manifest_tags(manifest))
    ready = time.perf_counter() - began
    stages: dict[int, float] = {}
    steps: dict[int, list[float]] = {}
    for stage in state.stages:
        stages[stage], steps[stage] = timed_stage(state, stage, cell)
    ended = time.perf_counter()
    write_results(state.folder, [task.name for task in state.stream.tasks], state.stages, config.evaluate.metrics)
    finish_tracking(config, cell)
    ready += time.perf_counter() - ended
    costs = {
        stage: json.loads((stage_folder(state.folder, stage) / METRICS_FILE).read_text(encoding="utf-8"))["cost"]
        for stage in state.stages
    }
    return Pilot(waited, ready, stages, steps, costs)


def timed_stage(state: Run, stage: int, cell: CellTracker) -> tuple[float, list[float]]:
    """Seconds of a stage, and those between its updates."""
    ends: list[float] = []
    task = cell.task(stage, stage_name(state, stage))

    def on_step(row: StepRow) -> None:
        ends.append(time.perf_counter())
        task.steps([row])

    start = time.perf_counter()
    learn_stage(state, stage, on_step)
    track_finished(task, stage_folder(state.folder, stage), steps=False)
    return time.perf_counter() - start, [after - before for before, after in pairwise(ends)]


def store_seconds(folder: Path) -> float:
    """Seconds to make a tracking store in a folder."""
    from clrft.tracking_store import prepare_store

    began = time.perf_counter()
    prepare_store(folder)
    return time.perf_counter() - began


def closing_seconds(folder: Path) -> float:
    """Seconds to compare and report the pilots."""
    from clrft.commands import sweep_report
    from clrft.compare_command import write_and_print
    from clrft.runs import find_runs

    began = time.perf_counter()
    runs = folder / FOLDER
    found = find_runs([runs])
    write_and_print(found, None, runs / "comparison", Console(file=StringIO()), ["all"], kinds=True)
    sweep_report(found, runs)
    return time.perf_counter() - began


def pace_of(pilot: RunConfig, config: RunConfig, result: Pilot) -> Pace:
    """A kind's pace: what was measured, for each operation that is counted of the same work.

    Args:
        pilot: settings of what was measured.
        config: settings of the cell.
        result: what was measured.
    """
    cell = pilot_cell(pilot, config)
    cell = replace(cell, lengths=lengths_of(cell, result))
    work = {stage: stage_work(cell, stage) for stage in cell.stages}
    last = cell.stages[-1]
    costs, tallies = result.costs[last], work[last]
    rates = {name: costs[name][WALL] / tally.model_flops for name, tally in tallies.items()}
    fixed = 0.0
    if TRAIN in tallies:
        step = fmean(result.steps[last])
        rates[TRAIN] = step * tallies[TRAIN].updates / tallies[TRAIN].model_flops
        fixed = max(0.0, costs[TRAIN][WALL] - step * tallies[TRAIN].updates)
    beside = result.stages[last] - sum(cost[WALL] for cost in costs.values())
    return Pace(result.ready, fixed, max(0.0, beside), rates, cell.lengths)


def pilot_cell(pilot: RunConfig, config: RunConfig) -> Cell:
    """What is counted of a pilot, with completions of one token."""
    outline = outline_of(config).cut(TASKS, config.evaluate.batch_size)
    checkpoint = checkpoint_of(config.model)
    width = checkpoint.weight_bytes(config.model, choose_device(config.model))
    passes = Passes(checkpoint, width, config.model.gradient_checkpointing)
    return Cell.of(pilot, outline, passes, Lengths(1, 1, 1, 1, SPREAD, config.train.max_completion_tokens))


def work_of(pilot: RunConfig, config: RunConfig) -> float:
    """Operations of a pilot, about."""
    cell = pilot_cell(pilot, config)
    return sum(tally.model_flops for stage in cell.stages for tally in stage_work(cell, stage).values())


def lengths_of(cell: Cell, result: Pilot) -> Lengths:
    """Lengths of completions by what was generated; ``cell`` counts items, whatever its lengths are."""
    items = {stage: stage_work(cell, stage)[EVALUATE].items for stage in cell.stages}
    made = {stage: float(cost[EVALUATE]["tokens_generated"]) for stage, cost in result.costs.items()}
    probes = float(cell.config.evaluate.probe)
    probe = made[0] / items[0] if items[0] else 0.0
    tests = []
    for stage in cell.stages[1:]:
        asked = probes if cell.trains or stage == cell.stages[-1] else 0.0
        tests.append((made[stage] - asked * probe) / (items[stage] - asked))
    test = fmean(tests)
    limit = cell.config.train.max_completion_tokens
    return Lengths(rollout_length(cell, result) or test, test, test, probe or test, SPREAD, limit)


def rollout_length(cell: Cell, result: Pilot) -> float:
    """Mean length of the rollouts of the training; 0 where there are none."""
    if cell.method.family != "reinforcement":
        return 0.0
    rows = made = 0.0
    for stage in cell.stages[1:]:
        batches = stage_work(cell, stage)[TRAIN].updates / cell.config.method.updates_per_batch
        rows += batches * rows_per_update(cell.method, cell.config.train)
        made += float(result.costs[stage][TRAIN]["tokens_trained"]) / cell.config.method.updates_per_batch
    return made / rows
