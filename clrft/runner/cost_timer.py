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
from dataclasses import dataclass
from typing import Any

from clrft.runner.checkpoint import StageRecord
from clrft.runner.state import Run
from clrft.runs.cost_names import CPU, GPU, WALL
from methods.costs.meter import Counts
from methods.distributed import ranks


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds of an activity, those before it was stopped included.

    Attributes:
        start: wall and CPU clock when this process began with it.
        before: wall and CPU seconds of earlier processes; the latter None if they did not tell.
    """

    start: tuple[float, float]
    before: tuple[float, float | None] = (0.0, 0.0)

    @classmethod
    def started(cls, before: Mapping[str, Any] | None = None) -> "Clock":
        """A clock that starts now; ``before``: what ``kept`` of an earlier one was."""
        earlier = (0.0, 0.0) if before is None else (before["seconds"], before.get(CPU))
        return cls((time.perf_counter(), cpu_seconds()), earlier)

    @property
    def seconds(self) -> float:
        """Wall seconds so far."""
        return self.before[0] + time.perf_counter() - self.start[0]

    @property
    def cpu_seconds(self) -> float | None:
        """CPU seconds so far; None if an earlier process did not count them."""
        return None if self.before[1] is None else self.before[1] + cpu_seconds() - self.start[1]

    def kept(self) -> dict[str, float]:
        """What a clock of a later process starts from."""
        cpu = self.cpu_seconds
        return {"seconds": self.seconds, **({} if cpu is None else {CPU: cpu})}


def cpu_seconds() -> float:
    """CPU seconds of this process, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


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
    clock = Clock.started()
    yield
    record.cost[activity] = cost_of(state, clock, ranks.all_reduce_counts(state.policy.meter.taken()))
