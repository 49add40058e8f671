"""A cell as a task of a Ray cluster: what runs on the node, and how its progress is told.

A cell travels as plain values, and its settings become typed on the node, where plugin files are loaded first. Ray
itself pickles what passes between the processes of its cluster, which trust each other; nothing pickled is on disk.
"""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clrft.config.run_config import config_of
from clrft.runner.outcome import Failure
from clrft.runner.run_cell import run_cell
from clrft.sweep.engine import Outcome, Setup
from clrft.sweep.local_workers import prepare
from clrft.utils import interrupt
from clrft.utils.lease import Timing
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
