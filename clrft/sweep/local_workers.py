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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.runner.outcome import Failure
from clrft.runner.run import run_cell
from clrft.sweep.engine import GRACE_SECONDS, Reports, Setup
from clrft.utils import interrupt
from clrft.utils.locks import TIMING, Timing
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


class Workers:
    """Up to ``count`` processes of this machine, each started when there is a cell for it.

    ``devices``: GPUs that they share, as ``CUDA_VISIBLE_DEVICES`` names them; none: as the environment has it.
    """

    def __init__(self, count: int, setup: Setup, devices: Sequence[str] = ()) -> None:
        self.count = count
        self.setup = setup
        self.devices = tuple(devices)
        self.workers: list[Worker] = []

    @property
    def busy(self) -> int:
        return sum(worker.cell is not None for worker in self.workers)

    def timing(self, cell: RunConfig) -> Timing:
        return TIMING  # a process of this machine is looked for, another machine's is judged by its silence

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
                code = worker.process.exitcode
                how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
                why = f"its worker process died ({how}: killed, or out of memory); run the same command again"
                yield "ended", (worker.cell, Failure(worker.cell.cell, why))

    def dismiss(self) -> None:
        """Tell every worker that no cell comes any more."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.pipe.send(None)

    def end(self) -> None:
        self.dismiss()
        for worker in self.workers:
            worker.process.join()

    def stop(self) -> None:
        """Interrupt the workers, those first waited for that may have been interrupted already; kill the deaf."""
        self.dismiss()
        for number in (None, signal.SIGINT, signal.SIGKILL):
            for worker in self.workers:
                if number is not None and worker.process.is_alive():
                    os.kill(worker.process.pid or 0, number)
            until = time.monotonic() + GRACE_SECONDS
            while any(worker.process.is_alive() for worker in self.workers) and time.monotonic() < until:
                for worker in self.workers:
                    worker.heard()  # so that nobody waits to be heard
                time.sleep(0.05)


class PipeReporter(Reports):
    """Sends a worker's progress through its pipe."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self.pipe = pipe

    def tell(self, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            self.pipe.send((name, arguments))
        except OSError as error:  # nobody listens any more
            raise KeyboardInterrupt from error


def work(pipe: "Connection[Any, Any]", setup: Setup) -> None:
    """A worker's life: cells from the pipe until none comes.

    The plugins come before any cell: a cell's settings are of a plugin's class.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        interrupt.watch()
        prepare(setup)
        while (config := pipe.recv()) is not None:
            pipe.send(("ended", run_cell(config, PipeReporter(pipe), setup.since)))


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
