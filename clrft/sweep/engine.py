"""What runs the cells of a sweep: the seam between the sweep and its processes, on this machine or on a cluster.

``clrft/sweep/local_workers.py`` is the engine of this machine, ``clrft/sweep/ray_executor.py`` that of a Ray cluster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from clrft.config.run_config import RunConfig
from clrft.runner.outcome import Elsewhere, Failure
from clrft.utils.locks import Timing

Outcome = Failure | Elsewhere | None
GRACE_SECONDS = 10.0  # for a cell to end by itself, once it was asked to


@dataclass(frozen=True, slots=True)
class Setup:
    """What every worker is told at its start."""

    threads: int  # of a worker; 0 = as many as the libraries choose
    plugins: tuple[str, ...]  # files with methods of the user's own
    since: int  # when the sweep began, by the file system's clock, ns


class Reports:
    """A ``Reporter`` of a cell that runs in another process: what it tells goes there as a name and arguments."""

    def tell(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Send an event to where it is shown."""
        raise NotImplementedError

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.tell("begin", (cell, activity, total))

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.tell("advance", (cell, units, figures))

    def say(self, text: str) -> None:
        self.tell("say", (text,))


class Engine(Protocol):
    """Runs cells, some at a time."""

    setup: Setup
    count: int  # how many cells it takes at a time

    @property
    def busy(self) -> int:
        """How many it has now."""
        ...

    def give(self, cell: RunConfig) -> None:
        """Take a cell; ``busy`` is below ``count``."""
        ...

    def told(self, seconds: float) -> Iterator[tuple[str, Any]]:
        """Wait for news up to some seconds; names and arguments of what cells report.

        ``ended`` comes with the cell and its outcome; all others are those of a ``Reporter``.
        """
        ...

    def timing(self, cell: RunConfig) -> Timing:
        """When the lock of a cell that another process holds counts as left behind."""
        ...

    def end(self) -> None:
        """Let go of the workers; none has a cell."""
        ...

    def stop(self) -> None:
        """End every cell where it stands; what it finished is on disk, and its folder can be gone on with."""
        ...
