"""A task boundary: seconds from a task's last update to the next one's first, evaluation and that update left out.

Ours is a real run of RaPO (``clrft.runner.run``): saving weights, state, figures and checksums, the anchor's snapshot,
the new trainer. Stock is what one does with TRL's trainer: ``save_model``, then another trainer on the same model; no
reference is loaded again. Of the run the figure is the time from the last update to the test, plus the time from the
test to the end of the next task's first update, less the median of the updates after it.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.engine.models import load
from benchmarks.engine.options import Options
from benchmarks.engine.pairs import Case, Contender, Turn, synchronize
from benchmarks.engine.trainers import MANY, fit_settings, without_reference
from benchmarks.engine.workload import Workload, workload
from clrft.config.run_config import RunConfig, build_config
from clrft.runner.run import run
from clrft.utils.progress import Silent
from methods.model.policy import Policy
from methods.training.grpo_trainer import release

NAMES = ("stock", "ours")
UPDATES = 5  # of each task


class Stopped(Exception):
    """Ends a run that has told enough."""


class Watch(Silent):
    """Remembers when what was told."""

    def __init__(self) -> None:
        self.trained: dict[int, list[float]] = {}  # times of a task's updates
        self.tested: dict[int, list[float]] = {}  # times at which a test began, and its batches ended
        self.now: list[float] = []

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        words = activity.split()  # "task 1/2 train"
        if words[0] == "task":
            told = self.trained if words[-1] == "train" else self.tested
            self.now = told.setdefault(int(words[1].split("/")[0]), [])
            if words[-1] == "test":
                self.now.append(time.perf_counter())

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.now.append(time.perf_counter())
        if len(self.trained.get(2, ())) == UPDATES - 1:  # the last update of a task may do more
            raise Stopped

    def turn(self) -> Turn:
        """Seconds of the boundary between the first two tasks, by part."""
        updates = self.trained[2]
        usual = statistics.median(after - before for before, after in pairwise(updates))
        saving = self.tested[1][0] - self.trained[1][-1]
        beginning = updates[0] - self.tested[1][-1] - usual
        return Turn(parts={"save": saving, "begin": beginning}, seconds=saving + beginning)


def cases(options: Options, scratch: Path) -> Iterator[Case]:
    """The one case: a boundary by TRL, and by a run."""
    asked = [name for name in NAMES if not options.only or name in options.only]
    policy = load(options, stock=True)
    if options.model != "tiny":
        policy.save(scratch / "base")
    takes: dict[str, Callable[[], Turn]] = {"ours": by_run(options, scratch)}
    if "stock" in asked:
        takes["stock"] = by_trl(policy, workload(options, policy.processor), options, scratch)
    contenders = [Contender(name, takes[name]) for name in asked]
    yield Case("task boundary", {"prompts": options.prompts, "group": options.group}, asked[0], contenders)


def by_trl(policy: Policy, work: Workload, options: Options, scratch: Path) -> Callable[[], Turn]:
    """TRL's trainer saved and made anew; it has taken no update, so its moments are not there to be thrown away."""
    settings = fit_settings(options, work, scratch, share_prefix=False)
    trainer = without_reference(policy, work, options, settings)

    def take() -> Turn:
        nonlocal trainer
        synchronize(policy.device)
        start = time.perf_counter()
        trainer.save_model(str(scratch / "saved"))
        saved = time.perf_counter()
        release(policy.model)
        trainer = without_reference(policy, work, options, settings)
        trainer.create_optimizer_and_scheduler(MANY)
        next(iter(trainer.get_train_dataloader()))
        synchronize(policy.device)
        now = time.perf_counter()
        return Turn(parts={"save": saved - start, "begin": now - saved}, seconds=now - start)

    return take


def by_run(options: Options, scratch: Path) -> Callable[[], Turn]:
    """A run of two tasks, up to a few updates into the second."""
    count = 0

    def take() -> Turn:
        nonlocal count
        count += 1
        watch = Watch()
        with suppress(Stopped):
            run(run_config(options, scratch, count), watch)
        return watch.turn()

    return take


def run_config(options: Options, scratch: Path, count: int) -> RunConfig:
    """The run of one turn: hardly any test, no probe."""
    model: dict[str, Any] = {"device": options.device, "dtype": options.dtype}
    if options.model != "tiny":
        model["path"] = str(scratch / "base")
    settings = {
        "stream": {"test_per_class": 1, "tasks": 2},
        "train": {"updates": UPDATES, "prompts_per_update": options.prompts, "accumulation": options.accumulation},
        "method": {"group_size": options.group},
        "model": {**model, "gradient_checkpointing": options.checkpointing},
        "evaluate": {"probe": 0, "drift_prompts": 0, "final_list": False},
    }
    own = {"run": {"output": str(scratch / f"turn-{count}"), "mlflow": False}}
    return build_config("digits_cil", "rapo", "tiny", 1993, settings, own)
