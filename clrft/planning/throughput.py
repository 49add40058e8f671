"""From counted work to seconds: by a device's peak and assumed efficiencies, or by what was measured here."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.planning.disk import Disk
from clrft.planning.hardware import Speed
from clrft.planning.operation_counts import OperationCounts
from clrft.planning.stage_work import Cell, Lengths, stage_work
from clrft.planning.stream_statistics import StreamStatistics, statistics_of
from clrft.runs.cost_names import DRIFT, EVALUATE, TRAIN, WALL
from methods import build_method
from methods.model.config import choose_device
from methods.training.budget import rows_per_update

EXCHANGE, BOUNDARY, START = "exchange", "boundary", "start"
PARTS = (TRAIN, EVALUATE, DRIFT, EXCHANGE, BOUNDARY, START)
TASKS = 2  # of a stream that a calibration goes through
MEASURED_SPREAD = 1.3  # the longest of a batch's completions to their mean, where only the mean was counted
SPREAD = 2.0  # the same where nothing is measured
THOUGHT = 60  # tokens of a thought before the answer, beside the answer itself

Seconds = Mapping[str, float]  # by part
Work = Mapping[int, Mapping[str, OperationCounts]]  # by stage and activity


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """What was measured of one kind of cell."""

    waited: float  # seconds from the request to the begin of the work: of a new process, its start
    ready: float  # seconds to the first stage, and behind the last one
    stages: Mapping[int, float]  # seconds of every stage
    steps: Mapping[int, Sequence[float]]  # seconds between updates, by stage
    costs: Mapping[int, Mapping[str, Any]]  # as the stages' records have them


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was measured of cells of one kind on this machine."""

    ready: float  # seconds from a cell's begin to its first stage
    fixed: float  # seconds of a training beside its updates
    boundary: float  # seconds of a stage beside its activities
    rates: Mapping[str, float]  # seconds for each counted operation, by activity
    lengths: Lengths  # of completions


def throughput_of(measured: RunConfig, config: RunConfig, result: CalibrationRun) -> Throughput:
    """Throughput of a kind of cell: ``measured`` are its settings with a small budget, ``result`` what these took."""
    cell = calibration_cell(measured, config)
    cell = replace(cell, lengths=measured_lengths(cell, result))
    last = cell.stages[-1]
    costs, work = result.costs[last], {name: one.all for name, one in stage_work(cell, last).items()}
    rates = {name: costs[name][WALL] / counts.model_flops for name, counts in work.items()}
    fixed = 0.0
    if TRAIN in work:
        stepping = fmean(result.steps[last]) * work[TRAIN].updates
        rates[TRAIN] = stepping / work[TRAIN].model_flops
        fixed = max(0.0, costs[TRAIN][WALL] - stepping)
    beside = result.stages[last] - sum(cost[WALL] for cost in costs.values())
    return Throughput(result.ready, fixed, max(0.0, beside), rates, cell.lengths)


def calibration_cell(measured: RunConfig, config: RunConfig) -> Cell:
    """What is counted of a calibration, with completions of one token."""
    lengths = Lengths(1, 1, 1, 1, MEASURED_SPREAD, config.train.max_completion_tokens)
    statistics = statistics_of(config).cut(TASKS, config.evaluate.batch_size)
    return Cell.of(measured, choose_device(config.model), lengths, statistics=statistics)


def measured_lengths(cell: Cell, result: CalibrationRun) -> Lengths:
    """Lengths of completions by what was generated; ``cell`` counts items and rows, whatever its lengths are."""
    work = {stage: stage_work(cell, stage) for stage in cell.stages}
    items = {stage: one[EVALUATE].all.items for stage, one in work.items()}
    made = {stage: float(cost[EVALUATE]["tokens_generated"]) for stage, cost in result.costs.items()}
    probe, learned = made[0] / items[0] if items[0] else 0.0, cell.stages[1:]
    tests = []
    for stage in learned:
        asked = float(cell.config.evaluate.probe) if cell.trains or stage == learned[-1] else 0.0
        tests.append((made[stage] - asked * probe) / (items[stage] - asked))
    test = rollout = fmean(tests)
    if cell.method.family == "reinforcement":
        updates = sum(work[stage][TRAIN].all.updates for stage in learned)
        trained = sum(float(result.costs[stage][TRAIN]["tokens_trained"]) for stage in learned)
        rollout = trained / (updates * rows_per_update(cell.method, cell.config.train)) or test
    return Lengths(rollout, test, test, probe or test, MEASURED_SPREAD, cell.config.train.max_completion_tokens)


def assumed_lengths(
    config: RunConfig, statistics: StreamStatistics, completion: int | None, times: float = 1.0
) -> Lengths:
    """Lengths of completions by the right answers' length, or by ``completion``, so many ``times`` as long.

    A policy that was trained on targets answers as they do; any other thinks before.
    """
    limit = config.train.max_completion_tokens
    target = fmean(task.target for task in statistics.tasks)
    free = float(completion or target + (THOUGHT if config.stream.think else 0)) * times
    supervised = build_method(config.method_name, config.method, config.parts).family == "supervised"
    free, target = min(free, float(limit)), min(target, float(limit))
    return Lengths(free, target if supervised else free, free, free, SPREAD, limit)


def measured_seconds(work: Work, throughput: Throughput) -> Seconds:
    """Seconds of a cell on this machine."""
    found = dict.fromkeys(PARTS, 0.0)
    for stage, activities in work.items():
        for activity, counts in activities.items():
            found[activity] += counts.model_flops * throughput.rates.get(activity, 0.0)
        found[TRAIN] += throughput.fixed if TRAIN in activities else 0.0
        found[BOUNDARY] += throughput.boundary if stage else 0.0
    return {**found, START: throughput.ready}


def assumed_seconds(cell: Cell, work: Work, disk: Disk, speed: Speed) -> Seconds:
    """Seconds of a cell; ``work``: of that of its processes which has most.

    The boundary writes what a stage leaves, and reads the policies that drift is measured against. What devices give
    each other takes its own time: that it goes on beside arithmetic is not counted on.
    """
    weights = cell.passes.sizes.parameters * cell.passes.setup.weight
    found = dict.fromkeys(PARTS, 0.0)
    for activities in work.values():
        for activity, counts in activities.items():
            found[activity] += seconds_of(counts, speed)
            found[EXCHANGE] += counts.exchanged / speed.link
        read = 2 * weights if DRIFT in activities else 0
        found[BOUNDARY] += (disk.stage + read) / speed.disk if TRAIN in activities else 0.0
    return {**found, START: speed.start + weights / speed.disk}


def seconds_of(counts: OperationCounts, speed: Speed) -> float:
    """Seconds of some work of one device, but for what it gets from others.

    Passes take as long as their operations, or as their launches where these take longer. Writing tokens takes as long
    as its operations, its reading of weights and cache, or its launches.
    """
    passes = max((counts.reading + counts.learning + counts.again) / speed.flops, counts.launched * speed.launch)
    steps = max(counts.decoding / speed.flops, counts.moved / speed.bandwidth, counts.stepped * speed.launch)
    return passes + steps + counts.stepping / speed.bandwidth


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """When the last cell ends, each given in turn to the worker that is free first."""
    free = [0.0] * max(1, jobs)
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)
