"""Processes of this machine that run cells one after the other; one that dies loses its own cell only.

Each has a pipe: cells go in, progress and outcomes come out. A worker whose sweep has died ends too: what it
finished is on disk, and its lock is free at once.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.runner.outcome import Failure
from clrft.runner.run import run_cell
from clrft.sweep.executors import GRACE_SECONDS, Reports, Setup
from clrft.utils import interrupt
from clrft.utils.process_end import end_in_time
from clrft.utils.quiet import quiet_environment, quiet_libraries
from methods.registry import load_plugins

VISIBLE = "CUDA_VISIBLE_DEVICES"  # which an own process must have before anything asks CUDA


class Worker:
    """One process and the cell that it runs."""

    def __init__(self, setup: Setup, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, setup))
        self.device = device
        with seeing(device):
            self.process.start()
        theirs.close()
        self.cell: RunConfig | None = None

    def heard(self) -> list[tuple[str, Any]]:
        """What it has told since it was asked last."""
        events = []
        with contextlib.suppress(EOFError, OSError):  # it has ended
            while self.pipe.poll():
                events.append(self.pipe.recv())
        return events


@contextmanager
def seeing(device: str) -> Iterator[None]:
    """Let processes that are started in the block see one GPU; empty: what this process sees."""
    before = os.environ.get(VISIBLE)
    if device:
        os.environ[VISIBLE] = device
    try:
        yield
    finally:
        os.environ.pop(VISIBLE, None)
        if before is not None:
            os.environ[VISIBLE] = before


@dataclass(slots=True)
class Workers:
    """Up to ``count`` processes of this machine, each started when there is a cell for it."""

    count: int
    setup: Setup
    devices: Sequence[str] = ()  # GPUs that they share, as ``CUDA_VISIBLE_DEVICES`` names them; none: as it is
    workers: list[Worker] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)  # none: processes of this machine are looked for

    def give(self, cell: RunConfig) -> None:
        worker = next((worker for worker in self.workers if worker.cell is None), None)
        if worker is None:  # a new one, on the GPU that the fewest have
            taken = [worker.device for worker in self.workers]
            worker = Worker(self.setup, min(self.devices, key=taken.count, default=""))
            self.workers.append(worker)
        worker.cell = cell
        with contextlib.suppress(OSError):  # it has died while idle; told as of any that dies
            worker.pipe.send(cell)

    def told(self, seconds: float) -> Iterator[tuple[str, Any]]:
        wait([worker.pipe for worker in self.workers], seconds)
        for worker in list(self.workers):
            alive = worker.process.is_alive()  # asked first: what it said last is heard
            for name, arguments in worker.heard():
                if name != "ended":
                    yield name, arguments
                elif worker.cell is not None:
                    cell, worker.cell = worker.cell, None
                    yield "ended", (cell, arguments)
            if alive:
                continue
            self.workers.remove(worker)
            if worker.cell is not None:
                code = worker.process.exitcode or 0
                how = f"signal {-code}: killed, or out of memory" if code < 0 else f"exit code {code}, by its own code"
                why = f"its worker process died ({how}); run the same command again"
                yield "ended", (worker.cell, Failure(worker.cell.cell, why))


@contextmanager
def local_workers(count: int, setup: Setup, devices: Sequence[str] = ()) -> Iterator[Workers]:
    """Workers of this machine for the length of the block.

    If it fails they are stopped where they stand: those first waited for that may have been interrupted already, then
    interrupted, and the deaf are killed.
    """
    engine = Workers(count, setup, devices)
    stops: tuple[int | None, ...] = ()
    try:
        yield engine
    except BaseException:
        stops = (None, signal.SIGINT, signal.SIGKILL)
        raise
    finally:
        for worker in engine.workers:
            with contextlib.suppress(OSError):
                worker.pipe.send(None)  # no cell comes any more
        for number in stops:
            for worker in engine.workers:
                if number is not None and worker.process.is_alive():
                    os.kill(worker.process.pid or 0, number)
            until = time.monotonic() + GRACE_SECONDS
            while any(worker.process.is_alive() for worker in engine.workers) and time.monotonic() < until:
                for worker in engine.workers:
                    worker.heard()  # so that nobody waits to be heard
                time.sleep(0.05)
        if not stops:
            for worker in engine.workers:
                worker.process.join()


def work(pipe: "Connection[Any, Any]", setup: Setup) -> None:
    """A worker's life: cells from the pipe until none comes.

    The plugins come before any cell: a cell's settings are of a plugin's class.
    """

    def send(name: str, arguments: object) -> None:
        try:
            pipe.send((name, arguments))
        except OSError as error:  # nobody listens any more
            raise KeyboardInterrupt from error

    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        interrupt.watch()
        prepare(setup)
        while (config := pipe.recv()) is not None:
            send("ended", run_cell(config, Reports(send), setup.since))
    end_in_time(0)


def prepare(setup: Setup) -> None:
    """Make a worker ready: its share of the cores, quiet libraries, methods from plugin files."""
    import torch

    multiprocessing.set_start_method("fork", force=True)  # of loading processes; this one was spawned
    quiet_environment()
    quiet_libraries()
    if setup.threads:
        torch.set_num_threads(setup.threads)
    load_plugins(setup.plugins)


def end_with_parent() -> None:
    """End this process when its parent has: nobody would hear it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
