"""What an activity of a stage took: processor seconds beside the counts of the model's calls.

CPU seconds are those of all threads of the process and of its children that have ended (loaders of data); a tracking
queue's are among them. GPU seconds are the wall seconds of a model on a GPU, whether it was busy or not. Peak memory is
kept beside (``StageRecord.peak_memory_mb``). Deliberately absent: energy, and the seconds of work that a killed process
lost.
"""

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from clrft.runner.checkpoint import StageRecord
from clrft.runner.state import Run
from clrft.runs.layout import CPU, GPU, WALL
from methods.costs.meter import Counts
from methods.distributed import ranks


def cpu_seconds() -> float:
    """CPU seconds of this process, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds of an activity from now on, those before it was stopped included."""

    # what ``kept`` of an earlier process's clock was
    before: Mapping[str, Any] = field(default_factory=lambda: {"seconds": 0.0, CPU: 0.0})
    wall_start: float = field(default_factory=time.perf_counter)
    cpu_start: float = field(default_factory=cpu_seconds)

    def kept(self) -> dict[str, float]:
        """Wall and CPU seconds so far, from which a later process's clock starts.

        There are no CPU seconds where an earlier process did not count them.
        """
        seconds = {"seconds": self.before["seconds"] + time.perf_counter() - self.wall_start}
        if (cpu := self.before.get(CPU)) is not None:
            seconds[CPU] = cpu + cpu_seconds() - self.cpu_start
        return seconds


def cost_of(state: Run, clock: Clock, counts: Counts) -> dict[str, float]:
    """Counts and seconds of an activity, of all processes together; what was not counted is missing."""
    kept = clock.kept()
    wall = kept.pop("seconds")
    gpu = {GPU: wall} if state.policy.device.type == "cuda" else {}
    return {**counts, WALL: wall, **ranks.all_reduce_counts({**kept, **gpu})}


@contextmanager
def counted(state: Run, record: StageRecord, activity: str) -> Iterator[None]:
    """Put what the block takes into a record."""
    state.policy.meter.taken()
    clock = Clock()
    yield
    record.cost[activity] = cost_of(state, clock, ranks.all_reduce_counts(state.policy.meter.taken()))
