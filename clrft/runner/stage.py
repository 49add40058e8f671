"""One stage of a run: learn a task, test every task due, write the stage's folder whole.

What a training does is kept on disk as it goes: it begins where the task before ended, or goes on from a state of its
own, or is done already and only its test was cut short.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch
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
    write_record,
    write_rows,
)
from clrft.runner.cost_timer import Clock, cost_of, counted
from clrft.runner.drift import measure_drift
from clrft.runner.fork import FIRST_OF_WEIGHTS
from clrft.runner.lineage import check_files, check_left, identity_of, remedy, write_lineage
from clrft.runner.partial_checkpoint import PartialCheckpoint, clear
from clrft.runner.probes import BUILT_IN
from clrft.runner.state import Run
from clrft.runs.layout import (
    ANCHOR_FILE,
    MOMENTS_FILE,
    STAGE_SCHEMA,
    STEPS_FILE,
    TRAINING_FILE,
    WEIGHTS_FOLDER,
    stage_folder,
)
from clrft.runs.manifest import CARRIED
from clrft.runs.provenance import peak_memory_mb
from clrft.utils import interrupt
from clrft.utils.files import Damaged, link_or_copy, remove, sha256_file, whole_folder, write_json_atomic
from eval.evaluate import Prediction, evaluate
from eval.matrix import POOLED_BOX_AP
from eval.probe import ask
from eval.task_accuracy import measure_of, pooled_ap, task_accuracy
from methods.base import TaskContext
from methods.costs.meter import sums
from methods.distributed import ranks
from methods.distributed.sharding import is_sharded, whole, whole_weights
from methods.generation.answers import Session
from methods.inputs.fit_image import image_fit
from methods.model.config import Decoding
from methods.model.snapshots import FullSnapshot
from methods.settings import KAHAN, LOST_BELOW, WIDE
from methods.training.anchor_check import anchor_unchanged
from methods.training.budget import planned_updates
from methods.training.fit import APPLIED, FitSettings, StepRow, fit
from methods.training.replay_memory import mixed, remembered
from methods.training.state import Keeping
from task_streams.config import SourceConfig
from task_streams.probes.glyphs import glyph_examples
from task_streams.prompt_style import PromptStyle
from task_streams.types import Example, Task, new_test_items

FILE_WORKERS = 2
PROBE_SEED = 7
OnStep = Callable[[StepRow], None]


def learn_stage(state: Run, stage: int, on_step: OnStep) -> None:
    """Train (from stage 1 on), test, and write the stage's folder whole; ``on_step`` gets every update."""
    record = StageRecord(stage, state.tasks[stage].name if stage else "base")
    learns = stage > 0 and state.method.family != "frozen"
    work = learn_task(state, stage, record, on_step) if learns else None
    copies = {id(one): one for one in (state.reference, state.anchor) if isinstance(one, FullSnapshot)}
    with whole(state.policy.model, *(one.model for one in copies.values())):
        measure_drift(state, stage, record)
        with counted(state, record, "evaluate"):
            evaluate_stage(state, stage, record)
    record.peak_memory_mb = {"peak_memory_mb": peak_memory_mb()}
    if torch.cuda.is_available():
        record.peak_memory_mb["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    ranks.on_rank0(lambda: write_stage(state, stage, record, work))
    state.parent = identity_of(state.folder, stage)


def learn_task(state: Run, stage: int, record: StageRecord, on_step: OnStep) -> PartialCheckpoint:
    """Train on a stage's task, or take up what an earlier process trained; what it left is in ``trained`` on disk."""
    work = PartialCheckpoint(state.folder, stage, state.parent, state.reporter.say)
    with work.writer:
        left = ranks.on_rank0(lambda: left_whole(state, work))
        if left is not None:
            ranks.all_or_fail(lambda: put_back(state, work.trained, stage))
            record.steps, record.seconds["train"], record.cost["train"] = left
            for row in record.steps:
                on_step(row)
            state.reporter.say(f"{state.config.cell}: task {stage} was trained already, and is tested now")
            return work
        if ranks.is_rank0():
            train_stage(state, stage, work.folder / "scratch", record, on_step, work)
        else:  # which writes nothing in the run's folder
            with TemporaryDirectory(prefix="clrft-") as scratch:
                train_stage(state, stage, Path(scratch), record, on_step, work)
        if state.anchors is not None and stage != state.stages[-1]:
            state.anchors.end()
        model = state.policy.model
        weights = whole_weights(model) if is_sharded(model) else None
        ranks.on_rank0(lambda: write_trained(state, stage, work, record, weights))
    return work


def left_whole(state: Run, work: PartialCheckpoint) -> LeftTraining | None:
    """The training that an earlier process left whole, or None; one that began with something else is refused.

    A damaged one is told and removed, and so is what stands where folders of the stage's work belong and is none.
    """
    for place in (work.folder.parent, work.folder, work.trained, work.folder / "scratch"):
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            work.say(f"{place} is no folder and was removed")
            remove(place)
    if not work.trained.is_dir():
        return None
    try:
        check_left(work.trained, state.parent)
        return read_training(work.trained)
    except Damaged as error:
        state.reporter.say(f"{work.trained} is damaged and left out: {error.problems[0]}")
        shutil.rmtree(work.trained)
        return None


def train_stage(
    state: Run, stage: int, scratch: Path, record: StageRecord, on_step: OnStep, work: PartialCheckpoint | None = None
) -> None:
    """Fit the stage's task, with its anchor and the moments that the stage before left.

    The record gets the figures and the time, ``on_step`` every update's figures. ``scratch`` is a folder that is
    removed afterwards; in ``work`` states of the training are kept, and taken up from (None = nowhere).
    """
    config, task, joint = state.config, state.tasks[stage], state.method.joint
    state.anchor = None  # the old one goes before the new one comes
    state.anchor = None if state.anchors is None or joint or stage == 1 else state.anchors.begin()
    replay = state.method.replay if "replay" in state.method.needs else None
    earlier = [other for other in state.tasks.values() if other.index < task.index]
    memory = remembered(earlier, replay.items, config.seed) if replay is not None and earlier else ()
    context = TaskContext(task, state.policy, state.anchor, stage_rng(config.seed, stage), memory)
    begun = None if work is None else work.newest()
    clock = Clock() if begun is None else Clock(begun.values)
    keeping = None
    if work is not None and config.run.checkpoint_every:
        keeping = Keeping(
            config.run.checkpoint_every,
            lambda one: work.keep(replace(one, values={**one.values, **clock.kept()})),  # in the first process
        )
    train, workers = config.train, config.train.workers
    if joint:  # which gets the updates of all its tasks together
        train = replace(train, updates=train.updates * len(state.stream))
    if workers is None:  # that decode ahead of the training
        from_files = isinstance(config.stream, SourceConfig) and state.policy.device.type == "cuda"
        workers = FILE_WORKERS if from_files else 0
    examples = len(mixed(context.task, context.memory, state.method.replay).train)
    total = planned_updates(state.method, train, examples)
    state.reporter.begin(config.cell, f"task {stage}/{len(state.stream)} train", total)
    rounded = rounded_warning(state)

    def report(row: StepRow) -> None:
        interrupt.check()
        figures = [f"{name} {row[name]:.3f}" for name in ("reward", "loss", "drift") if name in row]
        state.reporter.advance(config.cell, 1, "  ".join(figures))
        rounded(row)
        on_step(row)

    if begun is not None:
        state.reporter.say(f"{config.cell}: going on in task {stage} after update {begun.step}")
    settings = FitSettings(train, scratch, workers, keeping)
    with anchor_unchanged(state.anchor, state.method):
        fitted = fit(state.method, context, state.reference, settings, state.moments, report, begun)
    state.moments, record.steps = fitted.moments, fitted.steps
    record.cost["train"] = cost_of(state, clock, sums([*fitted.steps, fitted.afterwards]))
    record.seconds["train"] = record.cost["train"]["wall_seconds"]
    shutil.rmtree(scratch, ignore_errors=True)  # TRL makes it and leaves it empty


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
        write_rows(folder / STEPS_FILE, record.steps)
        cost = {"seconds": record.seconds["train"], "cost": record.cost.get("train", {})}
        facts = {"schema": STAGE_SCHEMA, **cost, "steps": sha256_file(folder / STEPS_FILE)}
        write_json_atomic(folder / TRAINING_FILE, facts)
        write_lineage(folder, stage, state.parent, state.config, state.data, state.base.identity)


def put_back(state: Run, folder: Path, stage: int) -> None:
    """Bring policy, method, moments and anchor to where a stage left them in a folder.

    Where a fork begins, weights always, and all else as its carry policy says.
    """
    begins, anchors = bool(state.origins) and state.origins[-1].stage == stage, state.anchors
    if stage == state.stages[-1]:
        anchors = None  # no task follows
    if begins and anchors is not None and state.carry["anchor"] == FIRST_OF_WEIGHTS:
        first = stage_folder(state.folder, 1)
        check_files(first, remedy(state.folder, 1, state.origins[0]))
        state.policy.load_weights(first / WEIGHTS_FOLDER)
        anchors.keep()
        anchors = None
    if begins and state.carry["method_state"] != CARRIED:
        state.policy.load_weights(folder / WEIGHTS_FOLDER)
    else:
        state.moments = read_learned(folder, state.policy, state.method, stage)
        if is_sharded(state.policy.model) and not ranks.is_rank0():
            state.moments = {}  # the first process hands them out
    if anchors is not None:
        read_anchor(folder, anchors, stage)


def evaluate_stage(state: Run, stage: int, record: StageRecord) -> None:
    """Test every task due at this stage, and the general-ability probes."""
    start = time.perf_counter()
    config, stream, session = state.config.evaluate, state.stream, state.policy.session()
    due = due_tests(state, stage)
    own = stream.tasks[stage - 1] if stage else None
    lists_all = own is not None and own.seen == stream.labels  # already, as in a series of domains
    # the stage's task once more, under the class list of the end of the stream
    again = own if config.final_list and not state.method.joint and not lists_all else None
    # of the base and after every stage that trained; a frozen base need not be asked again
    probed = stage == 0 or state.method.family != "frozen" or stage == len(stream)
    glyphs = glyph_probe(config.probe, state.config.stream.style) if probed and config.probe > 0 else None
    sets = state.probes if probed else ()
    single = sum(len(one.test) for one in (again, glyphs) if one is not None)
    items = sum(len(new) for _, new in due) + single + sum(len(one.probes) for one in sets)
    state.reporter.begin(state.config.cell, f"task {stage}/{len(stream)} test", items)
    known: dict[str, Prediction] = {}  # the last answer about each item
    for task, new in due:
        seen = stream.tasks[max(stage, task.index) - 1].seen
        if new:
            known |= {one.key: one for one in answers(state, replace(task, test=new), seen, stage, session)}
        predictions = [replace(known[item.key], task=task.index) for item in task.test]
        record.predictions += predictions
        record.cells[task.index] = task_accuracy(task, predictions)
    complete = {task.index for task, _ in due if len(task.test) == len(stream.tasks[task.index - 1].test)}
    if own is not None and measure_of(stream) == POOLED_BOX_AP and complete >= {*range(1, stage + 1)}:
        record.pooled = pooled_ap((one for one in record.predictions if one.task <= stage), own.seen)
    if again is not None:
        record.final_list_predictions = answers(state, again, stream.labels, stage, session)
        record.final_list[stage] = task_accuracy(again, record.final_list_predictions)
    elif stage in record.cells and lists_all:
        record.final_list[stage] = record.cells[stage]
    if glyphs is not None:
        record.probe[BUILT_IN] = fmean(
            one.correct for one in answers(state, glyphs, glyphs.seen, stage, state.policy.session())
        )
    for one in sets:
        record.probe_answers[one.name] = ask(
            lambda requests: state.policy.generate(requests, decoding_of(state, stage, config.probe_tokens)),
            one,
            stage=stage,
            batch_size=config.batch_size,
            fit=image_fit(state.policy.processor),
            on_batch=lambda done: state.reporter.advance(state.config.cell, done),
            spread=ranks.Batches() if ranks.world_size() > 1 else None,
        )
        record.probe[one.name] = fmean(answer.correct for answer in record.probe_answers[one.name])
    record.seconds["evaluate"] = time.perf_counter() - start


def due_tests(state: Run, stage: int) -> list[tuple[Task, tuple[Example, ...]]]:
    """Tasks tested at a stage, with the items they are tested on, each with those of them that are asked for it.

    Tasks learned so far share one class list: an item that several of them have is asked for the first. The others, due
    when ``evaluate.future``, have lists of their own, so all of their items are asked.
    """
    config, tasks = state.config.evaluate, state.stream.tasks
    learned = learned_tests(tasks[:stage], len(tasks), config.every, config.sample)
    asked = list(zip(learned, new_test_items(learned), strict=True))
    others = tasks[stage:] if config.future and stage % config.every == 0 else ()
    return asked + [(task, task.test) for task in others]


def learned_tests(learned: Sequence[Task], last: int, every: int, sample: int | None) -> list[Task]:
    """The tasks learned so far that are tested now, the newest last, with the items that each is tested on.

    The newest always, on all of its items; those before it after every so many tasks, on a sample that is the same each
    time; all, on all of their items, after the last task. So R[j,j] and R[T,j] are of all items whatever the rule.

    Args:
        learned: in their order.
        last: number of the stream's tasks.
        every: ``evaluate.every``.
        sample: ``evaluate.sample``.
    """
    if len(learned) == last:
        return list(learned)
    earlier = learned[:-1] if len(learned) % every == 0 else ()
    return [replace(task, test=sampled(task.test, sample)) for task in earlier] + list(learned[-1:])


def sampled(items: tuple[Example, ...], count: int | None) -> tuple[Example, ...]:
    """The items whose keys have the lowest SHA-256, in their order: the same in every order, for every method."""
    if count is None or count >= len(items):
        return items
    lowest = sorted(hashlib.sha256(item.key.encode()).digest() for item in items)[count - 1]
    return tuple(item for item in items if hashlib.sha256(item.key.encode()).digest() <= lowest)


def glyph_probe(items: int, style: PromptStyle) -> Task:
    """The general-ability probe of the embedded model as a task outside the stream (index 0)."""
    examples = glyph_examples(items, PROBE_SEED)
    labels = tuple(sorted({example.label for example in examples}))
    return Task(0, BUILT_IN, labels, labels, (), examples, style=style)


def answers(state: Run, task: Task, seen: tuple[str, ...], stage: int, session: Session) -> list[Prediction]:
    """Predictions of the policy for a task's test items; ``session``: what the stage's answers so far have left."""
    config = state.config
    decoding = decoding_of(state, stage, config.train.max_completion_tokens)
    task_of = {label: state.stream.task_of(label) for label in state.stream.labels} if task.index else {}
    return evaluate(
        lambda requests: state.policy.generate(requests, decoding, session),
        task,
        seen,
        stage=stage,
        task_of=task_of or dict.fromkeys(seen, 0),
        batch_size=config.evaluate.batch_size,
        fit=image_fit(state.policy.processor),
        on_batch=lambda done: state.reporter.advance(config.cell, done),
        spread=ranks.Batches() if ranks.world_size() > 1 else None,
    )


def decoding_of(state: Run, stage: int, limit: int) -> Decoding:
    """How completions of at most ``limit`` tokens are drawn in a stage's evaluation."""
    evaluation = state.config.evaluate
    sampled = evaluation.decoding == "sampled"
    return Decoding(
        max_new_tokens=limit,
        temperature=evaluation.temperature if sampled else 0.0,
        top_p=evaluation.top_p if sampled else 1.0,
        seed=stage_rng(state.config.seed, stage),
    )


def write_stage(state: Run, stage: int, record: StageRecord, work: PartialCheckpoint | None) -> None:
    """Write a stage's folder whole: what its training left, and what its test found; then drop what it replaces.

    That is the unfinished work and, when only the last weights are kept, those of the stage before, its anchor too.
    """
    with whole_folder(stage_folder(state.folder, stage)) as folder:
        if work is not None:
            # what the next task starts from is there already; copied where links cannot be
            only_here = shutil.ignore_patterns(STEPS_FILE, TRAINING_FILE)  # written anew with the record
            shutil.copytree(work.trained, folder, copy_function=link_or_copy, dirs_exist_ok=True, ignore=only_here)
        else:
            write_lineage(folder, stage, state.parent, state.config, state.data, state.base.identity)
        write_record(folder, record)
    if work is not None:
        clear(state.folder, stage)
    if state.config.run.keep_weights == "last" and stage >= 2:
        before = stage_folder(state.folder, stage - 1)
        shutil.rmtree(before / WEIGHTS_FOLDER, ignore_errors=True)
        for name in (MOMENTS_FILE, ANCHOR_FILE):
            (before / name).unlink(missing_ok=True)
