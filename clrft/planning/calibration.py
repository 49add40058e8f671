"""Real work of a sweep, a little of each kind of cell, measured on this machine.

Of every kind (stream, method, model, settings; one class order) the base is tested, and two tasks are learned with a
few updates and tested on a batch of items each, by the code that runs cells, at as many at a time as the sweep would.
It all goes to a folder, and to a tracking store in it, that is removed. Deliberately absent: a tracking store
elsewhere, which is not to be written to.
"""

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
from statistics import fmean
from typing import Any

import pandas as pd
from rich.console import Console

from clrft.config.run_config import RunConfig
from clrft.planning.stage_work import Cell, Lengths
from clrft.planning.stream_statistics import statistics_of
from clrft.runner.prepare import prepare
from clrft.runner.run import finish, learn, open_folder
from clrft.runs.layout import EVALUATE, TRAIN, WALL
from clrft.runs.read import find_runs, read_run
from clrft.sweep.executors import Setup
from clrft.sweep.local_workers import prepare as prepare_worker
from clrft.tracking.runs import Tracker, manifest_tags
from clrft.utils.progress import Silent
from methods.model.config import choose_device
from methods.training.budget import rows_per_update
from task_streams.types import TaskStream, new_test_items

UPDATES = 12  # of a training that is measured: one state is kept among them, as of every ten
TASKS = 2  # of a stream that a calibration goes through
SPREAD = 1.3  # the longest of a batch's completions to their mean, where only the mean was counted
FOLDER = "calibration"  # name of the sweep in the folder that is removed

Costs = Mapping[str, Mapping[str, Any]]  # of a stage, by activity, as its record has them


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was measured of cells of one kind."""

    ready: float  # seconds from a cell's begin to its first stage
    fixed: float  # seconds of a training beside its updates
    boundary: float  # seconds of a stage beside its activities
    rates: Mapping[str, float]  # seconds for each counted operation, by activity
    lengths: Lengths  # of completions

    def seconds(self, work: pd.DataFrame) -> dict[str, float]:
        """Seconds of a cell by part."""
        spent = (work.model_flops.groupby(level="activity").sum() * pd.Series(self.rates)).dropna().to_dict()
        stages, trained = work.index.unique("stage"), work.index.get_level_values("activity") == TRAIN
        beside = {"boundary": self.boundary * (stages > 0).sum(), "start": self.ready}
        return {**spent, TRAIN: spent.get(TRAIN, 0.0) + self.fixed * trained.sum(), **beside}


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
    """Measure every kind of cell, so many at a time, each with so many threads; 0 = as the libraries choose."""
    began = time.perf_counter()
    kinds = {kind_of(cell): cell for cell in reversed(cells)}
    with tempfile.TemporaryDirectory(prefix="clrft-plan-", ignore_cleanup_errors=True) as place:
        folder, tracked = Path(place), "MLFLOW_TRACKING_URI" not in os.environ
        if tracked and any(config.run.mlflow for config in kinds.values()):
            from clrft.tracking.store import prepare_store

            prepare_store(folder)
        store = time.perf_counter() - began
        plugins = tuple(dict.fromkeys(path for cell in cells for path in cell.run.plugins))
        with ProcessPoolExecutor(
            jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=prepare_worker,
            initargs=(Setup(threads, plugins, 0),),
        ) as pool:
            asked = [pool.submit(run_calibration, one, folder, tracked, time.time()) for one in kinds.values()]
            results = [future.result() for future in asked]
        closing = closing_seconds(folder / FOLDER)
    start = store + 2 * min(waited for waited, _ in results)  # the sweep's own process, and a worker's
    throughputs = {kind: throughput for kind, (_, throughput) in zip(kinds, results, strict=True)}
    return Measured(throughputs, start, closing, time.perf_counter() - began)


def cut(stream: TaskStream, test: int) -> TaskStream:
    """A stream's first tasks, tested on at most so many items each, new ones where there are any."""
    tasks = stream.tasks[:TASKS]
    tests = [(new or task.test)[:test] for task, new in zip(tasks, new_test_items(tasks), strict=True)]
    return replace(stream, tasks=tuple(replace(task, test=kept) for task, kept in zip(tasks, tests, strict=True)))


class Timer(Silent):
    """Notes when the updates of a training end, the last one's."""

    ends: tuple[float, ...] = ()
    trains = False

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.trains = activity.endswith("train")
        self.ends = () if self.trains else self.ends

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        if self.trains:
            self.ends += (time.perf_counter(),)


def run_calibration(kind: RunConfig, folder: Path, tracked: bool, asked: float) -> tuple[float, Throughput]:
    """Run a kind of cell with a small budget, in a folder of its own; ``tracked``: if its settings ask for that.

    Returns:
        Seconds since ``asked``, the time when this was asked for: of a new process, its start. And what was measured.
    """
    waited, began, timer = time.time() - asked, time.perf_counter(), Timer()
    again, batch = int(getattr(kind.method, "updates_per_batch", 1)), kind.evaluate.batch_size
    config = replace(
        kind,
        train=replace(kind.train, updates=again * math.ceil(UPDATES / again), epochs=None),
        evaluate=replace(kind.evaluate, probe=min(kind.evaluate.probe, batch), probes=()),
        run=replace(kind.run, output=str(folder), sweep=FOLDER, mlflow=tracked and kind.run.mlflow, keep_weights="all"),
    )
    state = prepare(config, timer)
    state.stream = cut(state.stream, batch)
    tags, tracker = manifest_tags(open_folder(state)), Tracker(folder, FOLDER, enabled=config.run.mlflow)
    tracked_cell = tracker.cell(config.cell, config.to_dict(), tags)
    start = time.perf_counter()
    learn(state, tracked_cell)
    end = time.perf_counter()
    finish(state, tracked_cell)
    ready = time.perf_counter() - began - (end - start)
    record = read_run(state.folder)
    costs = {stage: record.task_metrics(stage)["cost"] for stage in state.stages}
    cell, last, fixed = calibration_cell(kind, config, costs), state.stages[-1], 0.0
    work = cell.work().loc[last]
    rates = {activity: costs[last][activity][WALL] / work.model_flops[activity] for activity in work.index}
    if TRAIN in work.index:
        stepping = fmean(after - before for before, after in pairwise(timer.ends)) * work.updates[TRAIN]
        rates[TRAIN] = stepping / work.model_flops[TRAIN]
        fixed = max(0.0, costs[last][TRAIN][WALL] - stepping)
    beside = end - start - sum(cost[WALL] for stage in costs.values() for cost in stage.values())
    return waited, Throughput(ready, fixed, max(0.0, beside) / len(costs), rates, cell.lengths)


def calibration_cell(kind: RunConfig, config: RunConfig, costs: Mapping[int, Costs]) -> Cell:
    """What is counted of a calibration, with completions as long as those that were generated."""
    statistics, most = statistics_of(kind), config.evaluate.batch_size
    tasks = [replace(one, test=min(one.test, most), new=min(one.new, most)) for one in statistics.tasks[:TASKS]]
    statistics = replace(statistics, tasks=tuple(tasks), lists=statistics.lists[:TASKS])
    cell = Cell(config, choose_device(config.model), Lengths(1, 1, SPREAD), statistics=statistics)
    work, learned = cell.work().swaplevel().sort_index(), cell.stages[1:]  # items and rows, whatever the lengths are
    generated = sum(float(costs[stage][EVALUATE]["tokens_generated"]) for stage in learned)
    test = rollout = generated / work.loc[EVALUATE].loc[learned, "test_items"].sum()
    if cell.method.family == "reinforcement":
        trained = sum(float(costs[stage][TRAIN]["tokens_trained"]) for stage in learned)
        rollout = trained / (work.loc[TRAIN, "updates"].sum() * rows_per_update(cell.method, config.train)) or test
    cell.lengths = Lengths(rollout, test, SPREAD)
    return cell


def closing_seconds(runs: Path) -> float:
    """Seconds to compare and report what was run."""
    from clrft.analysis.compare import compare
    from clrft.report.comparison import reported, write_and_print

    began = time.perf_counter()
    found = find_runs([runs])
    comparison = compare(found.runs, mix=["all"])
    silent = Console(file=StringIO())
    subject, _ = write_and_print(comparison, found.left_out, runs / "comparison", silent, taxonomy=True)
    reported(subject, runs)
    return time.perf_counter() - began
