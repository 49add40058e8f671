"""From counted work to seconds: by a device's peak and assumed efficiencies, or by what was measured here."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from clrft.config.run_config import RunConfig
from clrft.planning.disk import Disk
from clrft.planning.hardware import Speed
from clrft.planning.operation_counts import OperationCounts
from clrft.planning.stage_work import Cell, Lengths, SharedCounts
from clrft.planning.stream_statistics import StreamStatistics
from clrft.runs.cost_names import DRIFT, EVALUATE, TRAIN
from methods import build_method

EXCHANGE, BOUNDARY, START = "exchange", "boundary", "start"
PARTS = (TRAIN, EVALUATE, DRIFT, EXCHANGE, BOUNDARY, START)
SPREAD = 2.0  # the longest of a batch's completions to their mean, where nothing is measured
THOUGHT = 60  # tokens of a thought before the answer, beside the answer itself

Seconds = Mapping[str, float]  # by part
Work = Mapping[int, Mapping[str, SharedCounts]]  # by stage and activity


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was measured of cells of one kind on this machine."""

    ready: float  # seconds from a cell's begin to its first stage
    fixed: float  # seconds of a training beside its updates
    boundary: float  # seconds of a stage beside its activities
    rates: Mapping[str, float]  # seconds for each counted operation, by activity
    lengths: Lengths  # of completions


def assumed_lengths(
    config: RunConfig, statistics: StreamStatistics, completion: int | None, times: float = 1.0
) -> Lengths:
    """Lengths of completions by the right answers' length, or by ``completion``, so many ``times`` as long.

    A policy that was trained on targets answers as they do; any other thinks before.
    """
    limit = config.train.max_completion_tokens
    target = fmean(task.target for task in statistics.tasks)
    free = min(float(limit), float(completion or target + (THOUGHT if config.stream.think else 0)) * times)
    supervised = build_method(config.method_name, config.method, config.parts).family == "supervised"
    return Lengths(free, min(target, float(limit)) if supervised else free, SPREAD, limit)


def measured_seconds(work: Work, throughput: Throughput) -> Seconds:
    """Seconds of a cell on this machine."""
    found = dict.fromkeys(PARTS, 0.0)
    for stage, activities in work.items():
        for activity, counts in activities.items():
            found[activity] += counts.all.model_flops * throughput.rates.get(activity, 0.0)
        found[TRAIN] += throughput.fixed if TRAIN in activities else 0.0
        found[BOUNDARY] += throughput.boundary if stage else 0.0
    return {**found, START: throughput.ready}


def assumed_seconds(cell: Cell, work: Work, disk: Disk, speed: Speed) -> Seconds:
    """Seconds of a cell, by that of its processes which has most to do.

    The boundary writes what a stage leaves, and reads the policies that drift is measured against. What devices give
    each other takes its own time: that it goes on beside arithmetic is not counted on.
    """
    weights = cell.held.sizes.parameters * cell.held.weight
    found = dict.fromkeys(PARTS, 0.0)
    for activities in work.values():
        for activity, counts in activities.items():
            found[activity] += seconds_of(counts.own, speed)
            found[EXCHANGE] += counts.exchanged / speed.link
        read = 2 * weights if DRIFT in activities else 0
        found[BOUNDARY] += (disk.stage + read) / speed.disk if TRAIN in activities else 0.0
    return {**found, START: speed.start + weights / speed.disk}


def seconds_of(counts: OperationCounts, speed: Speed) -> float:
    """Seconds of some work of one device, but for what it gets from others.

    Passes take as long as their operations, or as their launches where these take longer. Writing tokens takes as long
    as its operations, its reading of weights and cache, or its launches.
    """
    passes = max((counts.passes + counts.again) / speed.flops, counts.launched * speed.launch)
    steps = max(counts.decoding / speed.flops, counts.moved / speed.bandwidth, counts.stepped * speed.launch)
    return passes + steps


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """When the last cell ends, each given in turn to the worker that is free first."""
    free = [0.0] * max(1, jobs)
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)
