"""What runs the cells of a sweep: the seam between the sweep and its processes, on this machine or on a cluster.

``clrft/sweep/local_workers.py`` is the engine of this machine, ``clrft/sweep/ray_executor.py`` that of a Ray cluster.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from clrft.config.run_config import RunConfig
from clrft.runner.outcome import Elsewhere, Failure
from clrft.utils.locks import TIMING

Outcome = Failure | Elsewhere | None
GRACE_SECONDS = 10.0  # for a cell to end by itself, once it was asked to
LOST = replace(TIMING, silent=3 * TIMING.beat)  # for the lock of a process that is known to be gone


@dataclass(frozen=True, slots=True)
class Setup:
    """What every worker is told at its start."""

    threads: int  # of a worker; 0 = as many as the libraries choose
    plugins: tuple[str, ...]  # files with methods of the user's own
    since: int  # when the sweep began, by the file system's clock, ns


@dataclass(frozen=True, slots=True)
class Reports:
    """A ``Reporter`` of a cell that runs in another process: what it tells is sent as a name and arguments."""

    send: Callable[[str, tuple[Any, ...]], object]

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.send("begin", (cell, activity, total))

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.send("advance", (cell, units, figures))

    def say(self, text: str) -> None:
        self.send("say", (text,))


class Engine(Protocol):
    """Runs cells, some at a time; whoever made it ends its workers, and stops their cells if the sweep fails."""

    setup: Setup
    count: int  # how many cells it takes at a time
    losses: Counter[str]  # how often a process that this machine cannot look for was lost, by the name of its cell

    def give(self, cell: RunConfig) -> None:
        """Take a cell; it has fewer than ``count``."""
        ...

    def told(self, seconds: float) -> Iterator[tuple[str, Any]]:
        """Wait for news up to some seconds; names and arguments of what cells report.

        ``ended`` comes with the cell and its outcome, once for each cell given; all others are those of a ``Reporter``.
        """
        ...
