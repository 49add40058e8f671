"""Where the cells of a sweep run: in processes of this machine, one per core or GPU, or as tasks of a Ray cluster.

Imports nothing that trains before it is known that the cells can run there.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from clrft.config.run_config import RunConfig
from clrft.sweep.engine import Engine, Setup
from clrft.sweep.ray_cluster import check_address, check_cluster
from task_streams.errors import UserError

MOST_JOBS = 8  # of this machine's cores, if nobody says how many


@dataclass(frozen=True, slots=True)
class ExecutorChoice:
    """Where cells run."""

    on: str = ""  # ``ray`` for a Ray of this machine, ``ray://HOST:PORT`` or ``HOST:PORT`` for a cluster; empty: no Ray
    threads: int = 0  # CPU threads of a cell; 0 = the cores shared among the cells here, 1 on Ray


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
    shared = max(1, len(os.sched_getaffinity(0)) // count) if count > 1 else 0
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
