"""One stage of a run: train on a task, test every task due, write the stage's folder whole."""

import shutil
import time
from dataclasses import replace

from clrft.runner.checkpoint import StageRecord, stage_rng, write_record
from clrft.runner.cost_timer import counted
from clrft.runner.drift import measure_drift
from clrft.runner.lineage import identity_of, write_lineage
from clrft.runner.partial_checkpoint import PartialCheckpoint
from clrft.runner.probes import BUILT_IN, ask_probes
from clrft.runner.state import Run, stage_name
from clrft.runner.train import OnStep, learn_task
from clrft.runs.layout import ANCHOR_FILE, MOMENTS_FILE, STEPS_FILE, TRAINING_FILE, WEIGHTS_FOLDER, stage_folder
from clrft.runs.provenance import peak_gpu_memory_mb, peak_memory_mb
from clrft.utils.files import link_or_copy, whole_folder
from eval.evaluate import Prediction, accuracy, evaluate
from eval.matrix import POOLED_BOX_AP
from eval.task_accuracy import measure_of, pooled_ap, task_accuracy
from methods.distributed import ranks
from methods.distributed.sharding import whole
from methods.generation.answers import Session
from methods.inputs.fit_image import image_fit
from methods.model.config import Decoding
from methods.model.snapshots import FullSnapshot
from task_streams.probes.glyphs import glyph_examples
from task_streams.prompt_style import PromptStyle
from task_streams.types import Example, Task, new_test_items

PROBE = BUILT_IN
PROBE_SEED = 7


def learn_stage(state: Run, stage: int, on_step: OnStep) -> None:
    """Train (from stage 1 on), evaluate, and write the stage's folder whole; ``on_step`` gets every update."""
    record = StageRecord(stage, stage_name(state, stage))
    learns = stage > 0 and state.method.family != "frozen"
    work = learn_task(state, stage, record, on_step) if learns else None
    copies = {id(one): one for one in (state.reference, state.anchor) if isinstance(one, FullSnapshot)}
    with whole(state.policy.model, *(one.model for one in copies.values())):
        measure_drift(state, stage, record)
        with counted(state, record, "evaluate"):
            evaluate_stage(state, stage, record)
    gpu = peak_gpu_memory_mb()
    record.peak_memory_mb = {"peak_memory_mb": peak_memory_mb(), **({} if gpu is None else {"peak_gpu_memory_mb": gpu})}
    ranks.on_rank0(lambda: write_stage(state, stage, record, work))
    state.parent = identity_of(state.folder, stage)
    if work is not None:
        ranks.on_rank0(work.clear)


def write_stage(state: Run, stage: int, record: StageRecord, work: PartialCheckpoint | None) -> None:
    """Write a stage's folder whole: what its training left, and what its test found."""
    with whole_folder(stage_folder(state.folder, stage)) as folder:
        if work is not None:
            # what the next task starts from is there already; copied where links cannot be
            only_here = shutil.ignore_patterns(STEPS_FILE, TRAINING_FILE)  # written anew with the record
            shutil.copytree(work.trained, folder, copy_function=link_or_copy, dirs_exist_ok=True, ignore=only_here)
        else:
            write_lineage(folder, stage, state.parent, state.config, state.data)
        write_record(folder, record)


def evaluate_stage(state: Run, stage: int, record: StageRecord) -> None:
    """Test every task due at this stage, and the general-ability probe."""
    start = time.perf_counter()
    session = state.policy.session()
    due = due_tests(state, stage)
    probe = None
    if state.config.evaluate.probe > 0 and probes_due(state, stage):
        probe = glyph_probe(state.config.evaluate.probe, state.config.stream.style)
    again = final_list_task(state, stage)
    sets = state.probes if probes_due(state, stage) else ()
    items = sum(len(new) for _, new in due) + (len(probe.test) if probe else 0) + (len(again.test) if again else 0)
    items += sum(len(one.probes) for one in sets)
    state.reporter.begin(state.config.cell, f"task {stage}/{len(state.stream)} test", items)
    known: dict[str, Prediction] = {}  # the last answer about each item
    for task, new in due:
        seen = state.stream.tasks[max(stage, task.index) - 1].seen
        if new:
            known |= {one.key: one for one in answers(state, replace(task, test=new), seen, stage, session)}
        predictions = [replace(known[item.key], task=task.index) for item in task.test]
        record.predictions += predictions
        record.cells[task.index] = task_accuracy(task, predictions)
    if stage and measure_of(state.stream) == POOLED_BOX_AP:
        so_far = (one for one in record.predictions if one.task <= stage)
        record.pooled = pooled_ap(so_far, state.stream.tasks[stage - 1].seen)
    if again is not None:
        record.final_list_predictions = answers(state, again, state.stream.labels, stage, session)
        record.final_list[stage] = task_accuracy(again, record.final_list_predictions)
    elif stage in record.cells and lists_all(state, stage):
        record.final_list[stage] = record.cells[stage]
    if probe is not None:
        record.probe[PROBE] = accuracy(answers(state, probe, probe.seen, stage, state.policy.session()))
    if sets:
        ask_probes(state, stage, record, decoding_of(state, stage, state.config.evaluate.probe_tokens))
    record.seconds["evaluate"] = time.perf_counter() - start


def due_tests(state: Run, stage: int) -> list[tuple[Task, tuple[Example, ...]]]:
    """Tasks tested at a stage, each with those of its items that are asked for it.

    Tasks learned so far share one class list: an item that several of them have is asked for the first. The others, due
    when ``evaluate.future``, have lists of their own, so all of their items are asked.
    """
    learned, others = state.stream.tasks[:stage], state.stream.tasks[stage:]
    asked = list(zip(learned, new_test_items(learned), strict=True))
    return asked + [(task, task.test) for task in others if state.config.evaluate.future]


def final_list_task(state: Run, stage: int) -> Task | None:
    """The task that is asked once more, under the class list of the end of the stream; None if there is no need."""
    asked = state.config.evaluate.final_list and stage > 0 and not state.method.joint
    return state.stream.tasks[stage - 1] if asked and not lists_all(state, stage) else None


def lists_all(state: Run, stage: int) -> bool:
    """Whether the prompts of a stage list every class of the stream already, as in a series of domains."""
    return stage > 0 and state.stream.tasks[stage - 1].seen == state.stream.labels


def probes_due(state: Run, stage: int) -> bool:
    """Probes are asked of the base and after every stage that trained; a frozen base need not be asked again."""
    return stage == 0 or state.method.family != "frozen" or stage == len(state.stream)


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
        on_batch=lambda items: state.reporter.advance(config.cell, items),
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


def glyph_probe(items: int, style: PromptStyle) -> Task:
    """The general-ability probe of the embedded model as a task outside the stream (index 0)."""
    examples = glyph_examples(items, PROBE_SEED)
    labels = tuple(sorted({example.label for example in examples}))
    return Task(0, PROBE, labels, labels, (), examples, style=style)


def drop_older_weights(state: Run, stage: int) -> None:
    """Drop the weights of the stage before, its anchor too, when only the last are kept."""
    if state.config.run.keep_weights != "last" or stage < 2:
        return
    before = stage_folder(state.folder, stage - 1)
    shutil.rmtree(before / WEIGHTS_FOLDER, ignore_errors=True)
    for name in (MOMENTS_FILE, ANCHOR_FILE):
        (before / name).unlink(missing_ok=True)
