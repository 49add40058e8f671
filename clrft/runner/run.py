"""One run: for each task fit, evaluate, record, save.

Everything that a user can get wrong is checked in ``prepare``, before any work. A run that was stopped goes on
after its last finished task.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from clrft.base_model import default_model_path
from clrft.config.records import MANIFEST, MANIFEST_OTHERS, read_record
from clrft.config.run_config import RunConfig
from clrft.memory.estimate import Longest
from clrft.runner.checkpoint import finished_stage
from clrft.runner.disk_check import check_space
from clrft.runner.fork_folder import check_has_forked, is_fork_point, plant, take_over
from clrft.runner.fork_source import Source
from clrft.runner.lineage import check_lineage, config_digest, identity_of
from clrft.runner.memory_check import affordable, check_memory, longest_among
from clrft.runner.outcome import is_complete, is_done
from clrft.runner.partial_checkpoint import clear_finished
from clrft.runner.probes import check_probe_prompts, read_probes
from clrft.runner.results import write_results
from clrft.runner.stage import drop_older_weights, learn_stage
from clrft.runner.state import Run, stage_name
from clrft.runner.train import put_back
from clrft.runs.fork_history import origins_of
from clrft.runs.layout import stage_folder
from clrft.runs.manifest import check_same_data, check_same_plugins, run_manifest, write_config
from clrft.runs.provenance import forget_peaks
from clrft.tracking.runs import CellTracker, TaskTracker, Tracker, manifest_tags, mark
from clrft.tracking.sync import feed_or_tell
from clrft.utils.files import check_writable, clean_partials, write_json_atomic
from clrft.utils.progress import Reporter
from methods import build_method
from methods.base import Method, TaskContext
from methods.distributed import ranks
from methods.distributed.sharding import shard
from methods.generation.shared_prefix import obstacle
from methods.generation.static_decode import graph_obstacle
from methods.generation.vllm import vllm_obstacles
from methods.inputs.encoding import encoded_requests
from methods.inputs.media import preferred_feed
from methods.model.anchor import Anchors, anchor_problems
from methods.model.config import describe_model
from methods.model.numerics import training_problems
from methods.model.policy import load_policy, load_processor
from methods.registry import method_class
from methods.settings import AUTO, PLAIN
from methods.training.fit import check_batch
from task_streams import Workspace, build_stream
from task_streams.errors import UserError
from task_streams.probes.sets import ProbeSet, fingerprints_of
from task_streams.prompt import request, target_text
from task_streams.scenarios.fingerprint import check_stream
from task_streams.types import Example, Feed, Question, TaskStream

PROMPTS_LOOKED_AT = 4  # of each task, before any work


def run(config: RunConfig, reporter: Reporter, source: Source | None = None) -> Path:
    """Run one cell from where it stands to its end; returns its folder.

    Args:
        config: its settings.
        reporter: shows progress.
        source: the stage that it is forked from where it has no folder yet; None = it learns from the first task on.

    Raises:
        UserError: something about the input cannot work; nothing was trained.
    """
    if ranks.on_rank0(lambda: is_complete(config)):
        reporter.say(f"{config.cell}: done already, in {config.folder}")
        ranks.on_rank0(lambda: feed_tracking(config))
        return config.folder
    spare_libraries()
    forget_peaks()
    state = ranks.all_or_fail(lambda: prepare(config, reporter, source))
    if source is not None:
        ranks.on_rank0(lambda: plant_once(state, source))
    tracker = Tracker(Path(config.run.output), config.run.sweep, enabled=config.run.mlflow and ranks.is_rank0())
    ranks.on_rank0(lambda: make_folder(state))
    manifest = ranks.all_or_fail(lambda: open_folder(state))
    cell = tracker.cell(config.cell, config.to_dict(), manifest_tags(manifest))
    with stopped_with_run(cell):
        learn(state, cell)
    ranks.on_rank0(lambda: finish(state, cell))
    return config.folder


@cache
def spare_libraries() -> None:
    """Let garbage collections pass over what importing the libraries has made: it stays as long as the process.

    A trainer collects garbage when it begins; without this each task waits a third of a second for it.
    """
    gc.collect()
    gc.freeze()


def finish(state: Run, cell: CellTracker) -> None:
    """Write the results of a run whose every stage is done, and close it in the tracking store."""
    names = [task.name for task in state.stream.tasks]
    write_results(state.folder, names, state.stages, state.config.evaluate.metrics)
    finish_tracking(state.config, cell)


def plant_once(state: Run, source: Source) -> None:
    """Make a fork's folder if there is none yet."""
    if not (state.folder / "manifest.json").exists():
        plant(state, source)


@contextmanager
def stopped_with_run(cell: CellTracker) -> Iterator[None]:
    """Close the tracked run with its end when the block fails; the failure itself goes on."""
    try:
        yield
    except BaseException as failure:
        cell.stop("KILLED" if isinstance(failure, KeyboardInterrupt) else "FAILED")
        raise


def prepare(config: RunConfig, reporter: Reporter, source: Source | None = None) -> Run:
    """Build stream, model and method, and check all that can be checked before any work."""
    check_writable(config.folder.parent)
    reporter.begin(config.cell, "reading data", None)
    probes = read_probes(config.evaluate.probes)
    path = config.model.path or str(default_model_path())
    processor = load_processor(config.model, path)
    feed = feed_of(config, processor, source)
    workspace = Workspace(cache_folder(config), lambda items: reporter.advance(config.cell, items), feed=feed)
    stream = build_stream(config.stream_name, config.stream, config.seed, workspace)
    problems = check_stream(stream)
    if problems:
        raise UserError(*problems)
    method = build_method(config.method_name, config.method, config.parts)
    longest = longest_prompts(config, stream, probes, processor)
    longest = replace(longest, answer=check_answers(config, stream, method, processor.tokenizer))
    policy = load_policy(config.model, path, config.seed, optimizer_of(config, longest, source), processor)
    policy.max_prompt_tokens, policy.share_prefix = config.train.max_prompt_tokens, config.train.share_prefix
    state = Run(config, stream, policy, method, reporter, probes=probes)
    problems = [*engine_problems(state), *graph_problems(state)]
    problems += [*training_problems(method, policy.numerics, policy.has_adapter), *anchor_problems(method, policy)]
    problems += method.problems(policy, state.tasks)
    split = ranks.weights_split()
    problems += split_problems(state) if split else []
    if problems:
        raise UserError(*problems)
    if split:
        shard(policy.model, split)
    check_probe_prompts(state)
    if method.family != "frozen":
        for task in state.tasks:
            check_batch(method, TaskContext(task, policy, None, 0), config.train)
    state.memory = {} if split else check_memory(state, longest)
    if "reference" in method.needs and not policy.has_adapter:
        state.reference = policy.snapshot(asked_only=True)
    if "anchor" in method.needs:
        state.anchors = Anchors(method.anchor_rule, policy, state.reference)
    return state


def engine_problems(state: Run) -> list[str]:
    """Sentences about settings of the rollouts that cannot work here; tells where a setting has no effect."""
    train, policy = state.config.train, state.policy
    if state.method.family != "reinforcement":
        return []
    why = obstacle(policy.model)
    if ranks.world_size() > 1 and (why is not None or not train.share_prefix):
        reason = why or "train.share_prefix is false"
        return [
            f"{ranks.world_size()} processes cannot share the rollouts of {state.method.name!r}: {reason}; expected a "
            "model of Qwen2-VL's family and train.share_prefix=true, or one process."
        ]
    if problems := vllm_obstacles(train, policy.device, ranks.world_size(), clips=state.stream.feed == "video"):
        return problems
    if train.share_prefix and why is not None:
        state.reporter.say(f"{state.config.cell}: prompts are computed for every rollout: {why}")
    return []


def graph_problems(state: Run) -> list[str]:
    """Sentences about recorded decoding steps that are asked for and cannot be; they are decided here otherwise."""
    train, policy = state.config.train, state.policy
    why = graph_obstacle(policy.model, policy.device) if train.share_prefix else "train.share_prefix is false"
    if train.cuda_graphs and why is not None:
        return [f"train.cuda_graphs: got true, but {why}; expected false, or null for where it can be."]
    split = ranks.weights_split() is not None  # they move
    policy.recorded = why is None and not split and train.records(policy.device.type)
    return []


def split_problems(state: Run) -> list[str]:
    """Sentences about a run whose weights cannot be split among processes."""
    method, config = state.method, state.config.model
    members = getattr(method, "members", (method,))
    where = "weights that are split among processes (FSDP, DeepSpeed)"
    problems = [
        f"method {one.name!r} looks at weights, so it cannot be used with {where}; expected MULTI_GPU, where "
        "every process has all of them, or another method."
        for one in members
        if not one.works_split
    ]
    if "anchor" in method.needs and method.anchor_rule.kind not in ("previous", "base"):
        problems.append(f"method.anchor: {method.anchor_rule} has no {where}; expected previous or base.")
    if state.policy.has_adapter:
        problems.append(f"model.adapter: got {config.adapter}, expected none with {where}.")
    if config.anchor_memory != "device":
        problems.append(f"model.anchor_memory: got {config.anchor_memory}, expected device with {where}.")
    if (why := obstacle(state.policy.model)) is not None:
        problems.append(f"model.path: {where} need a model of Qwen2-VL's family: {why}.")
    if state.config.train.cuda_graphs:
        problems.append(f"train.cuda_graphs: got true, expected false with {where}, which move.")
    return problems


def cache_folder(config: RunConfig) -> Path:
    """Folder, shared by all runs of an output folder, for what is kept of the data between runs."""
    return Path(config.run.output) / ".cache"


def longest_prompts(config: RunConfig, stream: TaskStream, probes: Sequence[ProbeSet], processor: Any) -> Longest:
    """How long a run's longest prompts are, all classes listed.

    Looked at are each task's longest questions; where only the size of an image makes the difference, a longer prompt
    may come up later and is refused then, by ``Policy.encode``.

    Raises:
        UserError: a prompt exceeds the limit.
    """
    limit, batches = config.train.max_prompt_tokens, []
    for example in looked_at(stream):
        asked = request(example, stream.labels, config.stream.style)
        batch = encoded_requests(processor, [asked], config.model.media, limit)
        batches.append({name: values for name, values in batch.items() if not name.startswith("pixel_values")})
    examples = [len(task.train) for task in stream.tasks]
    tested = [*(len(task.test) for task in stream.tasks), *(len(one.probes) for one in probes), config.evaluate.probe]
    joint = method_class(config.method_name).joint
    return replace(
        longest_among(batches, processor), examples=sum(examples) if joint else max(examples), items=max(tested)
    )


def feed_of(config: RunConfig, processor: Any, source: Source | None) -> Feed:
    """What ``stream.feed=auto`` stands for: what the run, or the one it is forked from, has begun with.

    Else what the model prefers. Runs of before there was a choice say in their settings what they have.
    """
    begun = config.folder / "manifest.json"
    if begun.exists():
        known: Mapping[str, Any] = read_record(begun, None, MANIFEST, MANIFEST_OTHERS)
    else:
        known = source.manifest if source is not None else {}
    return known.get("feed") or preferred_feed(processor)


def optimizer_of(config: RunConfig, longest: Longest, source: Source | None) -> str:
    """The optimizer that ``train.optimizer`` stands for: what the run, or the one it is forked from, has begun with.

    Else it is as memory allows. Runs of before there was a choice have rounded their weights.

    Raises:
        UserError: a fork asks for another one than its source had.
    """
    begun = config.folder / "manifest.json"
    if begun.exists():
        return str(read_record(begun, None, MANIFEST, MANIFEST_OTHERS)["model"].get("optimizer", PLAIN))
    if source is None:
        return affordable(config, longest)
    known = str(source.manifest["model"].get("optimizer", PLAIN))
    if config.train.optimizer not in (AUTO, known):
        raise UserError(
            f"train.optimizer: got {config.train.optimizer}, but the run that is forked holds its weights for {known}; "
            f"expected {known} or {AUTO}."
        )
    return known


def looked_at(stream: TaskStream) -> Iterator[Example]:
    """The examples of a stream whose prompts are looked at before any work: each task's longest questions."""
    for task in stream.tasks:
        items = sorted((*task.train, *task.test), key=question_length, reverse=True)
        yield from items[:PROMPTS_LOOKED_AT]


def question_length(example: Example) -> int:
    """Characters of an example's own question; 0 where all share one."""
    return len(example.target.text) if isinstance(example.target, Question) else 0


def check_answers(config: RunConfig, stream: TaskStream, method: Method, tokenizer: Any) -> int:
    """Refuse a limit on completions that a right answer does not fit into: it could never be given.

    Returns:
        Tokens of the longest right answer, end of sequence included; 1 where answers may be cut.
    """
    train = config.train
    if train.allow_cut_answers:
        return 1
    wording = method.config.thought if method.family == "supervised" else ""
    answers = {
        target_text(example.target, wording, task.style, task.seen): example.key
        for task in stream.tasks
        for example in (*task.train, *task.test)
    }
    encoded = tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    lengths = {answer: len(ids) for answer, ids in zip(answers, encoded, strict=True)}
    longest = max(lengths, key=lengths.__getitem__)
    limit, needed = train.max_completion_tokens, lengths[longest] + 1  # with the end of sequence
    if needed > limit:
        cut = sum(length + 1 > limit for length in lengths.values())
        raise UserError(
            f"train.max_completion_tokens: got {limit}, but {cut} of {len(lengths)} right answers are longer (that to "
            f"{answers[longest]!r} has {needed} tokens); expected at least {needed}, or train.allow_cut_answers=true."
        )
    return needed


def make_folder(state: Run) -> None:
    """Make the run folder with its config and manifest, if they are not there yet."""
    state.folder.mkdir(parents=True, exist_ok=True)
    clean_partials(state.folder)
    path = state.folder / "manifest.json"
    if not path.exists():
        write_config(state.config, state.folder)
        write_json_atomic(path, manifest_of(state))


def manifest_of(state: Run) -> dict[str, Any]:
    """The manifest of a run that begins now."""
    manifest = run_manifest(
        state.config, state.stream, describe_model(state.policy), state.method, fingerprints_of(state.probes)
    )
    return {**manifest, "memory": state.memory}


def open_folder(state: Run) -> dict[str, Any]:
    """Check that the run folder is this run's, and take up what its manifest says; returns the manifest."""
    manifest = manifest_of(state)
    state.data = manifest["data"]
    saved = read_record(state.folder / "manifest.json", None, MANIFEST, MANIFEST_OTHERS)
    check_same_data(state.folder, saved, manifest)
    check_same_plugins(state.folder, saved, manifest)
    state.carry, state.origins = saved.get("carry", {}), origins_of(state.folder, saved)
    return saved


def learn(state: Run, cell: CellTracker) -> None:
    """Every stage that is not on disk yet, in order; those that are go to the tracking store from their files."""
    done = ranks.on_rank0(lambda: checked_stage(state))
    if done is not None:
        state.parent = identity_of(state.folder, done)
    if done and state.method.family != "frozen":
        take = take_over if is_fork_point(state, done) else put_back
        ranks.all_or_fail(lambda: take(state, stage_folder(state.folder, done), done))
    if done is not None:
        state.reporter.say(f"{state.config.cell}: going on after stage {done}")
    for stage in state.stages:
        task = cell.task(stage, stage_name(state, stage))
        if done is not None and stage <= done:
            track_finished(task, stage_folder(state.folder, stage), steps=True)
            continue
        learn_stage(state, stage, lambda row, task=task: task.steps([row]))  # type: ignore[misc]
        track_finished(task, stage_folder(state.folder, stage), steps=False)
        ranks.on_rank0(lambda stage=stage: drop_older_weights(state, stage))  # type: ignore[misc]


def checked_stage(state: Run) -> int | None:
    """The last finished stage, None if there is none; what is on disk is whole, and there is room for the rest."""
    done = finished_stage(state.folder, state.stages)
    check_has_forked(state, done)
    if done is not None:
        finished = [stage for stage in state.stages if stage <= done]
        check_lineage(state.folder, finished, config_digest(state.config), state.data, state.origins)
        clear_finished(state.folder, finished)
    check_space(state, done)
    return done


def track_finished(task: TaskTracker, folder: Path, steps: bool) -> None:
    """Give the tracking store what it lacks of a finished stage; ``steps``: an earlier process has learned it."""
    task.finish(folder, learned_before=steps)


def feed_tracking(config: RunConfig) -> None:
    """Give the tracking store what it lacks of a finished run, from the run's files."""
    if not is_done(config):
        feed_or_tell(config.folder)


def finish_tracking(config: RunConfig, cell: CellTracker) -> None:
    """Close the tracked run with its results, and remember whether the store has all of it."""
    complete = cell.finish()
    if config.run.mlflow:
        mark(config.folder, complete)
