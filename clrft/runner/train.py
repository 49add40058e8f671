"""Training one stage, kept on disk as it goes: from the task before, from a state of its own, or done already."""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from clrft.runner.checkpoint import (
    LeftTraining,
    StageRecord,
    read_anchor,
    read_learned,
    read_training,
    stage_rng,
    write_anchor,
    write_learned,
    write_training,
)
from clrft.runner.cost_timer import Clock, cost_of
from clrft.runner.lineage import check_left, write_lineage
from clrft.runner.partial_checkpoint import PartialCheckpoint
from clrft.runner.state import Run
from clrft.utils import interrupt
from clrft.utils.files import Damaged, whole_folder
from methods.base import TaskContext
from methods.costs.meter import added, sums
from methods.distributed import ranks
from methods.distributed.sharding import is_sharded, whole_weights
from methods.settings import KAHAN, LOST_BELOW, WIDE
from methods.training.anchor_check import anchor_unchanged
from methods.training.budget import planned_updates
from methods.training.fit import APPLIED, FitResult, FitSettings, StepRow, fit, with_memory
from methods.training.replay_memory import remembered
from methods.training.state import Keeping, TrainingState
from task_streams.config import SourceConfig
from task_streams.types import Example, Task

FILE_WORKERS = 2
OnStep = Callable[[StepRow], None]


def learn_task(state: Run, stage: int, record: StageRecord, on_step: OnStep) -> PartialCheckpoint:
    """Train on a stage's task, or take up what an earlier process trained; what it left is in ``trained`` on disk."""
    work = PartialCheckpoint(state.folder, stage, state.parent, state.reporter.say)
    try:
        left = ranks.on_rank0(lambda: left_whole(state, work))
        if left is not None:
            ranks.all_or_fail(lambda: take_up(state, stage, work, left, record, on_step))
        else:
            with scratch_folder(work) as scratch:
                state.moments = train_stage(state, stage, scratch, record, on_step, work).moments
            if state.anchors is not None and stage != state.stages[-1]:
                state.anchors.end()
            model = state.policy.model
            weights = whole_weights(model) if is_sharded(model) else None
            ranks.on_rank0(lambda: write_trained(state, stage, work, record, weights))
    finally:
        work.close()
    return work


@contextmanager
def scratch_folder(work: PartialCheckpoint) -> Iterator[Path]:
    """A folder for scratch files: in the run's, or elsewhere for a process that writes nothing there."""
    if ranks.is_rank0():
        yield work.folder / "scratch"
        return
    with tempfile.TemporaryDirectory(prefix="clrft-") as folder:
        yield Path(folder)


def left_whole(state: Run, work: PartialCheckpoint) -> LeftTraining | None:
    """The training that an earlier process left whole, or None; a damaged one is told and removed, and is done again.

    Raises:
        UserError: it began with something else.
    """
    work.clear_strays()
    if not work.trained.is_dir():
        return None
    try:
        check_left(work.trained, state.parent)
        return read_training(work.trained)
    except Damaged as error:
        state.reporter.say(f"{work.trained} is damaged and left out: {error.problems[0]}")
        shutil.rmtree(work.trained)
        return None


def take_up(
    state: Run, stage: int, work: PartialCheckpoint, left: LeftTraining, record: StageRecord, on_step: OnStep
) -> None:
    """Bring the run to where an earlier process was when it had trained and not yet tested."""
    put_back(state, work.trained, stage)
    record.steps, record.seconds["train"], record.cost["train"] = left
    for row in record.steps:
        on_step(row)
    state.reporter.say(f"{state.config.cell}: task {stage} was trained already, and is tested now")


def write_trained(
    state: Run, stage: int, work: PartialCheckpoint, record: StageRecord, weights: dict[str, Tensor] | None
) -> None:
    """Write what the training left, so that it need not be done again if the test is cut short.

    ``weights`` are those of a split model, put together; None: the policy has its own.
    """
    work.settle()
    with whole_folder(work.trained) as folder:
        write_learned(folder, state.policy, state.method, stage, state.moments, weights)
        if state.anchors is not None and stage != state.stages[-1]:
            write_anchor(folder, state.anchors)
        write_training(folder, record)
        write_lineage(folder, stage, state.parent, state.config, state.data)


def put_back(state: Run, folder: Path, stage: int) -> None:
    """Bring policy, method, moments and anchor to where a stage left them in a folder."""
    state.moments = read_learned(folder, state.policy, state.method, stage)
    if is_sharded(state.policy.model) and not ranks.is_rank0():
        state.moments = {}  # the first process hands them out
    if state.anchors is not None and stage != state.stages[-1]:
        read_anchor(folder, state.anchors, stage)


def train_stage(
    state: Run, stage: int, scratch: Path, record: StageRecord, on_step: OnStep, work: PartialCheckpoint | None = None
) -> FitResult:
    """Fit the stage's task, with its anchor and the moments that the stage before left.

    Args:
        state: the run.
        stage: which stage.
        scratch: folder for scratch files; removed afterwards.
        record: gets the figures and the time.
        on_step: gets every update's figures.
        work: where states of the training are kept, and taken up from; None = nowhere.
    """
    config = state.config
    task = state.tasks[0] if state.method.joint else state.tasks[stage - 1]
    first = state.method.joint or stage == 1
    state.anchor = None  # the old one goes before the new one comes
    state.anchor = None if state.anchors is None or first else state.anchors.begin()
    seed = stage_rng(config.seed, stage)
    context = TaskContext(task, state.policy, state.anchor, seed, memory(state, task))
    begun = None if work is None else newest_state(work)
    clock = Clock.started(None if begun is None else begun.values)
    keeping = keeping_of(state, work, clock)
    train, workers = config.train, config.train.workers
    if state.method.joint:  # which gets the updates of all its tasks together
        train = dataclasses.replace(train, updates=train.updates * len(state.stream))
    if workers is None:  # that decode ahead of the training
        from_files = isinstance(config.stream, SourceConfig) and state.policy.device.type == "cuda"
        workers = FILE_WORKERS if from_files else 0
    settings = FitSettings(train, scratch, workers, keeping)
    examples = len(with_memory(state.method, context).task.train)
    total = planned_updates(state.method, settings.train, examples)
    state.reporter.begin(config.cell, f"task {stage}/{len(state.stream)} train", total)

    rounded = rounded_warning(state)

    def report(row: StepRow) -> None:
        interrupt.check()
        state.reporter.advance(config.cell, 1, step_figures(row))
        rounded(row)
        on_step(row)

    if begun is not None:
        state.reporter.say(f"{config.cell}: going on in task {stage} after update {begun.step}")
    with anchor_unchanged(state.anchor, state.method):
        fitted = fit(state.method, context, state.reference, settings, state.moments, report, begun)
    record.steps = fitted.steps
    record.cost["train"] = cost_of(state, clock, added(sums(fitted.steps), fitted.afterwards))
    record.seconds["train"] = record.cost["train"]["wall_seconds"]
    shutil.rmtree(scratch, ignore_errors=True)  # TRL makes it and leaves it empty
    return fitted


def rounded_warning(state: Run) -> OnStep:
    """Tells at once, of the first update of a task of which too little reached the weights."""
    told = False

    def tell(row: StepRow) -> None:
        nonlocal told
        if told or row.get(APPLIED, 1.0) >= LOST_BELOW:
            return
        told = True
        numerics = state.policy.numerics
        weights = str(numerics.weights).removeprefix("torch.")
        better = f"{WIDE} keeps" if numerics.optimizer == KAHAN else f"{WIDE} and {KAHAN} keep"
        state.reporter.say(
            f"warning: {state.config.cell}: {row[APPLIED]:.0%} of update {row['step']:.0f} reached the weights; the "
            f"rest was lost to rounding. They are held in {weights} and moved by train.optimizer={numerics.optimizer}; "
            f"{better} all of an update."
        )

    return tell


def newest_state(work: PartialCheckpoint) -> TrainingState | None:
    """The newest state that is whole: the first process looks for it, and all read it."""
    found: list[TrainingState] = []

    def look() -> int | None:
        newest = work.newest()
        found.extend([] if newest is None else [newest])
        return None if newest is None else newest.step

    step = ranks.on_rank0(look)
    return None if step is None else ranks.all_or_fail(lambda: found[0] if found else work.at(step))


def keeping_of(state: Run, work: PartialCheckpoint | None, clock: Clock) -> Keeping | None:
    """How often the training's state is kept, and where."""
    every = state.config.run.checkpoint_every
    if work is None or every == 0:
        return None

    def keep(one: TrainingState) -> None:  # in the first process
        work.keep(dataclasses.replace(one, values={**one.values, **clock.kept()}))

    return Keeping(every, keep)


def memory(state: Run, task: Task) -> tuple[Example, ...]:
    """Examples of earlier tasks, for a method that declares that it replays."""
    plan = state.method.replay
    earlier = [other for other in state.tasks if other.index < task.index]
    if plan is None or "replay" not in state.method.needs or not earlier:
        return ()
    return remembered(earlier, plan.items, state.config.seed)


def step_figures(row: StepRow) -> str:
    """The figures of an update that fit on a progress line."""
    shown = [("reward", "reward"), ("loss", "loss"), ("drift", "drift")]
    return "  ".join(f"{label} {row[key]:.3f}" for key, label in shown if key in row)
