"""The work of a cell's stages, counted from what the code that runs does: training, drift, tests.

It follows ``methods/training/fit.py``, ``methods/generation/group_passes.py`` (updates), ``methods/drift/measure.py``
(drift) and ``clrft/runner/stage.py`` (tests). Of several processes each has an even share of the rows of updates; whole
batches of tests are dealt out; drift, Fisher information and what frozen models keep are done by every one. Of
penalties and estimates those of the methods in ``COUNTED`` are in it; what other parts' hooks compute is not, which
``uncounted`` tells. Deliberately absent: AdamW's step; split weights that are put together for the disk.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from clrft.config.run_config import RunConfig
from clrft.memory.model_sizes import known_sizes
from clrft.memory.phases import ALONE, Phases, Sharing
from clrft.planning.operation_counts import Calls, OperationCounts
from clrft.planning.stream_statistics import StreamStatistics, TaskStatistics, probe_prompt, statistics_of
from clrft.runs.cost_names import DRIFT, EVALUATE, TRAIN
from methods.drift.items import GROUP_SIZE, OTHERS_SIZE
from methods.drift.measure import PROMPTS
from methods.settings import TrainConfig
from methods.training.budget import planned_updates, rows_per_update

COUNTED = frozenset(
    (
        *("zero_shot", "sft", "grpo", "joint_sft", "joint_grpo", "rapo", "rapo_rr", "rapo_ctan"),
        *("dr_grpo", "dapo", "gspo", "sapo", "anchored_kl", "l2", "l2_init", "ewc", "lwf", "wise", "replay"),
    )
)


def uncounted(config: RunConfig) -> list[str]:
    """Members of a cell's method whose own passes are not counted."""
    return [name for name in (config.method_name, *(part for part, _ in config.parts)) if name not in COUNTED]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a completion, end of sequence included."""

    train: float  # of a rollout
    test: float  # of an answer
    spread: float  # the longest of a batch is so many times as long as the mean
    limit: int  # of the settings

    def longest(self, mean: float) -> float:
        """Tokens of a batch's longest completion."""
        return min(mean * self.spread, max(mean, float(self.limit)))


@dataclass(frozen=True, slots=True)
class SharedCounts:
    """Work of a cell's processes."""

    all: OperationCounts  # of all together, as a run's costs have it
    share: float = 1.0  # of it that the process has which has most, for which the others wait
    exchanged: float = 0.0  # bytes that a process gets from the others, and sends as many

    @property
    def own(self) -> OperationCounts:
        """Work of the process that has most."""
        return self.all * self.share


class Cell:
    """A cell with all that its work is counted from: its settings, its stream's statistics, how its model is held."""

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        lengths: Lengths,
        sharing: Sharing = ALONE,
        statistics: StreamStatistics | None = None,
    ) -> None:
        self.config, self.lengths, self.processes = config, lengths, sharing.processes
        self.statistics = statistics or statistics_of(config)
        self.held = Phases(config, known_sizes(config.model), device, self.statistics.longest, sharing)
        self.calls, self.method = Calls(self.held), self.held.method
        self.trains, last = self.method.family != "frozen", len(self.statistics.tasks)
        self.stages = [0, last] if self.method.joint else list(range(last + 1))

    def gathered(self, times: float) -> float:
        """Bytes of all weights, so many times, that a process gets from the others where they are split."""
        return times * (self.held.parts - 1) / self.held.parts * self.held.sizes.parameters * self.held.weight


def stage_work(cell: Cell, stage: int) -> Mapping[str, SharedCounts]:
    """The work of a stage by activity, of all of the cell's processes, and of the one that has most of it."""
    work = {EVALUATE: tests(cell, stage)}
    if stage and cell.trains:
        work[TRAIN] = training(cell, stage)
        if cell.config.evaluate.drift_prompts:
            work[DRIFT] = SharedCounts(drift(cell, stage) * cell.processes, 1 / cell.processes)
    return work


def training(cell: Cell, stage: int) -> SharedCounts:
    """The updates of a stage and what a method asks for around them."""
    method, train, processes, calls = cell.method, cell.config.train, cell.processes, cell.calls
    first = method.joint or stage == 1
    task = cell.statistics.joint if method.joint else cell.statistics.tasks[stage - 1]
    updates = planned_updates(method, train, task.train)
    if train.epochs is None and method.joint:
        updates *= len(cell.statistics.tasks)
    learn = supervised if method.family == "supervised" else rollouts
    own, times = learn(cell, task, updates, first)
    if "fisher" in method.needs:  # completions of some examples, one by one, and their gradients
        prompt, mean = task.prompt, cell.lengths.test
        each = calls.prompts(1, prompt) + calls.written(1, prompt.tokens, mean, mean, recorded=False)
        own += (each + calls.whole(1, prompt, mean, learn=True, every=True)) * min(method.fisher_items, task.train)
    exchanged = cell.gathered(times)
    if cell.held.parts == 1:  # gradients are summed: first parts, then their sums
        exchanged = updates * 2 * (processes - 1) / processes * cell.held.trained
    # an update is one, however many work on it
    return SharedCounts(replace(own * processes, updates=float(updates)), 1 / processes, exchanged)


def supervised(cell: Cell, task: TaskStatistics, updates: int, first: bool) -> tuple[OperationCounts, float]:
    """A process's prompts with their targets, and how often it gathers split weights for them.

    Distillation asks the anchor, and the policy once more. A process without a row computes one from which nothing is
    learned: all of it counts as a prompt.
    """
    work, processes = OperationCounts(), cell.processes
    distilled = not first and "lwf" in dict(cell.config.parts)
    passes = [(True, False), *([(False, True), (True, True)] if distilled else [])]  # with gradients, with all logits
    batches = micro_batches(cell.config.train, task.train, updates)
    for rows, times in batches.items():
        own, instead = rows / processes, max(0, processes - rows) / processes
        for learn, every in passes:
            work += cell.calls.whole(own, task.prompt, task.target, learn, every, instead) * times
        work += OperationCounts(tokens_trained=own * task.target) * times
    return work, batches.total() * (7 if distilled else 3)


def micro_batches(train: TrainConfig, items: int, updates: int) -> Counter[int]:
    """Supervised batches by their rows: an epoch's last one has what is left, and ends its update."""
    epoch = [*batch_sizes(items, max(1, train.prompts_per_update // train.accumulation)).elements()]
    epochs, left = divmod(updates, math.ceil(len(epoch) / train.accumulation))
    return Counter(epoch * epochs + epoch[: left * train.accumulation])


def batch_sizes(items: int, size: int) -> Counter[int]:
    """How many batches of some items have so many: all but the last are full."""
    return Counter(min(size, items - start) for start in range(0, items, size))


def part_of(rows: int, count: int, group: int) -> tuple[float, float]:
    """Rollouts of one of so many even parts of a batch, and their different prompts: means; groups are adjacent."""
    ends = [rows * place // count for place in range(count + 1)]
    return rows / count, sum(len({row // group for row in range(*part)}) for part in pairwise(ends)) / count


def rollouts(cell: Cell, task: TaskStatistics, updates: int, first: bool) -> tuple[OperationCounts, float]:
    """A process's groups of completions, and how often it gathers split weights for them.

    A prompt is computed once for its group; with ``train.share_prefix=false`` for every completion, in every pass.
    Rollouts are dealt out by whole groups where every process gets one.
    """
    config, method, calls, held = cell.config, cell.method, cell.calls, cell.held
    train, tokens, mean, processes = config.train, task.prompt.tokens, cell.lengths.train, cell.processes
    longest, again = cell.lengths.longest(mean), int(config.method.updates_per_batch)
    group = int(config.method.group_size) if train.share_prefix else 1
    every, batches = rows_per_update(method, train), updates / again
    rows, drawn = part_of(every, processes, group)
    if every >= group * processes:
        drawn = rows / group
    micro, learned = part_of(every, processes * train.accumulation, group)
    # One pass over completions, with gradients, serves scoring and loss; one over prompts also serves sampling.
    once = train.share_prefix and train.accumulation == again == held.parts == 1
    serves_all = once and not config.model.gradient_checkpointing
    anchored = held.anchor and not first
    same = anchored and (method.anchor_rule.kind == "base" or method.kl_target == "anchor")
    frozen = int(anchored) + int("reference" in method.needs and not same)  # models that score rollouts

    def prompts(count: float, learn: bool = False) -> OperationCounts:
        return calls.prompts(count, task.prompt, learn)

    passes = math.ceil(train.accumulation / processes) if held.parts > 1 else train.accumulation
    scored = calls.following(rows / passes, tokens, mean, longest) * passes
    own_scores = 0 if once else int(again > 1) + anchored
    batch = prompts(drawn, learn=serves_all) + calls.written(rows, tokens, mean, longest)
    batch += (scored if train.share_prefix else scored + prompts(rows)) * own_scores + scored * frozen
    if once and anchored:  # drift and loss are of one pass, which counts as two
        batch += OperationCounts(prompt_tokens=rows * tokens)
    update = calls.following(micro, tokens, mean, longest, learn=True) + OperationCounts(tokens_trained=micro * mean)
    if not serves_all:
        update += prompts(drawn if train.accumulation == again == 1 else learned, learn=True)
    # What prompts leave behind in frozen models is kept for the task where they come twice, as far as there is room.
    ahead = max(1, every // train.accumulation // group)
    asked = updates * ahead if train.epochs is None else train.epochs * task.train
    each = 2 * held.sizes.keys * held.sizes.shape.language_layers * tokens * held.weight
    kept = 0
    if frozen and train.share_prefix and held.parts == 1 and asked >= 2 * task.train * again:
        kept = int(min(task.train, train.kept_prefixes * 2**20 / each / frozen))
    asking = prompts(drawn * (1 - kept / task.train)) * batches * (kept < task.train)
    for count, times in batch_sizes(kept, ahead).items():
        asking += prompts(count) * times
    work = batch * batches + update * (updates * train.accumulation) + asking * frozen
    # A pass over completions goes through the layers alone, and scoring begins outside of them.
    layers, outside = (part / held.sizes.parameters for part in (held.sizes.shape.language.weights, held.sizes.outer))
    scoring = passes * layers + outside
    times = batches * (1 + own_scores * scoring + frozen * (1 + scoring))
    return work, times + updates * train.accumulation * (3 + 2 * layers)


def drift(cell: Cell, stage: int) -> OperationCounts:
    """Rollouts of the policy and of those before it, and what each says about the other's."""
    joint, calls, mean, work = cell.method.joint, cell.calls, cell.lengths.test, OperationCounts()
    task = cell.statistics.joint if joint else cell.statistics.tasks[stage - 1]
    prompt, longest, others = task.prompt.tokens, cell.lengths.longest(mean), 1 if joint or stage == 1 else 2
    for count, times in batch_sizes(min(cell.config.evaluate.drift_prompts, task.test), PROMPTS).items():
        some = calls.prompts(count, task.prompt) * (1 + others)
        for size, policies in ((GROUP_SIZE, 1), (OTHERS_SIZE, others)):
            written = calls.written(count * size, prompt, mean, longest, recorded=False)
            some += written * policies + calls.following(count * size, prompt, mean, longest) * (2 * others)
        work += some * times
    return work


def tests(cell: Cell, stage: int) -> SharedCounts:
    """Answers to the test items of every task due, to one task once more, and to the built-in probe.

    A process answers whole batches in turn; split weights are gathered once, for drift and tests together.
    """
    evaluate, statistics, method, mean = cell.config.evaluate, cell.statistics, cell.method, cell.lengths.test
    tasks = statistics.tasks
    # Of each: the prompts, the number of items, and whether their images go through the tower.
    asked = [(statistics.prompt(place, stage - 1), task.new, True) for place, task in enumerate(tasks[:stage])]
    if evaluate.future:
        asked += [(task.prompt, task.test, True) for task in tasks[stage:]]
    if stage and evaluate.final_list and statistics.lists[stage - 1] < statistics.lists[-1] and not method.joint:
        asked.append((statistics.prompt(stage - 1, -1), tasks[stage - 1].test, False))  # they were seen just now
    if evaluate.probe and (stage == 0 or cell.trains or stage == len(tasks)):
        probe = probe_prompt(cell.config.model, cell.config.stream.style, evaluate.probe)
        asked.append((probe, evaluate.probe, True))
    work, every, most = OperationCounts(), 0, 0
    for prompt, items, seen in asked:
        batches = math.ceil(items / evaluate.batch_size)
        every, most = every + batches, most + math.ceil(batches / cell.processes)
        for size, times in batch_sizes(items, math.ceil(items / max(1, batches)) or 1).items():
            answers = cell.calls.written(size, prompt.tokens, mean, cell.lengths.longest(mean))
            work += (cell.calls.prompts(size, prompt, seen=seen) + answers + OperationCounts(items=size)) * times
    models = 1 + cell.held.anchor + cell.held.reference
    return SharedCounts(work, most / max(1, every), cell.gathered(models))
