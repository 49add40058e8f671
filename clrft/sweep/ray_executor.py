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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clrft.config.run_config import RunConfig, config_of
from clrft.runner.outcome import Failure
from clrft.runner.run import run_cell
from clrft.sweep.engine import GRACE_SECONDS, Outcome, Setup
from clrft.sweep.local_workers import prepare
from clrft.sweep.ray_cluster import Node, asked_nodes, check_room, connected, nodes_of, on_node
from clrft.sweep.ray_resources import CellResources, demands_of
from clrft.tracking.store import in_file, tracking_uri
from clrft.tracking.sync import feed_or_tell, unworked
from clrft.utils import interrupt
from clrft.utils.locks import TIMING, Timing
from task_streams.errors import UserError

FLUSH_SECONDS = 10.0  # for the board to take what was told last


@dataclass(frozen=True, slots=True)
class Errand:
    """A cell to be run on a node.

    Attributes:
        number: of this attempt at a cell, under which it tells its progress.
        cell: name of the run folder.
        values: the settings, as ``RunConfig.to_dict`` tells them.
        setup: as for every worker.
        directory: where the sweep was started; relative paths count from it.
        environment: variables that it has there and the node may not: where the tracking store is.
        timing: when the lock of another process counts as left behind.
    """

    number: int
    cell: str
    values: Mapping[str, Any]
    setup: Setup
    directory: str
    environment: Mapping[str, str]
    timing: Timing


@dataclass(frozen=True, slots=True)
class Stopped:
    """A cell whose process was told to stop, by the sweep or by its node's end."""


class BoardReporter:
    """Sends a cell's progress to the board; a board whose process dies loses what nobody had taken."""

    def __init__(self, board: Any, number: int) -> None:
        self.board = board
        self.number = number
        self._last: Any = None

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.tell("begin", (cell, activity, total))

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.tell("advance", (cell, units, figures))

    def say(self, text: str) -> None:
        self.tell("say", (text,))

    def tell(self, name: str, arguments: Sequence[Any]) -> None:
        """Send an event; nothing is waited for."""
        self._last = self.board.tell.remote(self.number, (name, arguments))

    def flush(self) -> None:
        """Wait until what was told has come to the board, so that it is shown before the cell's end."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._last, timeout=FLUSH_SECONDS)


class Lines(io.TextIOBase):
    """A stream whose lines are told: warnings of libraries and of the tracking store."""

    def __init__(self, reporter: BoardReporter, cell: str) -> None:
        self.reporter = reporter
        self.cell = cell
        self.begun = ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in filter(str.strip, lines):
            self.reporter.say(f"{self.cell}: {line}")
        return len(text)


def run_there(errand: Errand, board: Any) -> Outcome | Stopped:
    """Run a cell in this process of the cluster; returns what became of it."""
    import ray

    reporter = BoardReporter(board, errand.number)
    reporter.tell("began", (ray.get_runtime_context().get_node_id(),))
    try:
        interrupt.watch()
        with contextlib.redirect_stderr(Lines(reporter, errand.cell)):
            return attempted(errand, reporter)
    except KeyboardInterrupt:
        return Stopped()
    finally:
        reporter.flush()


def attempted(errand: Errand, reporter: BoardReporter) -> Outcome:
    """Make the process like one of the sweep's own, and run the cell in it."""
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


HEAD = "node:__internal_head__"  # what Ray counts the head node as
Event = tuple[str, Sequence[Any]]  # name and arguments of a reporter's call


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

    Args:
        ray: the module, connected.
    """
    return ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_restarts=-1, max_task_retries=-1)(ProgressActor).remote()


LOSSES = 3  # of one cell, after which it is what kills its processes
LOST = replace(TIMING, silent=3 * TIMING.beat)  # for the lock of a process that Ray says is gone
TAKE_SECONDS = 10.0
TRACKING = "MLFLOW_"  # variables that cells are told of
GO_ON = "run the same command again"


@dataclass(slots=True)
class Given:
    """A cell that Ray has.

    Attributes:
        cell: which.
        task: Ray's name of its task.
        node: where it runs; empty while it waits for room.
        shown: a bar of it is shown.
    """

    cell: RunConfig
    task: Any
    node: str = ""
    shown: bool = False


@contextmanager
def ray_engine(
    on: str, cells: Sequence[RunConfig], jobs: int | None, setup: Setup, say: Callable[[str], None]
) -> Iterator["RayEngine"]:
    """Cells as tasks of a cluster that is reached, or of a Ray of this machine, for the length of the block.

    Args:
        on: ``ray``, ``ray://HOST:PORT`` or ``HOST:PORT``.
        cells: what it will run.
        jobs: cells at a time; None: all that the cluster has room for.
        setup: as for every worker.
        say: tells the user a sentence.

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
        feeds = feeds_itself(cells, nodes)
        if feeds:
            say("MLflow's store is a file: the sweep feeds it when a cell has ended, its nodes do not write it")
        yield RayEngine(ray, demands, setup, jobs or len(cells), feeds)


def feeds_itself(cells: Sequence[RunConfig], nodes: Sequence[Node]) -> bool:
    """Whether the sweep feeds the tracking store: a database in a file must not be written by several machines."""
    tracked = [cell for cell in cells if cell.run.mlflow]
    if all(node.host == socket.gethostname() for node in nodes):
        return False
    return any(in_file(tracking_uri(Path(cell.run.output))) for cell in tracked)


class RayEngine:
    """Runs cells as tasks of a cluster.

    Args:
        ray: the module, connected.
        demands: of each cell, by its name.
        setup: as for every worker.
        count: cells at a time.
        feeds: the cells are not tracked where they run; the sweep feeds the store from their folders.
    """

    def __init__(self, ray: Any, demands: dict[str, CellResources], setup: Setup, count: int, feeds: bool) -> None:
        self.setup = setup
        self.count = count
        self._ray = ray
        self._demands = demands
        self._feeds = feeds
        self._given: dict[int, Given] = {}  # by the number of the attempt
        self._losses: Counter[str] = Counter()
        self._number = 0
        self._gone = ""  # why there is no cluster any more
        self._refused: list[RunConfig] = []  # given since
        self._board = board_of(ray)
        self._taking = self._board.take.remote()  # asked ahead, so that nothing that is slow to come is lost

    @property
    def busy(self) -> int:
        """How many cells it has, those included that wait for room."""
        return len(self._given) + len(self._refused)

    def timing(self, cell: RunConfig) -> Timing:
        """When the lock of a cell counts as left behind: soon, if Ray has said that its process is gone."""
        return LOST if self._losses[cell.cell] else TIMING

    def give(self, cell: RunConfig) -> None:
        """Make a cell a task."""
        self._submit(cell)

    def told(self, seconds: float) -> Iterator[tuple[str, Any]]:
        """Wait for news up to some seconds; names and arguments of what cells report."""
        try:
            ended = self._ended(seconds)
            for _ in range(2 if ended else 1):  # what was on its way before a cell's end, and then its last words
                yield from self._news(TAKE_SECONDS if ended else 0.0)
            for number in ended:
                yield from self._outcome(number)
        except ConnectionError as error:  # Ray Client's
            self._gone = " ".join(str(error).split())[:200] or "no answer"
        if self._gone:
            yield from self._all_gone()

    def end(self) -> None:
        """Let go of the board; Ray ends its idle processes itself."""
        with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError):
            self._ray.kill(self._board)

    def stop(self) -> None:
        """Interrupt every cell, wait for it, and kill the deaf."""
        with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError):
            for force in (False, True):
                tasks = [given.task for given in self._given.values()]
                if not tasks:
                    break
                _, left = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
                for task in left:
                    self._ray.cancel(task, force=force)
                self._ray.wait(tasks, num_returns=len(tasks), timeout=2 * GRACE_SECONDS)
        self.end()

    def _submit(self, cell: RunConfig, node: str = "") -> None:
        """Give Ray a cell, for a node if there is room on it."""
        if self._gone:
            self._refused.append(cell)
            return
        demand = self._demands[cell.cell]
        where = {"scheduling_strategy": on_node(node, soft=True)} if node else {}
        memory = {"memory": demand.memory} if demand.memory else {}
        task = self._ray.remote(num_cpus=demand.cpus, num_gpus=demand.gpus, max_retries=0, **memory, **where)(run_there)
        self._number += 1
        self._given[self._number] = Given(cell, task.remote(self._errand(cell), self._board))

    def _errand(self, cell: RunConfig) -> Errand:
        values = cell.to_dict()
        if self._feeds:
            values["run"]["mlflow"] = False
        tracking = {name: value for name, value in os.environ.items() if name.startswith(TRACKING)}
        timing = self.timing(cell)
        return Errand(self._number, cell.cell, values, self.setup, os.getcwd(), tracking, timing)

    def _ended(self, seconds: float) -> list[int]:
        """Attempts that have ended, waited for up to some seconds."""
        numbers = {given.task: number for number, given in self._given.items()}
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
        taken, self._taking = self._taking, self._board.take.remote()
        try:
            events = self._ray.get(taken)
        except self._ray.exceptions.RayError:  # the board is being started again
            return
        for number, (name, arguments) in events:
            given = self._given.get(number)
            if name == "say":
                yield name, arguments
            elif given is None:
                continue
            elif name == "began":
                given.node = arguments[0]
            elif name == "begin" or given.shown:
                given.shown = True
                yield name, arguments

    def _outcome(self, number: int) -> Iterator[tuple[str, Any]]:
        """What became of an attempt: the cell's outcome, or another attempt."""
        given = self._given.pop(number)
        errors = self._ray.exceptions
        try:
            outcome = self._ray.get(given.task)
        except errors.NodeDiedError:
            yield from self._again(given, "its node was lost", "")
            return
        except errors.RayTaskError as error:
            outcome = Failure(given.cell.cell, f"Ray: {last_line(error)}")
        except errors.OutOfMemoryError:
            yield from self._again(given, "its node has run out of memory, and Ray killed it", given.node)
            return
        except errors.RayError:
            yield from self._again(given, "its process died (killed, or out of memory)", given.node)
            return
        if isinstance(outcome, Stopped):
            yield from self._again(given, "its process was told to stop", "")
            return
        yield from self._closed(given.cell, outcome)

    def _again(self, given: Given, why: str, node: str) -> Iterator[tuple[str, Any]]:
        """Give a lost cell anew, unless it was lost too often."""
        name = given.cell.cell
        self._losses[name] += 1
        if self._losses[name] > LOSSES:
            reason = f"{why}, for the {self._losses[name]}th time; {GO_ON} once it is known what kills it"
            yield "ended", (given.cell, Failure(name, reason))
            return
        yield "say", (f"{name}: {why}; it goes on from what is on disk",)
        if not any(self._demands[name].fits(one.resources) for one in nodes_of(self._ray)):
            yield "say", (f"{name}: waits for a node that has what it needs ({self._demands[name]}); none is left",)
        self._submit(given.cell, node)

    def _closed(self, cell: RunConfig, outcome: Outcome) -> Iterator[tuple[str, Any]]:
        """The end of a cell, which is fed to the store if it was not tracked where it ran."""
        if self._feeds and cell.run.mlflow and outcome is None:
            with unworked(cell.folder, dry=False):
                feed_or_tell(cell.folder)
        yield "ended", (cell, outcome)

    def _all_gone(self) -> Iterator[tuple[str, Any]]:
        """The end of every cell with the cluster's."""
        cells = [*(given.cell for given in self._given.values()), *self._refused]
        self._given.clear()
        self._refused.clear()
        for cell in cells:
            yield "ended", (cell, Failure(cell.cell, f"the Ray cluster is gone ({self._gone}); {GO_ON}"))


def last_line(error: Exception) -> str:
    """The last line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
