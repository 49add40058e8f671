"""One cell of its own, under its folder's lock: what it leaves when it fails, and what another process left."""

import traceback
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from clrft.config.run_config import RunConfig
from clrft.runner.fork import Source
from clrft.runner.outcome import Elsewhere, Failure, forget_failure, is_done, keep_failure, known_failure
from clrft.runner.run import run
from clrft.runs.layout import ERROR_FILE
from clrft.utils import interrupt
from clrft.utils.failures import explained
from clrft.utils.files import check_writable
from clrft.utils.locks import TIMING, Held, Locked, Timing, held
from clrft.utils.progress import Bars, Reporter
from methods.distributed import ranks
from task_streams.errors import UserError


class Watched:
    """Passes progress on as long as the run's lock is this process's."""

    def __init__(self, reporter: Reporter, lock: Held) -> None:
        self.reporter = reporter
        self.lock = lock

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.lock.check()
        self.reporter.begin(cell, activity, total)

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.lock.check()
        self.reporter.advance(cell, units, figures)

    def say(self, text: str) -> None:
        self.reporter.say(text)


def run_alone(config: RunConfig, reporter: Reporter | None = None, source: Source | None = None) -> Path:
    """Run one cell as the only process on its folder, or with the other processes of the run; returns the folder.

    Args:
        config: the cell.
        reporter: shows progress; None: bars on the terminal.
        source: the stage that it is forked from where it has no folder yet; None = it learns from the first task on.

    Raises:
        Locked: another process works on it.
        UserError: something about the input cannot work.
    """
    if reporter is None:
        with Bars(Console(stderr=True)) as bars:
            return run_alone(config, bars, source)
    shown: Reporter = reporter
    if ranks.by_first(lambda: is_done(config)):
        return run(config, shown)
    with ExitStack() as stack:

        def take() -> None:
            nonlocal shown
            check_writable(config.folder.parent)
            shown = Watched(shown, stack.enter_context(held(config.folder)))
            forget_failure(config.folder)

        ranks.by_first(take)
        folder = run(config, shown, source)
        ranks.by_first(lambda: forget_failure(config.folder))
    return folder


def run_cell(config: RunConfig, reporter: Reporter, since: int, timing: Timing = TIMING) -> Failure | Elsewhere | None:
    """Run one cell of a sweep; what goes wrong comes back as a record, and stays as a file in the run folder.

    Args:
        config: the cell.
        reporter: shows progress.
        since: when the sweep began, by the file system's clock (ns): a cell that another process has seen fail since
            is not tried again.
        timing: when the lock of another process counts as left behind.
    """
    try:
        if is_done(config):
            return None
        check_writable(config.folder.parent)
        with held(config.folder, timing) as lock:
            return known_failure(config, since) or attempt(config, Watched(reporter, lock))
    except Locked as error:
        return Elsewhere(config.cell, error.who)
    except UserError as error:
        return Failure(config.cell, str(error))


def attempt(config: RunConfig, reporter: Reporter) -> Failure | None:
    """Run a cell whose lock is held."""
    forget_failure(config.folder)
    try:
        run(config, reporter)
    except UserError as error:
        keep_failure(config.folder, str(error))
        return Failure(config.cell, str(error))
    except Exception as error:
        if interrupt.asked():  # and swallowed on its way
            raise KeyboardInterrupt from error
        if known := explained(error):
            keep_failure(config.folder, known)
            return Failure(config.cell, known)
        reason = f"{type(error).__name__}: {error}"
        keep_failure(config.folder, reason, traceback.format_exc())
        return Failure(config.cell, f"{reason} (traceback in {config.folder / ERROR_FILE})")
    return None
