"""A run before any work: stream, model and method are built, and what can be checked is checked."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from clrft.base_model import default_model_path
from clrft.config.records import ManifestWithModel, check_fields, read_record
from clrft.config.run_config import RunConfig
from clrft.memory.phases import Longest
from clrft.runner.data_checks import context_problems, model_problems, update_problems
from clrft.runner.fork import Source
from clrft.runner.probes import read_probes
from clrft.runner.resource_checks import affordable, check_memory, longest_among
from clrft.runner.state import Run
from clrft.runs.base_identity import Base, base_of, check_same_base, decisive_files
from clrft.utils.files import check_writable
from clrft.utils.progress import Reporter
from methods import build_method
from methods.base import Method
from methods.distributed import ranks
from methods.distributed.sharding import shard
from methods.generation.shared_prefix import obstacle
from methods.generation.static_decode import graph_obstacle
from methods.generation.vllm import vllm_obstacles
from methods.guard import guarded_members
from methods.inputs.admission import Admission
from methods.inputs.encoding import encoded_requests
from methods.inputs.media import preferred_feed
from methods.model.anchor import Anchors, anchor_problems
from methods.model.numerics import training_problems
from methods.model.policy import load_policy, load_processor
from methods.registry import method_class
from methods.settings import AUTO, PLAIN
from task_streams import Workspace, build_stream
from task_streams.errors import UserError
from task_streams.probes.sets import ProbeSet, probe_request
from task_streams.prompt import request, target_text
from task_streams.scenarios.fingerprint import check_stream
from task_streams.types import Example, Question, TaskStream

WORTH_A_BAR = 2**28  # bytes of a base, whose digests take a while
PROMPTS_LOOKED_AT = 4  # of each task, and of each probe set, before any work


def prepare(config: RunConfig, reporter: Reporter, source: Source | None = None) -> Run:
    """Build stream, model and method, and refuse what cannot work, before anything is trained or written.

    Raises:
        UserError: what is wrong with the data, the prompts, the model or the method.
    """
    check_writable(config.folder.parent)
    reporter.begin(config.cell, "reading data", None)
    file = config.folder / "manifest.json"
    begun = read_record(file, None, ManifestWithModel) if file.exists() else None
    probes = read_probes(config.evaluate.probes)
    path = config.model.path or str(default_model_path())
    # what the run, or the one it is forked from, has begun with
    known: Mapping[str, Any] = begun or (source.manifest if source is not None else {})
    base = current_base(config, reporter, known.get("base", {}).get("commit", ""))
    check_same_base(config.folder if begun or source is None else source.folder, known.get("base"), base)
    model = replace(config.model, revision=base.commit or None)  # all that is loaded is of one commit
    processor = load_processor(model, path)
    # stream.feed=auto: as begun, else what the model prefers. Runs of before there was a choice say in their settings
    # what they have.
    feed = known.get("feed") or preferred_feed(processor)
    admission = Admission(processor, config.train.max_prompt_tokens, config.stream.style)
    advance = partial(reporter.advance, config.cell)
    workspace = Workspace(cache_folder(config), advance, feed=feed, refused=admission.refused)
    stream = build_stream(config.stream_name, config.stream, config.seed, workspace)
    method = build_method(config.method_name, config.method, config.parts)
    for member in guarded_members(method):
        member.say = reporter.say
    longest = check_data(replace(config, model=model), stream, method, probes, admission)
    policy = load_policy(model, path, config.seed, optimizer_of(config, longest, begun, source), processor)
    policy.max_prompt_tokens, policy.share_prefix = config.train.max_prompt_tokens, config.train.share_prefix
    state = Run(config, stream, policy, method, reporter, probes=probes, base=base)
    make_ready(state, longest)
    return state


def current_base(config: RunConfig, reporter: Reporter, commit: str = "") -> Base:
    """What a run's base is now; the commit that is known of a hub id counts, where no setting names another.

    Raises:
        UserError: it cannot be read.
    """
    model = config.model
    folder = Path(model.path or default_model_path())
    size = sum(os.path.getsize(folder / name) for name in decisive_files(folder))
    shows = size >= WORTH_A_BAR
    if shows:
        reporter.begin(config.cell, "checking the base's files", size)
    advance = (lambda units: reporter.advance(config.cell, units)) if shows else None
    return base_of(str(folder), model.revision or commit or None, cache_folder(config), advance)


def check_data(
    config: RunConfig, stream: TaskStream, method: Method, probes: Sequence[ProbeSet], admission: Admission
) -> Longest:
    """Hold all data of a run against its model and its settings; how long its longest prompts and answers are.

    Raises:
        UserError: everything that is wrong with them.
    """
    problems = [*check_stream(stream), *update_problems(method, stream, config.train)]
    longest = answer = None
    if all(task.train and task.test for task in stream.tasks):
        unreadable = model_problems(method, stream, probes, admission)
        try:
            answer = check_answers(config, stream, method, admission.processor.tokenizer)
            if not unreadable:
                longest = longest_prompts(config, stream, probes, admission)
                problems += context_problems(config, longest)
        except UserError as error:
            problems += error.problems
        problems += unreadable
    if problems or longest is None or answer is None:
        raise UserError(*problems)
    return replace(longest, answer=answer)


def make_ready(state: Run, longest: Longest) -> None:
    """Split the weights where they are to be, look at batches and memory, take the frozen copies.

    Raises:
        UserError: a method, a model and settings do not go together; all reasons at once.
    """
    method, policy, train = state.method, state.policy, state.config.train
    split = ranks.weights_split()
    problems = engine_problems(state)
    # why steps of decoding cannot be recorded as graphs here; None if they can
    why = graph_obstacle(policy.model, policy.device) if train.share_prefix else "train.share_prefix is false"
    if train.cuda_graphs and why is not None:  # asked for; else it is decided by itself
        problems.append(f"train.cuda_graphs: got true, but {why}; expected false, or null for where it can be.")
    problems += training_problems(method, policy.numerics, policy.has_adapter)
    problems += [*anchor_problems(method, policy), *method.problems(policy, list(state.tasks.values()))]
    if split:
        problems += split_problems(state)
    if problems:
        raise UserError(*problems)
    policy.recorded = split is None and why is None and train.records(policy.device.type)
    if split:
        shard(policy.model, split)
    for one in state.probes:  # each set's longest prompts; one that exceeds the limit is refused by ``Policy.encode``
        lengths = [(len(each.images), len(each.text) + sum(map(len, each.options))) for each in one.probes]
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        for index in order[:PROMPTS_LOOKED_AT]:
            policy.encode([probe_request(one.probes[index])])
    state.memory = {} if split else check_memory(state, longest)
    if "reference" in method.needs and not policy.has_adapter:
        state.reference = policy.snapshot(asked_only=True)
    if "anchor" in method.needs:
        state.anchors = Anchors(method.anchor_rule, policy, state.reference)


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


def longest_prompts(config: RunConfig, stream: TaskStream, probes: Sequence[ProbeSet], admission: Admission) -> Longest:
    """How long a run's longest prompts are, all classes listed.

    Raises:
        UserError: a prompt exceeds the limit.
    """
    limit, batches = config.train.max_prompt_tokens, []
    for example in looked_at(stream, admission):
        asked = request(example, stream.labels, config.stream.style)
        batch = encoded_requests(admission.processor, [asked], config.model.media, limit)
        batches.append({name: values for name, values in batch.items() if not name.startswith("pixel_values")})
    examples = [len(task.train) for task in stream.tasks]
    tested = [*(len(task.test) for task in stream.tasks), *(len(one.probes) for one in probes), config.evaluate.probe]
    joint = method_class(config.method_name).joint
    return replace(
        longest_among(batches, admission.processor),
        examples=sum(examples) if joint else max(examples),
        items=max(tested),
    )


def optimizer_of(config: RunConfig, longest: Longest, begun: Mapping[str, Any] | None, source: Source | None) -> str:
    """The optimizer that ``train.optimizer`` stands for: what the run, or the one it is forked from, has begun with.

    Else it is as memory allows. Runs of before there was a choice have rounded their weights. ``begun`` is the run's
    manifest if it has one already.

    Raises:
        UserError: a fork asks for another one than its source had.
    """
    if begun is not None:
        return str(begun["model"].get("optimizer", PLAIN))
    if source is None:
        return affordable(config, longest)
    check_fields(source.folder / "manifest.json", source.manifest, ManifestWithModel)
    known = str(source.manifest["model"].get("optimizer", PLAIN))
    if config.train.optimizer not in (AUTO, known):
        raise UserError(
            f"train.optimizer: got {config.train.optimizer}, but the run that is forked holds its weights for {known}; "
            f"expected {known} or {AUTO}."
        )
    return known


def looked_at(stream: TaskStream, admission: Admission) -> Iterator[Example]:
    """The examples of a stream whose prompts are encoded before any work: those of each task with the most tokens.

    All are counted: the questions' tokens, and those of images by their sizes.
    """
    for task in stream.tasks:
        items = (*task.train, *task.test)
        texts = [item.target.text if isinstance(item.target, Question) else "" for item in items]  # "": all share one
        distinct = list(dict.fromkeys(texts))
        tokens = dict(zip(distinct, admission.text_tokens(distinct), strict=True))
        lengths = [
            tokens[text] + (admission.image_tokens(item.shape) if item.shape else 0)
            for item, text in zip(items, texts, strict=True)
        ]
        order = sorted(range(len(items)), key=lengths.__getitem__, reverse=True)
        yield from (items[index] for index in order[:PROMPTS_LOOKED_AT])


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
