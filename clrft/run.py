"""One run: for each task fit, evaluate, record, save.

Everything that a user can get wrong is checked in ``prepare``, before any work. A run that was stopped goes on
after its last finished task.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from clrft.base import default_model_path
from clrft.checkpoint import (
    StageRecord,
    finished_stage,
    read_learned,
    stage_folder,
    stage_rng,
    write_learned,
    write_record,
)
from clrft.config import RunConfig
from clrft.files import check_writable, clean_partials, read_json, whole_folder, write_json_atomic
from clrft.manifest import check_same_config, run_manifest, write_config
from clrft.progress import Reporter
from clrft.provenance import peak_gpu_memory_mb, peak_memory_mb
from clrft.tracking import CellTracker, Tracker
from eval.evaluate import Prediction, accuracy, evaluate
from eval.matrix import AccuracyMatrix
from eval.metrics import METRICS, Value, compute_metrics, general_delta
from methods import build_method
from methods.base import Method, TaskContext
from methods.fit import FitResult, FitSettings, StepRow, check_batch, fit
from methods.model_config import describe_model
from methods.policy import Decoding, Policy, Snapshot, load_policy
from task_streams import build_stream
from task_streams.errors import UserError
from task_streams.fingerprint import check_stream
from task_streams.glyphs import glyph_examples
from task_streams.prompt import request
from task_streams.split import joint_task
from task_streams.types import Task, TaskStream

PROBE = "printed_glyphs"
PROBE_SEED = 7
RESULT_SCHEMA = 1


@dataclass(slots=True)
class Run:
    """A run in progress: what was asked, what it works on, and where it stands."""

    config: RunConfig
    stream: TaskStream
    policy: Policy
    method: Method
    reporter: Reporter
    reference: Snapshot | None = None
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


def is_complete(config: RunConfig) -> bool:
    """Whether the run's folder holds a finished run of the same settings.

    Raises:
        UserError: it holds a run of other settings.
    """
    if not (config.folder / "config.yaml").exists():
        return False
    check_same_config(config)
    return (config.folder / "metrics.json").is_file()


def run(config: RunConfig, reporter: Reporter) -> Path:
    """Run one cell from where it stands to its end; returns its folder.

    Raises:
        UserError: something about the input cannot work; nothing was trained.
    """
    if is_complete(config):
        reporter.say(f"{config.cell}: done already, in {config.folder}")
        return config.folder
    state = prepare(config, reporter)
    tracker = Tracker(Path(config.run.output), config.run.sweep, enabled=config.run.mlflow)
    manifest = open_folder(state)
    cell = tracker.cell(config.cell, config.to_dict(), manifest)
    done = finished_stage(state.folder, state.stages)
    if done:
        state.moments = read_learned(stage_folder(state.folder, done), state.policy, state.method, done)
        reporter.say(f"{config.cell}: going on after task {done}")
    for stage in state.stages:
        if done is None or stage > done:
            learn_stage(state, stage)
            forget_weights(state, stage)
        track_stage(state, cell, stage)
    finish(state, cell)
    return state.folder


def prepare(config: RunConfig, reporter: Reporter) -> Run:
    """Build stream, model and method, and check all that can be checked before any work."""
    check_writable(config.folder.parent)
    stream = build_stream(config.stream_name, config.stream, config.seed)
    problems = check_stream(stream)
    if problems:
        raise UserError(*problems)
    policy = load_policy(config.model, config.model.path or str(default_model_path()))
    method = build_method(config.method_name, config.method)
    state = Run(config, stream, policy, method, reporter)
    check_prompts(state)
    if method.family != "frozen":
        for task in state.tasks:
            check_batch(method, TaskContext(task, policy, None, 0), config.train)
    if "reference" in method.needs and not policy.has_adapter:
        state.reference = policy.snapshot()
    return state


def check_prompts(state: Run) -> None:
    """Refuse a stream whose longest prompt, with all classes listed, exceeds the limit."""
    limit = state.config.train.max_prompt_tokens
    last = state.stream.tasks[-1]
    example = (last.train or last.test)[0]
    tokens = state.policy.prompt_length(request(example, state.stream.labels, state.config.stream.think))
    if tokens > limit:
        raise UserError(
            f"train.max_prompt_tokens: got {limit}, but the last task's prompt ({len(state.stream.labels)} classes "
            f"and the image) has {tokens} tokens; expected a limit of at least {tokens}, fewer classes, or a lower "
            "model.max_pixels. Prompts are never cut."
        )


def open_folder(state: Run) -> dict[str, Any]:
    """Make the run folder with its config and manifest, or check that the one there is this run's."""
    state.folder.mkdir(parents=True, exist_ok=True)
    clean_partials(state.folder)
    manifest_file = state.folder / "manifest.json"
    if manifest_file.exists():
        check_same_config(state.config)
        manifest = read_json(manifest_file)
        check_same_data(state, manifest)
        return manifest
    manifest = run_manifest(state.config, state.stream, describe_model(state.policy), state.method)
    write_config(state.config)
    write_json_atomic(manifest_file, manifest)
    return manifest


def check_same_data(state: Run, manifest: Mapping[str, Any]) -> None:
    """Refuse to go on with data that are not those the run began with."""
    fresh = run_manifest(state.config, state.stream, describe_model(state.policy), state.method)
    if fresh["data"] != manifest.get("data"):
        raise UserError(
            f"{state.folder}: the stream's data are not those this run began with (fingerprints differ); restore "
            "them or start a new run."
        )


def learn_stage(state: Run, stage: int) -> None:
    """Train (from stage 1 on), evaluate, and write the stage's folder whole."""
    record = StageRecord(stage, stage_name(state, stage))
    with whole_folder(stage_folder(state.folder, stage)) as folder:
        if stage > 0 and state.method.family != "frozen":
            fitted = train_stage(state, stage, folder / "scratch", record)
            state.moments = fitted.moments
            write_learned(folder, state.policy, state.method, stage, fitted.moments)
        evaluate_stage(state, stage, record)
        record.peak_memory_mb = peak_memory_mb()
        gpu = peak_gpu_memory_mb()
        if gpu is not None:
            record.seconds["peak_gpu_memory_mb"] = gpu
        write_record(folder, record)


def stage_name(state: Run, stage: int) -> str:
    """Name of what a stage learns."""
    if stage == 0:
        return "base"
    return "joint" if state.method.joint else state.stream.tasks[stage - 1].name


def train_stage(state: Run, stage: int, scratch: Path, record: StageRecord) -> FitResult:
    """Fit the stage's task, with the anchor and the moments that the stage before left."""
    config = state.config
    task = state.tasks[0] if state.method.joint else state.tasks[stage - 1]
    first = state.method.joint or stage == 1
    state.anchor = state.policy.snapshot() if "anchor" in state.method.needs and not first else None
    context = TaskContext(task, state.policy, state.anchor, stage_rng(config.seed, stage))
    settings = FitSettings(stage_budget(state), config.stream.think, scratch)
    total = settings.train.updates if config.train.epochs is None else 0
    state.reporter.begin(config.cell, f"task {stage}/{len(state.stream)} train", total)

    def on_step(row: StepRow) -> None:
        state.reporter.advance(config.cell, 1, step_figures(row))

    start = time.perf_counter()
    fitted = fit(state.method, context, state.reference, settings, state.moments, on_step)
    record.seconds["train"] = time.perf_counter() - start
    record.steps = fitted.steps
    if scratch.exists():
        scratch.rmdir()
    return fitted


def stage_budget(state: Run) -> Any:
    """The training budget of one stage: a joint run gets that of all its tasks together."""
    import dataclasses

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
        record.predictions += answers(state, task, seen, stage)
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
        on_batch=lambda items: state.reporter.advance(config.cell, items),
    )


def glyph_probe(items: int) -> Task:
    """The general-ability probe of the embedded model as a task outside the stream (index 0)."""
    examples = glyph_examples(items, PROBE_SEED)
    labels = tuple(sorted({example.label for example in examples}))
    return Task(0, PROBE, labels, labels, (), examples)


def forget_weights(state: Run, stage: int) -> None:
    """Drop the weights of the stage before when only the last are kept."""
    import shutil

    from clrft.checkpoint import MOMENTS_FILE, WEIGHTS_FOLDER

    if state.config.run.keep_weights != "last" or stage < 2:
        return
    before = stage_folder(state.folder, stage - 1)
    shutil.rmtree(before / WEIGHTS_FOLDER, ignore_errors=True)
    (before / MOMENTS_FILE).unlink(missing_ok=True)


def track_stage(state: Run, cell: CellTracker, stage: int) -> None:
    """Feed a finished stage to the tracking store, from its files."""
    if stage > 0:
        cell.feed_task(stage_folder(state.folder, stage), stage, stage_name(state, stage))


def finish(state: Run, cell: CellTracker) -> None:
    """Matrix and metrics from the stages' files; ``metrics.json`` comes last and marks the run complete."""
    matrix = matrix_from_files(state)
    values = run_metrics(state, matrix)
    write_json_atomic(state.folder / "matrix.json", matrix.to_json())
    body = {key: {"value": value.value, "reason": value.reason} for key, value in values.items()}
    write_json_atomic(state.folder / "metrics.json", {"schema": RESULT_SCHEMA, "metrics": body})
    cell.finish(state.folder)


def matrix_from_files(state: Run) -> AccuracyMatrix:
    """The accuracy matrix from every stage's counts."""
    matrix = AccuracyMatrix.empty([task.name for task in state.stream.tasks])
    for stage in state.stages:
        record = read_json(stage_folder(state.folder, stage) / "metrics.json")
        cells = {int(j): (record["correct"][j], record["total"][j]) for j in record["correct"]}
        if stage == 0:
            matrix = matrix.with_base({j: correct / total for j, (correct, total) in cells.items()})
        else:
            matrix = matrix.with_row(stage, cells)
    return matrix


def run_metrics(state: Run, matrix: AccuracyMatrix) -> dict[str, Value]:
    """The metrics asked for: those of the matrix, and the change on the probes."""
    asked = state.config.evaluate.metrics
    values = compute_metrics(matrix, [key for key in asked if METRICS[key].compute is not None])
    if "general_delta" in asked:
        before, after = (
            read_json(stage_folder(state.folder, stage) / "metrics.json")["probe"]
            for stage in (state.stages[0], state.stages[-1])
        )
        values |= general_delta(before, after)
    return values
