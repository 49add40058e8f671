"""The work of a cell's stages, counted from what the code that runs does: training, drift, tests.

It follows ``methods/training/fit.py``, ``methods/generation/group_passes.py`` (updates), ``methods/drift/measure.py``
(drift) and ``clrft/runner/stage.py`` (tests). Of several processes each has its share of the rows (``sharing.py``). Of
penalties and estimates those of the methods in ``COUNTED`` are in it; what other parts' hooks compute is not, which
``uncounted`` tells.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from clrft.config.run_config import RunConfig
from clrft.memory.estimate import setup_of
from clrft.memory.model_sizes import known_sizes
from clrft.memory.sharing import ALONE, Share, Sharing
from clrft.planning.operation_counts import OperationCounts, Passes, SharedCounts, total_of
from clrft.planning.stream_statistics import StreamStatistics, TaskStatistics, probe_statistics, statistics_of
from clrft.runs.cost_names import DRIFT, EVALUATE, TRAIN
from methods import build_method
from methods.base import Method
from methods.drift.items import GROUP_SIZE, OTHERS_SIZE
from methods.drift.measure import PROMPTS
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
    test: float  # of an answer in a test, by a policy that has learned
    base: float  # likewise by the base
    probe: float  # of an answer in the built-in probe
    spread: float  # the longest of a batch is so many times as long as the mean
    limit: int  # of the settings

    def longest(self, mean: float) -> float:
        """Tokens of a batch's longest completion."""
        return min(mean * self.spread, max(mean, float(self.limit)))


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with all that its work is counted from."""

    config: RunConfig
    method: Method
    statistics: StreamStatistics
    passes: Passes
    lengths: Lengths
    sharing: Sharing = ALONE

    @classmethod
    def of(
        cls,
        config: RunConfig,
        device: torch.device,
        lengths: Lengths,
        sharing: Sharing = ALONE,
        statistics: StreamStatistics | None = None,
    ) -> "Cell":
        """The cell of some settings on a kind of device; of other statistics than its stream's, if they are given."""
        passes = Passes(known_sizes(config.model), setup_of(config, device, sharing))
        method = build_method(config.method_name, config.method, config.parts)
        return cls(config, method, statistics or statistics_of(config), passes, lengths, sharing)

    @property
    def trains(self) -> bool:
        """Whether anything is learned."""
        return self.method.family != "frozen"

    @property
    def stages(self) -> list[int]:
        """Stages, 0 among them."""
        last = len(self.statistics.tasks)
        return [0, last] if self.method.joint else list(range(last + 1))

    def lead(self, tokens: float) -> float:
        """What the prompts of a batch begin with, as far as it may be computed once."""
        return tokens if self.config.train.share_prefix else 0.0

    def gathered_weights(self, models: float) -> OperationCounts:
        """All weights of so many models, gathered in every process."""
        return OperationCounts(exchanged=self.passes.from_others(models * self.passes.sizes.parameters))


def stage_work(cell: Cell, stage: int) -> Mapping[str, SharedCounts]:
    """The work of a stage by activity, of all of the cell's processes, and of the one that has most of it."""
    method, needs = cell.method, cell.method.needs
    copies = 0  # frozen ones of all weights, beside the policy
    if not cell.passes.sizes.adapter:
        later = "anchor" in needs and stage > 1 and not method.joint
        based = "anchor" in needs and method.anchor_rule.kind == "base"
        copies = 1 if based else int("reference" in needs) + int(later)
    gathered = cell.gathered_weights(1 + copies)  # for drift and tests together
    work = {EVALUATE: tests(cell, stage) + SharedCounts.alike(gathered, cell.sharing)}
    if stage and cell.trains:
        work[TRAIN] = training(cell, stage)
        if cell.config.evaluate.drift_prompts:
            work[DRIFT] = SharedCounts.alike(drift(cell, stage), cell.sharing)
    return work


def training(cell: Cell, stage: int) -> SharedCounts:
    """The updates of a stage and what a method asks for around them."""
    method, train, processes = cell.method, cell.config.train, cell.sharing.processes
    task = cell.statistics.joint if method.joint else cell.statistics.tasks[stage - 1]
    first = method.joint or stage == 1
    updates = planned_updates(method, train, task.train)
    if train.epochs is None and method.joint:
        updates *= len(cell.statistics.tasks)
    every = cell.config.run.checkpoint_every
    states = 1 + (max(0, updates - 1) // every if every else 0)  # the last one for the stage's folder
    own = cell.passes.optimizer(processes) * updates + cell.gathered_weights(3 * states)  # weights and two moments
    work = SharedCounts(own, own)  # an update is one, however many work on it
    if method.family == "supervised":
        work += supervised(cell, task, updates, first)
    else:
        work += Rollouts(cell, task, first).work(updates)
    return work + SharedCounts.alike(fisher(cell, task), cell.sharing) if "fisher" in method.needs else work


def supervised(cell: Cell, task: TaskStatistics, updates: int, first: bool) -> SharedCounts:
    """Prompts with their targets, forward and backward; distillation asks the anchor, and the policy once more.

    A row that stands in where a process has none counts as a prompt, since nothing of it is learned.
    """
    distilled = not first and "lwf" in dict(cell.config.parts)

    def once(share: Share, learn: bool, tokens: float) -> OperationCounts:
        """A pass over rows; ``tokens`` of a row that logits are made of."""
        instead = (share.prompts - share.rows) * task.target
        work = cell.passes.whole(share.prompts, task.prompt, task.target, task.grids, learn)
        counts = OperationCounts(prompt_tokens=share.prompts * task.prompt + instead, prompt_tokens_computed=instead)
        return work + cell.passes.head(share.rows * tokens, learn) + counts

    def rows(share: Share) -> OperationCounts:
        work = once(share, True, task.target) + OperationCounts(tokens_trained=share.rows * task.target)
        if distilled:
            work += once(share, False, task.prompt + task.target) + once(share, True, task.prompt + task.target)
        return work

    work = SharedCounts()
    for count, times in micro_batches(cell, task.train, updates).items():
        work += SharedCounts.of(cell.sharing.supervised(count), rows) * times
    return work


def micro_batches(cell: Cell, items: int, updates: int) -> dict[int, float]:
    """Rows of micro-batches and how many have so many: an epoch's last batch has what is left, and ends its update."""
    train = cell.config.train
    size = max(1, train.prompts_per_update // train.accumulation)
    full, rest = divmod(items, size)
    if train.epochs is not None:
        return {size: train.epochs * full, **({rest: train.epochs} if rest else {})}
    epochs, left = divmod(updates, math.ceil((full + bool(rest)) / train.accumulation))
    begun = left * train.accumulation  # of the last epoch's batches
    last = {rest: float(epochs + (begun > full))} if rest else {}
    return {size: float(epochs * full + min(begun, full)), **last}


def fisher(cell: Cell, task: TaskStatistics) -> OperationCounts:
    """Completions of some examples, one by one, and their gradients."""
    items, mean, passes = min(cell.method.fisher_items, task.train), cell.lengths.test, cell.passes
    work = passes.prompts(1, task.prompt, task.grids) + passes.written(1, task.prompt, mean, mean)
    work += passes.whole(1, task.prompt, mean, task.grids, learn=True) + passes.head(task.prompt + mean, learn=True)
    return (work + OperationCounts(prompt_tokens=2 * task.prompt)) * items


class Rollouts:
    """A stage's updates on groups of completions.

    Attributes:
        rows: completions of an update; of a micro-batch in ``micro``.
        again: updates on each batch of rollouts.
        at_a_time: prompts that frozen models compute at a time, ahead.
        in_one_go: each batch of rollouts is learned from once, and undivided.
        once: one pass over completions, with gradients, serves scoring and loss.
        shared: one pass over prompts, with gradients, serves sampling and loss.
        anchored: the policy's log-probabilities are compared with an anchor's.
    """

    def __init__(self, cell: Cell, task: TaskStatistics, first: bool) -> None:
        config = cell.config
        self.cell, self.task = cell, task
        self.group, self.again = int(config.method.group_size), int(config.method.updates_per_batch)
        self.rows = rows_per_update(cell.method, config.train)
        self.micro = self.rows // config.train.accumulation
        self.at_a_time = max(1, self.micro // self.group)
        self.mean, self.longest = cell.lengths.train, cell.lengths.longest(cell.lengths.train)
        self.in_one_go = config.train.accumulation == 1 and self.again == 1
        self.once = self.in_one_go and not cell.sharing.split
        self.shared = self.once and not config.model.gradient_checkpointing
        self.anchored = "anchor" in cell.method.needs and not first
        reference = "reference" in cell.method.needs
        same = self.anchored and (cell.method.anchor_rule.kind == "base" or cell.method.kl_target == "anchor")
        self.frozen_models = int(self.anchored) + int(reference and not same)  # that score rollouts

    def work(self, updates: int) -> SharedCounts:
        """All of them."""
        cell, train, batches = self.cell, self.cell.config.train, updates / self.again
        drawn = cell.sharing.drawn(self.rows, self.group)
        if not train.share_prefix:  # which several processes cannot do
            return SharedCounts.alike(self.plain(batches, updates), cell.sharing)
        learned = drawn if self.in_one_go else cell.sharing.learned(self.micro, train.accumulation, self.group)
        work = SharedCounts.of(drawn, self.batch) * batches
        work += SharedCounts.of(learned, self.update) * (updates * train.accumulation)
        for place in range(self.frozen_models):
            kept = self.kept(place, updates)
            # Prompts that are kept are computed ahead, all by every process.
            whole, rest = divmod(kept, self.at_a_time)
            ahead = self.prompts(self.at_a_time, learn=False) * whole + self.prompts(rest, learn=False) * bool(rest)
            work += SharedCounts.alike(ahead, cell.sharing)
            work += SharedCounts.of(drawn, partial(self.frozen, left=1 - kept / self.task.train)) * batches
        return work

    def batch(self, share: Share) -> OperationCounts:
        """Rollouts sampled, and scored where the loss does not do that."""
        cell, task, rows = self.cell, self.task, share.rows
        prompts = OperationCounts(prompt_tokens=rows * task.prompt)
        work = cell.gathered_weights(1)
        work += self.prompts(share.prompts, learn=self.shared, unsharded=not self.shared)
        work += cell.passes.written(rows, task.prompt, self.mean, self.longest, recorded=True) + prompts
        if self.once:  # drift and loss are of one pass, which counts as two
            return work + prompts * self.anchored
        return work + self.scored(share) * (int(self.again > 1) + self.anchored)

    def update(self, share: Share) -> OperationCounts:
        """Log-probabilities of a micro-batch, forward and backward."""
        rows, passes, task = share.rows, self.cell.passes, self.task
        work = OperationCounts() if self.shared else self.prompts(share.prompts, learn=True)
        work += passes.following(rows, self.longest, task.prompt + self.longest, learn=True)
        work += passes.head(rows * self.mean, learn=True)
        return work + OperationCounts(prompt_tokens=rows * task.prompt, tokens_trained=rows * self.mean)

    def prompts(self, count: float, learn: bool, unsharded: bool = False) -> OperationCounts:
        """Prompts together; what all begin with is not shared where layers are checkpointed."""
        task, passes = self.task, self.cell.passes
        lead = 0.0 if learn and passes.setup.checkpointing else self.cell.lead(task.lead)
        return (passes.unsharded if unsharded else passes).prompts(
            count, task.prompt, task.grids, learn=learn, lead=lead
        )

    def scored(self, share: Share) -> OperationCounts:
        """Log-probabilities without gradients, in parts of a micro-batch; the passes begin inside of the model."""
        sharing, passes, rows = self.cell.sharing, self.cell.passes, share.rows
        parts = math.ceil(rows / (self.micro if sharing.split else math.ceil(self.micro / sharing.processes)))
        work = passes.following(rows / parts, self.longest, self.task.prompt + self.longest) * parts
        entered = passes.from_others(passes.sizes.outer)
        counts = OperationCounts(prompt_tokens=rows * self.task.prompt, exchanged=entered)
        return work + passes.head(rows * self.mean) + counts

    def frozen(self, share: Share, left: float) -> OperationCounts:
        """A frozen model's log-probabilities of a batch; ``left``: the share of its prompts that was not kept."""
        return self.scored(share) + (self.prompts(left * share.prompts, learn=False) if left else OperationCounts())

    def kept(self, place: int, updates: int) -> float:
        """Of how many prompts what they leave behind in a frozen model is kept for the task, the first models first."""
        train, task, passes = self.cell.config.train, self.task, self.cell.passes
        asked = updates * self.at_a_time if train.epochs is None else train.epochs * task.train
        if asked < 2 * task.train * self.again or self.cell.sharing.split:
            return 0.0
        each = 2 * passes.sizes.text.keys * passes.sizes.text.layers * task.prompt * passes.setup.weight
        return max(0.0, min(float(task.train), train.kept_prefixes * 2**20 // each - place * task.train))

    def plain(self, batches: float, updates: int) -> OperationCounts:
        """The same where nothing is shared: every completion has its prompt, and its image, in every pass."""
        task, rows, mean, passes = self.task, self.rows, self.mean, self.cell.passes
        accumulation = self.cell.config.train.accumulation
        prompts = OperationCounts(prompt_tokens=rows * task.prompt)
        batch = passes.prompts(rows, task.prompt, task.grids) + prompts
        batch += passes.written(rows, task.prompt, mean, self.longest)
        update = passes.whole(self.micro, task.prompt, self.longest, task.grids, learn=True) * accumulation + prompts
        update += passes.head(rows * mean, learn=True) + OperationCounts(tokens_trained=rows * mean)
        scored = passes.whole(rows, task.prompt, self.longest, task.grids) + passes.head(rows * mean) + prompts
        scores = self.frozen_models + int("anchor" in self.cell.method.needs and self.frozen_models > 1)
        return batch * batches + update * updates + scored * (scores * batches)


def drift(cell: Cell, stage: int) -> OperationCounts:
    """Rollouts of the policy and of those before it, and what each says about the other's."""
    joint, passes, mean = cell.method.joint, cell.passes.unsharded, cell.lengths.test
    task, place = (cell.statistics.joint, -1) if joint else (cell.statistics.tasks[stage - 1], stage - 1)
    prompt, lead, longest = task.prompts[place], cell.lead(task.leads[place]), cell.lengths.longest(mean)
    others = 1 if joint or stage == 1 else 2

    def sampled(rows: int) -> OperationCounts:
        return passes.written(rows, prompt, mean, longest) + OperationCounts(prompt_tokens=rows * prompt)

    def said(rows: int) -> OperationCounts:
        both = passes.following(rows, longest, prompt + longest) + passes.head(rows * mean)
        return (both + OperationCounts(prompt_tokens=rows * prompt)) * 2

    work, items = OperationCounts(), min(cell.config.evaluate.drift_prompts, task.test)
    for count, times in Counter(min(PROMPTS, items - start) for start in range(0, items, PROMPTS)).items():
        own, theirs = count * GROUP_SIZE, count * OTHERS_SIZE
        some = passes.prompts(count, prompt, task.grids, lead=lead) * (1 + others)
        work += (some + sampled(own) + (sampled(theirs) + said(own) + said(theirs)) * others) * times
    return work


def tests(cell: Cell, stage: int) -> SharedCounts:
    """Answers to the test items of every task due, to one task once more, and to the built-in probe."""
    evaluate, statistics, method = cell.config.evaluate, cell.statistics, cell.method
    mean = cell.lengths.test if stage and cell.trains else cell.lengths.base
    work = SharedCounts()
    for index, task in enumerate(statistics.tasks, start=1):
        if index <= stage:
            work += answered(cell, task, stage - 1, mean, task.new)
            work += SharedCounts(OperationCounts(answers=task.test - task.new))  # kept for this task too
        elif evaluate.future:
            work += answered(cell, task, index - 1, mean, task.test)
    last = statistics.tasks[stage - 1] if stage > 0 else None
    if last and evaluate.final_list and not method.joint and not last.lists_all:
        work += answered(cell, last, -1, mean, last.test, seen=False)  # their images were seen just now
    if evaluate.probe and (stage == 0 or cell.trains or stage == len(statistics.tasks)):
        probe = probe_statistics(cell.config.model, cell.config.stream.style, evaluate.probe)
        found = answered(cell, probe, 0, cell.lengths.probe, probe.test)
        work += SharedCounts(replace(found.all, answers=0.0), replace(found.own, answers=0.0))
    return work


def answered(cell: Cell, task: TaskStatistics, place: int, mean: float, items: int, seen: bool = True) -> SharedCounts:
    """Answers to some of a task's test items under the class list of a place, batch by batch; processes take turns.

    Batches are as few as can be, all but the last of one size, as ``evaluate`` makes them.
    """
    prompt, lead, passes = task.prompts[place], cell.lead(task.leads[place]), cell.passes.unsharded
    size = math.ceil(items / math.ceil(items / cell.config.evaluate.batch_size)) if items else 1
    batches = [min(size, items - start) for start in range(0, items, size)]

    def batch(count: int) -> OperationCounts:
        read = passes.prompts(count, prompt, task.grids, None if seen else 0.0, lead=lead)
        wrote = passes.written(count, prompt, mean, cell.lengths.longest(mean), recorded=True)
        return read + wrote + OperationCounts(items=count, answers=count, prompt_tokens=count * prompt)

    each = {count: batch(count) for count in set(batches)}
    together, first = (
        total_of(each[count] * times for count, times in Counter(some).items())
        for some in (batches, batches[:: cell.sharing.processes])  # the first process has most of them
    )
    return SharedCounts(together, first)
