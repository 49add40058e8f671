"""Where the cells of a sweep run: in processes of this machine, one per core or GPU, or as tasks of a Ray cluster.

``Engine`` is the seam between the sweep and its processes: that of this machine is in
``clrft/sweep/local_workers.py``, that of a cluster in ``clrft/sweep/ray_executor.py``. Imports nothing that trains
before it is known that the cells can run there.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from clrft.config.run_config import RunConfig
from clrft.runner.outcome import Elsewhere, Failure
from clrft.sweep.ray_cluster import check_address, check_cluster
from clrft.utils.locks import TIMING
from task_streams.errors import UserError

MOST_JOBS = 8  # of this machine's cores, if nobody says how many
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


@dataclass(frozen=True, slots=True)
class ExecutorChoice:
    """Where cells run."""

    on: str = ""  # ``ray`` for a Ray of this machine, ``ray://HOST:PORT`` or ``HOST:PORT`` for a cluster; empty: no Ray
    threads: int = 0  # CPU threads of a cell; 0 = 1, or the cores shared among cells on the GPUs of this machine


HERE = ExecutorChoice()


def check_executor(executor: ExecutorChoice) -> None:
    """Refuse, before any work, an executor that is not to be reached.

    Raises:
        UserError: Ray is not installed, nothing answers at the address, or what does is no cluster to be joined.
    """
    if executor.threads < 0:
        raise UserError(f"--threads: got {executor.threads}, expected a whole number from 1.")
    if executor.on:
        check_address(executor.on)
        check_cluster(executor.on)


def engine_for(
    executor: ExecutorChoice, cells: Sequence[RunConfig], jobs: int | None, since: int, say: Callable[[str], None]
) -> AbstractContextManager[Engine]:
    """Workers for some cells; their cells are stopped when the block fails, and they end with it.

    They take ``jobs`` cells at a time, None: as many as the executor has room for. ``since``: when the sweep began, by
    the file system's clock, ns. ``say`` tells the user a sentence.

    Raises:
        UserError: the executor cannot run these cells.
    """
    plugins = tuple(dict.fromkeys(path for cell in cells for path in cell.run.plugins))
    if executor.on:
        from clrft.sweep.ray_executor import ray_engine

        return ray_engine(executor.on, cells, jobs, Setup(executor.threads or 1, plugins, since), say)
    from clrft.sweep.local_workers import local_workers

    devices = gpus(cells)
    count = jobs or default_jobs(cells, devices)
    # on a CPU the bits depend on the number of threads, which must not follow from how many cells run at a time
    alike = not devices or any(cell.model.device == "cpu" for cell in cells)
    shared = 1 if alike else max(1, len(os.sched_getaffinity(0)) // count) if count > 1 else 0
    return local_workers(count, Setup(executor.threads or shared, plugins, since), devices)


def default_jobs(cells: Sequence[RunConfig], devices: Sequence[str]) -> int:
    """How many cells run at once on this machine: one per GPU, else one per core."""
    return max(1, min(len(cells), len(devices) or min(len(os.sched_getaffinity(0)), MOST_JOBS)))


def gpus(cells: Sequence[RunConfig]) -> tuple[str, ...]:
    """This machine's GPUs as ``CUDA_VISIBLE_DEVICES`` names them; none where no cell may use one."""
    import torch

    if all(cell.model.device == "cpu" for cell in cells) or not torch.cuda.is_available():
        return ()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named or map(str, range(torch.cuda.device_count())))[: torch.cuda.device_count()]
