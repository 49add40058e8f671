"""A sweep: streams x methods x class orders (x settings), every cell a run; what is done is skipped.

Cells run in worker processes of this machine or of a Ray cluster, several at a time; a failing cell is reported and
the others go on. Each cell is run under a lock of its own, so that several sweep processes on one folder, also on
several machines, share the work.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from clrft.config.run_config import RunConfig
from clrft.runner.outcome import Elsewhere, Failure, is_done, known_failure
from clrft.runner.prepare import current_base
from clrft.sweep.executors import HERE, LOST, Engine, ExecutorChoice, Outcome, engine_for
from clrft.utils.files import check_writable
from clrft.utils.locks import TIMING, file_system_now, lock_path, look
from clrft.utils.progress import Bars
from task_streams.errors import UserError

POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0  # between two looks at the cells that other processes run


def run_sweep(
    cells: Sequence[RunConfig], jobs: int | None, bars: Bars, executor: ExecutorChoice = HERE
) -> list[Failure]:
    """Run every cell that is not done and that no other process runs; those are waited for. Returns the failures.

    Args:
        cells: of ``load_sweep``.
        jobs: cells at a time; None for as many as the executor has room for.
        bars: shows the progress.
        executor: where the cells run.

    Raises:
        UserError: the executor cannot run them; nothing was begun.
    """
    waiting = [cell for cell in cells if not is_done(cell)]
    for _ in range(len(cells) - len(waiting)):
        bars.finished("")
    if not waiting:
        return []
    folders = {cell.folder.parent for cell in waiting}
    for folder in folders:
        check_writable(folder)
    for cell in {cell.model.path: cell for cell in waiting if os.path.isdir(cell.model.path or "")}.values():
        current_base(cell, bars)  # once, not by every worker that starts
    since = min(file_system_now(folder) for folder in folders)
    with engine_for(executor, waiting, jobs, since, bars.say) as engine:
        return Progress(deque(waiting), engine, bars).watch()


@dataclass(slots=True)
class Progress:
    """A sweep at work: cells that wait, cells in the engine, cells that other processes run."""

    waiting: deque[RunConfig]
    engine: Engine
    bars: Bars
    given: int = 0  # how many cells the engine has
    elsewhere: dict[str, RunConfig] = field(default_factory=dict)  # by name
    failures: list[Failure] = field(default_factory=list)  # so far

    def watch(self) -> list[Failure]:
        """Go on until every cell has ended, here or elsewhere; returns the failures."""
        looked = time.monotonic()
        while self.waiting or self.given or self.elsewhere:
            while self.waiting and self.given < self.engine.count:
                cell = self.waiting.popleft()
                if who := self.runner_elsewhere(cell):
                    self.ended(cell, Elsewhere(cell.cell, who))
                else:
                    self.engine.give(cell)
                    self.given += 1
            for name, arguments in self.engine.told(POLL_SECONDS):
                if name == "ended":
                    self.given -= 1
                    self.ended(*arguments)
                else:
                    getattr(self.bars, name)(*arguments)
            if time.monotonic() - looked > LOOK_SECONDS:
                self.look_elsewhere()
                looked = time.monotonic()
        return self.failures

    def runner_elsewhere(self, cell: RunConfig) -> str:
        """The process that holds a cell's lock, in words; empty if none that may live does."""
        found = look(lock_path(cell.folder), LOST if self.engine.losses[cell.cell] else TIMING)
        return "" if found is None or found.gone else found.who

    def ended(self, cell: RunConfig, outcome: Outcome) -> None:
        """What became of a cell."""
        if isinstance(outcome, Elsewhere):
            self.elsewhere[cell.cell] = cell
            self.bars.say(f"{cell.cell}: left to {outcome.who}, which runs it")
            return
        self.bars.finished(cell.cell)
        if outcome is not None:
            self.failures.append(outcome)
            self.bars.say(f"failed: {outcome.cell}: {outcome.reason}")

    def look_elsewhere(self) -> None:
        """See which of the cells in other processes have ended; one that was given up waits for a worker again."""
        for name, cell in list(self.elsewhere.items()):
            if self.runner_elsewhere(cell):
                continue
            del self.elsewhere[name]
            known = known_failure(cell, self.engine.setup.since)
            with contextlib.suppress(UserError):  # begun with other settings: a worker will tell
                if known is not None or is_done(cell):
                    self.ended(cell, known)
                    continue
            self.waiting.append(cell)
