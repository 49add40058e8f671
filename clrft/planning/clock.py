"""From counted work to seconds: by a device's peak and assumed efficiencies, or by what was measured here."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clrft.planning.cell import Cell, Lengths
from clrft.planning.disk import Disk
from clrft.planning.hardware import Speed
from clrft.planning.operation_counts import Tally
from clrft.runs.cost_names import DRIFT, EVALUATE, TRAIN

EXCHANGE, BOUNDARY, START = "exchange", "boundary", "start"
PARTS = (TRAIN, EVALUATE, DRIFT, EXCHANGE, BOUNDARY, START)
Seconds = Mapping[str, float]  # by part


@dataclass(frozen=True, slots=True)
class Pace:
    """What was measured of cells of one kind on this machine.

    Attributes:
        ready: seconds from a cell's begin to its first stage.
        fixed: seconds of a training beside its updates.
        boundary: seconds of a stage beside its activities.
        rates: seconds for each counted operation, by activity.
        lengths: of completions.
    """

    ready: float
    fixed: float
    boundary: float
    rates: Mapping[str, float]
    lengths: Lengths


Work = Mapping[int, Mapping[str, Tally]]  # by stage and activity


def measured_seconds(cell: Cell, work: Work, pace: Pace) -> Seconds:
    """Seconds of a cell on this machine."""
    found = dict.fromkeys(PARTS, 0.0)
    for stage, tallies in work.items():
        for activity, tally in tallies.items():
            found[activity] += tally.model_flops * pace.rates.get(activity, 0.0)
        found[TRAIN] += pace.fixed if TRAIN in tallies else 0.0
        found[BOUNDARY] += pace.boundary if stage else 0.0
    return {**found, START: pace.ready}


def assumed_seconds(cell: Cell, work: Work, disk: Disk, speed: Speed) -> Seconds:
    """Seconds of a cell; ``work``: of that of its processes which has most.

    The boundary writes what a stage leaves, and reads the policies that drift is measured against. What devices give
    each other takes its own time: that it goes on beside arithmetic is not counted on.
    """
    weights = cell.passes.checkpoint.sizes.parameters * cell.passes.weight
    found = dict.fromkeys(PARTS, 0.0)
    for tallies in work.values():
        for activity, tally in tallies.items():
            found[activity] += seconds_of(tally, speed)
            found[EXCHANGE] += tally.exchanged / speed.link
        read = 2 * weights if DRIFT in tallies else 0
        found[BOUNDARY] += (disk.stage + read) / speed.disk if TRAIN in tallies else 0.0
    return {**found, START: speed.start + weights / speed.disk}


def seconds_of(tally: Tally, speed: Speed) -> float:
    """Seconds of some work of one device, but for what it gets from others.

    Passes take as long as their operations, or as their launches where these take longer. Writing tokens takes as long
    as its operations, its reading of weights and cache, or its launches.
    """
    passes = max((tally.reading + tally.learning + tally.again) / speed.flops, tally.launched * speed.launch)
    steps = max(tally.decoding / speed.flops, tally.moved / speed.bandwidth, tally.stepped * speed.launch)
    return passes + steps + tally.stepping / speed.bandwidth


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """When the last cell ends, each given in turn to the worker that is free first."""
    free = [0.0] * max(1, jobs)
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)
