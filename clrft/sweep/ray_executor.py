"""Cells as tasks of a Ray cluster, each with the CPUs, GPUs and memory that it needs.

Ray tries no task again: a cell whose process or node was lost is given anew by the sweep, to the same node if that is
there, and goes on from its own checkpoints. Where Ray says that a process is gone which this machine cannot look for,
its lock counts as left behind after three missed beats.
"""

import contextlib
import io
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clrft.config.run_config import RunConfig, config_of
from clrft.runner.outcome import Failure
from clrft.runner.run import run_cell
from clrft.sweep.executors import GRACE_SECONDS, LOST, Outcome, Reports, Setup
from clrft.sweep.local_workers import prepare
from clrft.sweep.ray_cluster import asked_nodes, connected, nodes_of, on_node
from clrft.sweep.ray_resources import CellResources, check_room, demands_of
from clrft.tracking.store import tracking_uri
from clrft.tracking.sync import feed_or_tell
from clrft.utils import interrupt
from clrft.utils.locks import TIMING, Timing, held
from task_streams.errors import UserError

FLUSH_SECONDS = 10.0  # for the board to take what was told last
TAKE_SECONDS = 10.0
LOSSES = 3  # of one cell, after which it is what kills its processes
HEAD = "node:__internal_head__"  # what Ray counts the head node as
TRACKING = "MLFLOW_"  # variables that cells are told of
GO_ON = "run the same command again"
STOPPED = "stopped"  # became of a cell whose process was told to stop, by the sweep or by its node's end

Event = tuple[str, Sequence[Any]]  # name and arguments of a reporter's call


@dataclass(frozen=True, slots=True)
class Errand:
    """A cell to be run on a node."""

    number: int  # of this attempt at a cell, under which it tells its progress
    cell: str  # name of the run folder
    values: Mapping[str, Any]  # the settings, as ``RunConfig.to_dict`` tells them
    setup: Setup  # as for every worker
    directory: str  # where the sweep was started; relative paths count from it
    environment: Mapping[str, str]  # variables that it has there and the node may not: where the tracking store is
    timing: Timing  # when the lock of another process counts as left behind


@dataclass(eq=False)
class Lines(io.TextIOBase):
    """A stream whose lines are told: warnings of libraries and of the tracking store."""

    reporter: Reports
    cell: str
    begun: str = ""  # a line that has not ended yet

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in filter(str.strip, lines):
            self.reporter.say(f"{self.cell}: {line}")
        return len(text)


def run_there(errand: Errand, board: Any) -> Outcome | str:
    """Run a cell in this process of the cluster, made like one of the sweep's own; returns what became of it.

    Its progress goes to the board, for which nothing waits; a board whose process dies loses what nobody had taken.
    """
    import ray

    last: list[Any] = []  # what the board was sent last

    def send(name: str, arguments: tuple[Any, ...]) -> None:
        last[:] = [board.tell.remote(errand.number, (name, arguments))]

    reporter = Reports(send)
    send("began", (ray.get_runtime_context().get_node_id(),))
    try:
        interrupt.watch()
        with contextlib.redirect_stderr(Lines(reporter, errand.cell)):
            os.environ.update(errand.environment)
            try:
                os.chdir(errand.directory)
                prepare(errand.setup)
                config = config_of(errand.values)
            except UserError as error:
                return Failure(errand.cell, str(error))
            except OSError as error:
                return Failure(errand.cell, f"{errand.directory}: {error.strerror or error}")
            return run_cell(config, reporter, errand.setup.since, errand.timing)
    except KeyboardInterrupt:
        return STOPPED
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # so that what was sent is shown before the cell's end
            ray.get(last, timeout=FLUSH_SECONDS)


class ProgressActor:
    """Holds what cells tell until the sweep takes it; an actor of the cluster."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Event]] = []

    def tell(self, number: int, event: Event) -> None:
        """Note an event of an attempt."""
        self.events.append((number, event))

    def take(self) -> list[tuple[int, Event]]:
        """What was told since this was asked last."""
        events, self.events = self.events, []
        return events


def board_of(ray: Any) -> Any:
    """A new board on the head node, which the cluster lives and dies with.

    It asks for a little of what the head alone has. A node that is asked for by name is passed over where it, or
    another, has just joined: the node that places an actor may not know it yet. A board whose process dies is started
    again, and what could not be told meanwhile is told then.
    """
    return ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_restarts=-1, max_task_retries=-1)(ProgressActor).remote()


@dataclass(slots=True)
class Given:
    """A cell that Ray has."""

    cell: RunConfig
    task: Any = None  # Ray's name of its task; None where there is no cluster any more
    node: str = ""  # where it runs; empty while it waits for room
    shown: bool = False  # a bar of it is shown


@contextmanager
def ray_engine(
    on: str, cells: Sequence[RunConfig], jobs: int | None, setup: Setup, say: Callable[[str], None]
) -> Iterator["RayEngine"]:
    """Cells as tasks of a cluster that is reached, or of a Ray of this machine, for the length of the block.

    Its arguments are those of ``clrft/sweep/executors.py``.

    Raises:
        UserError: the cluster cannot be joined, a node of it is not like this machine, or none has what a cell needs.
    """
    with connected(on) as ray:
        nodes = nodes_of(ray)
        gpus = any(node.resources.get("GPU", 0) for node in nodes)
        demands = demands_of(cells, setup.threads, gpus)
        check_room(nodes, demands)
        folders = sorted({cell.folder.parent for cell in cells})
        nodes = asked_nodes(ray, nodes, folders, setup.plugins)
        words = f"{len(nodes)} nodes" if len(nodes) > 1 else "one node"
        say(f"Ray: {words}, {sum(int(node.resources.get('CPU', 0)) for node in nodes)} CPUs")
        # a database in a file must not be written by several machines: then the sweep does it for them
        stores = {urlsplit(tracking_uri(Path(cell.run.output))).scheme for cell in cells if cell.run.mlflow}
        in_file = any(scheme.partition("+")[0] in ("sqlite", "file", "") for scheme in stores)
        feeds = in_file and any(node.host != socket.gethostname() for node in nodes)
        if feeds:
            say("MLflow's store is a file: the sweep feeds it when a cell has ended, its nodes do not write it")
        engine = RayEngine(ray, demands, setup, jobs or len(cells), feeds)
        gone = (ray.exceptions.RayError, ConnectionError)
        try:
            yield engine
        except BaseException:  # every cell is interrupted and waited for, and the deaf are killed
            tasks = [given.task for given in engine.given.values() if given.task is not None]
            with contextlib.suppress(*gone):
                for force in (False, True) if tasks else ():
                    _, left = ray.wait(tasks, num_returns=len(tasks), timeout=0)
                    for task in left:
                        ray.cancel(task, force=force)
                    ray.wait(tasks, num_returns=len(tasks), timeout=2 * GRACE_SECONDS)
            raise
        finally:
            with contextlib.suppress(*gone):
                ray.kill(engine.board)


class RayEngine:
    """Runs cells as tasks of a cluster, ``count`` at a time, each with what it demands (by its name).

    ``feeds``: the cells are not tracked where they run; the sweep feeds the store from their folders.
    """

    def __init__(self, ray: Any, demands: dict[str, CellResources], setup: Setup, count: int, feeds: bool) -> None:
        self.setup = setup
        self.count = count
        self.losses: Counter[str] = Counter()
        self.given: dict[int, Given] = {}  # by the number of the attempt; those included that wait for room
        self.board = board_of(ray)
        self._ray = ray
        self._demands = demands
        self._feeds = feeds
        self._number = 0
        self._gone = ""  # why there is no cluster any more
        self._taking = self.board.take.remote()  # asked ahead, so that nothing that is slow to come is lost

    def give(self, cell: RunConfig, node: str = "") -> None:
        """Make a cell a task, for a node if there is room on it."""
        self._number += 1
        given = self.given[self._number] = Given(cell)
        if self._gone:
            return
        values = cell.to_dict()
        if self._feeds:
            values["run"]["mlflow"] = False
        timing = LOST if self.losses[cell.cell] else TIMING
        tracking = {name: value for name, value in os.environ.items() if name.startswith(TRACKING)}
        errand = Errand(self._number, cell.cell, values, self.setup, os.getcwd(), tracking, timing)
        demand = self._demands[cell.cell]
        asked: dict[str, Any] = {"num_cpus": demand.cpus, "num_gpus": demand.gpus, "max_retries": 0}
        if demand.memory:
            asked["memory"] = demand.memory
        if node:
            asked["scheduling_strategy"] = on_node(node, soft=True)
        given.task = self._ray.remote(**asked)(run_there).remote(errand, self.board)

    def told(self, seconds: float) -> Iterator[tuple[str, Any]]:
        try:
            ended = self._ended(seconds)
            for _ in range(2 if ended else 1):  # what was on its way before a cell's end, and then its last words
                yield from self._news(TAKE_SECONDS if ended else 0.0)
            for number in ended:
                events = list(self._outcome(self.given[number]))  # it stays given if the cluster goes meanwhile
                del self.given[number]
                yield from events
        except ConnectionError as error:  # Ray Client's
            self._gone = " ".join(str(error).split())[:200] or "no answer"
        if self._gone:
            lost = {given.cell.cell: given.cell for given in self.given.values()}
            self.given.clear()
            for name, cell in lost.items():
                yield "ended", (cell, Failure(name, f"the Ray cluster is gone ({self._gone}); {GO_ON}"))

    def _ended(self, seconds: float) -> list[int]:
        """Attempts that have ended, waited for up to some seconds."""
        numbers = {given.task: number for number, given in self.given.items() if given.task is not None}
        if not numbers:
            time.sleep(seconds)
            return []
        tasks = list(numbers)
        self._ray.wait(tasks, num_returns=1, timeout=seconds)
        ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        return [numbers[task] for task in ready]

    def _news(self, seconds: float) -> Iterator[tuple[str, Any]]:
        """What cells have told, waited for up to some seconds; of attempts that are over, nothing."""
        ready, _ = self._ray.wait([self._taking], timeout=seconds)
        if not ready:
            return
        taken, self._taking = self._taking, self.board.take.remote()
        try:
            events = self._ray.get(taken)
        except self._ray.exceptions.RayError:  # the board is being started again
            return
        for number, (name, arguments) in events:
            given = self.given.get(number)
            if name == "say":
                yield name, arguments
            elif given is None:
                continue
            elif name == "began":
                given.node = arguments[0]
            elif name == "begin" or given.shown:
                given.shown = True
                yield name, arguments

    def _outcome(self, given: Given) -> Iterator[tuple[str, Any]]:
        """What became of an attempt: the cell's outcome, or another attempt."""
        errors = self._ray.exceptions
        cell = given.cell
        try:
            outcome = self._ray.get(given.task)
        except errors.NodeDiedError:
            yield from self._again(cell, "its node was lost", "")
            return
        except errors.RayTaskError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            outcome = Failure(cell.cell, f"Ray: {lines[-1]}")
        except errors.OutOfMemoryError:
            yield from self._again(cell, "its node has run out of memory, and Ray killed it", given.node)
            return
        except errors.RayError:
            yield from self._again(cell, "its process died (killed, or out of memory)", given.node)
            return
        if outcome == STOPPED:
            yield from self._again(cell, "its process was told to stop", "")
            return
        if self._feeds and cell.run.mlflow and outcome is None:  # it was not tracked where it ran
            with held(cell.folder):
                feed_or_tell(cell.folder)
        yield "ended", (cell, outcome)

    def _again(self, cell: RunConfig, why: str, node: str) -> Iterator[tuple[str, Any]]:
        """Give a lost cell anew, unless it was lost too often."""
        name = cell.cell
        self.losses[name] += 1
        if self.losses[name] > LOSSES:
            reason = f"{why}, for the {self.losses[name]}th time; {GO_ON} once it is known what kills it"
            yield "ended", (cell, Failure(name, reason))
            return
        yield "say", (f"{name}: {why}; it goes on from what is on disk",)
        if not any(self._demands[name].fits(one.resources) for one in nodes_of(self._ray)):
            yield "say", (f"{name}: waits for a node that has what it needs ({self._demands[name]}); none is left",)
        self.give(cell, node)
