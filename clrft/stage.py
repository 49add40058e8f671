"""One stage of a run: train on a task, test every task due, write the stage's folder whole."""

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from clrft import interrupt
from clrft.checkpoint import (
    ANCHOR_FILE,
    MOMENTS_FILE,
    WEIGHTS_FOLDER,
    StageRecord,
    stage_folder,
    stage_rng,
    write_anchor,
    write_learned,
    write_record,
)
from clrft.config import RunConfig
from clrft.files import whole_folder
from clrft.method_anchor import anchor_unchanged
from clrft.progress import Reporter
from clrft.provenance import peak_gpu_memory_mb, peak_memory_mb
from eval.cell import cell_of
from eval.evaluate import Prediction, accuracy, evaluate
from methods.anchor import Anchors
from methods.base import Method, TaskContext
from methods.fit import FitResult, FitSettings, StepRow, fit, planned_updates, with_memory
from methods.fit_image import image_fit
from methods.memory import remembered
from methods.policy import Decoding, Policy, Snapshot
from methods.settings import TrainConfig
from task_streams.config import SourceConfig
from task_streams.glyphs import glyph_examples
from task_streams.split import joint_task
from task_streams.types import Example, Task, TaskStream

PROBE = "printed_glyphs"
PROBE_SEED = 7
FILE_WORKERS = 2
OnStep = Callable[[StepRow], None]


@dataclass(slots=True)
class Run:
    """A run in progress: what was asked, what it works on, and where it stands."""

    config: RunConfig
    stream: TaskStream
    policy: Policy
    method: Method
    reporter: Reporter
    reference: Snapshot | None = None
    anchors: Anchors | None = None
    anchor: Snapshot | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Run folder."""
        return self.config.folder

    @property
    def tasks(self) -> list[Task]:
        """What is learned, stage by stage; a joint method learns the union of all tasks as the last stage."""
        return [joint_task(self.stream)] if self.method.joint else list(self.stream.tasks)

    @property
    def stages(self) -> list[int]:
        """Stages of the run; 0 is the base before any training."""
        return [0, len(self.stream)] if self.method.joint else list(range(len(self.stream) + 1))


def learn_stage(state: Run, stage: int, on_step: OnStep) -> None:
    """Train (from stage 1 on), evaluate, and write the stage's folder whole; ``on_step`` gets every update."""
    record = StageRecord(stage, stage_name(state, stage))
    with whole_folder(stage_folder(state.folder, stage)) as folder:
        if stage > 0 and state.method.family != "frozen":
            fitted = train_stage(state, stage, folder / "scratch", record, on_step)
            state.moments = fitted.moments
            write_learned(folder, state.policy, state.method, stage, fitted.moments)
            keep_anchor(state, stage, folder)
        evaluate_stage(state, stage, record)
        record.peak_memory_mb = peak_memory()
        write_record(folder, record)


def keep_anchor(state: Run, stage: int, folder: Path) -> None:
    """Bring the anchor of the next task up to date, and write what a restart could not make again."""
    if state.anchors is not None and stage != state.stages[-1]:
        state.anchors.end()
        write_anchor(folder, state.anchors)


def peak_memory() -> dict[str, float]:
    """Highest memory of the process so far, MB: resident, and allocated on the GPU where there is one."""
    gpu = peak_gpu_memory_mb()
    return {"peak_memory_mb": peak_memory_mb(), **({} if gpu is None else {"peak_gpu_memory_mb": gpu})}


def stage_name(state: Run, stage: int) -> str:
    """Name of what a stage learns."""
    if stage == 0:
        return "base"
    return "joint" if state.method.joint else state.stream.tasks[stage - 1].name


def train_stage(state: Run, stage: int, scratch: Path, record: StageRecord, on_step: OnStep) -> FitResult:
    """Fit the stage's task, with its anchor and the moments that the stage before left."""
    config = state.config
    task = state.tasks[0] if state.method.joint else state.tasks[stage - 1]
    first = state.method.joint or stage == 1
    state.anchor = None  # the old one goes before the new one comes
    state.anchor = None if state.anchors is None or first else state.anchors.begin()
    seed = stage_rng(config.seed, stage)
    context = TaskContext(task, state.policy, state.anchor, seed, config.stream.think, memory(state, task))
    settings = FitSettings(stage_budget(state), config.stream.think, scratch, loading_workers(state))
    examples = len(with_memory(state.method, context).task.train)
    total = planned_updates(state.method, settings.train, examples)
    state.reporter.begin(config.cell, f"task {stage}/{len(state.stream)} train", total)

    def report(row: StepRow) -> None:
        interrupt.check()
        state.reporter.advance(config.cell, 1, step_figures(row))
        on_step(row)

    start = time.perf_counter()
    with anchor_unchanged(state.anchor, state.method):
        fitted = fit(state.method, context, state.reference, settings, state.moments, report)
    record.seconds["train"] = time.perf_counter() - start
    record.steps = fitted.steps
    shutil.rmtree(scratch, ignore_errors=True)  # TRL makes it and leaves it empty
    return fitted


def memory(state: Run, task: Task) -> tuple[Example, ...]:
    """Examples of earlier tasks, for a method that declares that it replays."""
    plan = state.method.replay
    earlier = [other for other in state.tasks if other.index < task.index]
    if plan is None or "replay" not in state.method.needs or not earlier:
        return ()
    return remembered(earlier, plan.items, state.config.seed)


def loading_workers(state: Run) -> int:
    """Processes that decode ahead of the training: as set, else two for data in files and a model on a GPU."""
    if state.config.train.workers is not None:
        return state.config.train.workers
    return FILE_WORKERS if isinstance(state.config.stream, SourceConfig) and state.policy.device.type == "cuda" else 0


def stage_budget(state: Run) -> TrainConfig:
    """The training budget of one stage: a joint run gets that of all its tasks together."""
    train = state.config.train
    return dataclasses.replace(train, updates=train.updates * len(state.stream)) if state.method.joint else train


def step_figures(row: StepRow) -> str:
    """The figures of an update that fit on a progress line."""
    shown = [("reward", "reward"), ("loss", "loss"), ("drift", "drift")]
    return "  ".join(f"{label} {row[key]:.3f}" for key, label in shown if key in row)


def evaluate_stage(state: Run, stage: int, record: StageRecord) -> None:
    """Test every task due at this stage, and the general-ability probe."""
    start = time.perf_counter()
    due = [task for task in state.stream.tasks if is_due(state, stage, task)]
    probe = glyph_probe(state.config.evaluate.probe) if probe_due(state, stage) else None
    items = sum(len(task.test) for task in due) + (len(probe.test) if probe else 0)
    state.reporter.begin(state.config.cell, f"task {stage}/{len(state.stream)} test", items)
    for task in due:
        seen = state.stream.tasks[max(stage, task.index) - 1].seen
        predictions = answers(state, task, seen, stage)
        record.predictions += predictions
        record.cells[task.index] = cell_of(task, predictions)
    if probe is not None:
        record.probe[PROBE] = accuracy(answers(state, probe, probe.seen, stage))
    record.seconds["evaluate"] = time.perf_counter() - start


def is_due(state: Run, stage: int, task: Task) -> bool:
    """Whether a task is tested at a stage: all learned so far; the others too when ``evaluate.future``."""
    return task.index <= stage or state.config.evaluate.future


def probe_due(state: Run, stage: int) -> bool:
    """The probe is asked of the base and after every stage that trained; a frozen base need not be asked again."""
    if state.config.evaluate.probe == 0:
        return False
    return stage == 0 or state.method.family != "frozen" or stage == len(state.stream)


def answers(state: Run, task: Task, seen: tuple[str, ...], stage: int) -> list[Prediction]:
    """Predictions of the policy for a task's test items."""
    config = state.config
    sampled = config.evaluate.decoding == "sampled"
    decoding = Decoding(
        max_new_tokens=config.train.max_completion_tokens,
        temperature=config.evaluate.temperature if sampled else 0.0,
        top_p=config.evaluate.top_p if sampled else 1.0,
        seed=stage_rng(config.seed, stage),
    )
    task_of = {label: state.stream.task_of(label) for label in state.stream.labels} if task.index else {}
    return evaluate(
        lambda requests: state.policy.generate(requests, decoding),
        task,
        seen,
        stage=stage,
        task_of=task_of or dict.fromkeys(seen, 0),
        think=config.stream.think,
        batch_size=config.evaluate.batch_size,
        fit=image_fit(state.policy.processor),
        on_batch=lambda items: state.reporter.advance(config.cell, items),
    )


def glyph_probe(items: int) -> Task:
    """The general-ability probe of the embedded model as a task outside the stream (index 0)."""
    examples = glyph_examples(items, PROBE_SEED)
    labels = tuple(sorted({example.label for example in examples}))
    return Task(0, PROBE, labels, labels, (), examples)


def drop_older_weights(state: Run, stage: int) -> None:
    """Drop the weights of the stage before, its anchor too, when only the last are kept."""
    if state.config.run.keep_weights != "last" or stage < 2:
        return
    before = stage_folder(state.folder, stage - 1)
    shutil.rmtree(before / WEIGHTS_FOLDER, ignore_errors=True)
    for name in (MOMENTS_FILE, ANCHOR_FILE):
        (before / name).unlink(missing_ok=True)
