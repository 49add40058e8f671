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
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from io import StringIO
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from clrft.config.run_config import RunConfig
from clrft.planning.stage_work import stage_work
from clrft.planning.throughput import TASKS, CalibrationRun, Throughput, calibration_cell, throughput_of
from clrft.runner.prepare import prepare
from clrft.runner.run import finish, make_folder, open_folder
from clrft.runner.stage import learn_stage
from clrft.runner.state import Run, stage_name
from clrft.runs.layout import METRICS_FILE, stage_folder
from clrft.sweep.engine import Setup
from clrft.sweep.local_workers import prepare as prepare_worker
from clrft.tracking.runs import CellTracker, Tracker, manifest_tags
from clrft.utils.progress import Silent
from methods.training.fit import StepRow
from task_streams.types import TaskStream, new_test_items

UPDATES = 12  # of a training that is measured: one state is kept among them, as of every ten
FOLDER = "calibration"  # name of the sweep in the folder that is removed


@dataclass(frozen=True, slots=True)
class Measured:
    """A sweep's throughput on this machine."""

    throughputs: Mapping[tuple[str, ...], Throughput]  # by kind of cell
    start: float  # seconds from the command to the first cell
    closing: float  # seconds of the comparison and the report
    took: float  # seconds of the measurement


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
    with tempfile.TemporaryDirectory(prefix="clrft-plan-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        tracked = "MLFLOW_TRACKING_URI" not in os.environ
        runs = {kind: calibration_config(config, folder, tracked) for kind, config in kinds.items()}
        store = 0.0
        if any(config.run.mlflow for config in runs.values()):
            from clrft.tracking.store import prepare_store

            making = time.perf_counter()
            prepare_store(folder)
            store = time.perf_counter() - making
        plugins = tuple(dict.fromkeys(path for cell in cells for path in cell.run.plugins))
        with ProcessPoolExecutor(
            jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=prepare_worker,
            initargs=(Setup(threads, plugins, 0),),
        ) as pool:
            pieces = {kind: calibration_cell(config, kinds[kind]) for kind, config in runs.items()}
            work = {
                kind: sum(one.all.model_flops for stage in cell.stages for one in stage_work(cell, stage).values())
                for kind, cell in pieces.items()
            }
            order = sorted(runs, key=lambda kind: -work[kind])
            waiting = {kind: pool.submit(run_calibration, runs[kind], time.time()) for kind in order}
            results = {kind: future.result() for kind, future in waiting.items()}
        closing = closing_seconds(folder)
    throughputs = {kind: throughput_of(runs[kind], kinds[kind], result) for kind, result in results.items()}
    start = store + 2 * min(result.waited for result in results.values())  # the sweep's own process, and a worker's
    return Measured(throughputs, start, closing, time.perf_counter() - began)


def calibration_config(config: RunConfig, folder: Path, tracked: bool) -> RunConfig:
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
    """A stream's first tasks, tested on at most so many items each, new ones where there are any."""
    tasks = stream.tasks[:TASKS]
    tests = [(new or task.test)[:test] for task, new in zip(tasks, new_test_items(tasks), strict=True)]
    return replace(stream, tasks=tuple(replace(task, test=kept) for task, kept in zip(tasks, tests, strict=True)))


def run_calibration(config: RunConfig, asked: float) -> CalibrationRun:
    """Run a little of a cell; ``asked``: the time when that was asked for."""
    waited, began = time.time() - asked, time.perf_counter()
    state = prepare(config, Silent())
    state.stream = cut(state.stream, config.evaluate.batch_size)
    make_folder(state)
    manifest = open_folder(state)
    tracker = Tracker(Path(config.run.output), FOLDER, enabled=config.run.mlflow)
    cell = tracker.cell(config.cell, config.to_dict(), manifest_tags(manifest))
    ready = time.perf_counter() - began
    stages: dict[int, float] = {}
    steps: dict[int, list[float]] = {}
    for stage in state.stages:
        stages[stage], steps[stage] = timed_stage(state, stage, cell)
    ended = time.perf_counter()
    finish(state, cell)
    ready += time.perf_counter() - ended
    costs = {
        stage: json.loads((stage_folder(state.folder, stage) / METRICS_FILE).read_text(encoding="utf-8"))["cost"]
        for stage in state.stages
    }
    return CalibrationRun(waited, ready, stages, steps, costs)


def timed_stage(state: Run, stage: int, cell: CellTracker) -> tuple[float, list[float]]:
    """Seconds of a stage, and those between its updates."""
    ends: list[float] = []
    task = cell.task(stage, stage_name(state, stage))

    def on_step(row: StepRow) -> None:
        ends.append(time.perf_counter())
        task.steps([row])

    start = time.perf_counter()
    learn_stage(state, stage, on_step)
    task.finish(stage_folder(state.folder, stage), learned_before=False)
    return time.perf_counter() - start, [after - before for before, after in pairwise(ends)]


def closing_seconds(folder: Path) -> float:
    """Seconds to compare and report what was run."""
    from clrft.analysis.compare import compare
    from clrft.report.comparison import reported, write_and_print
    from clrft.runs.read import find_runs

    began = time.perf_counter()
    runs = folder / FOLDER
    found = find_runs([runs])
    comparison = compare(found.runs, mix=["all"])
    silent = Console(file=StringIO())
    subject, _ = write_and_print(comparison, found.left_out, runs / "comparison", silent, taxonomy=True)
    reported(subject, runs)
    return time.perf_counter() - began
