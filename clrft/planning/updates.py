"""The work of a stage's updates, counted from what the code that runs does: ``methods/training/fit.py``,
``group_passes.py``.

Of several processes each has its share of the rows (``sharing.py``). Of penalties and estimates those of the methods in
``activities.COUNTED`` are in it.
"""

import math
from dataclasses import dataclass
from functools import partial

from clrft.memory.sharing import Share
from clrft.planning.cell import Cell, frozen_models
from clrft.planning.operation_counts import Passes, Tally
from clrft.planning.shared_work import NOTHING, Dealt
from clrft.planning.stream_statistics import TaskOutline
from methods.training.budget import planned_updates, rows_per_update

MIB = 2**20


def training(cell: Cell, stage: int) -> Dealt:
    """The updates of a stage and what a method asks for around them."""
    method, train = cell.method, cell.config.train
    task = cell.outline.joint if method.joint else cell.outline.tasks[stage - 1]
    first = method.joint or stage == 1
    updates = planned_updates(method, train, task.train)
    if train.epochs is None and method.joint:
        updates *= len(cell.outline)
    supervised = method.family == "supervised"
    work = supervised_rows(cell, task, updates, first) if supervised else Rollouts.of(cell, task, first).work(updates)
    if "fisher" in method.needs:
        work += Dealt.alike(fisher(cell, task), cell.sharing)
    return steps(cell, updates) + work


def steps(cell: Cell, updates: int) -> Dealt:
    """What the optimizer does, what processes tell each other for it, and states of the training put together."""
    every = cell.config.run.checkpoint_every
    states = max(0, updates - 1) // every if every else 0
    whole = cell.passes.gathered(3 * (states + 1))  # weights and two moments, the last time for the stage's folder
    step = cell.passes.optimizer() + cell.passes.summed(cell.sharing.processes)
    own = step * updates + whole
    return Dealt(own, own)  # an update is one, however many work on it


def supervised_rows(cell: Cell, task: TaskOutline, updates: int, first: bool) -> Dealt:
    """Prompts with their targets, forward and backward; distillation asks the anchor, and the policy once more."""
    distilled = not first and "lwf" in dict(cell.config.parts)

    def rows(share: Share) -> Tally:
        work = supervised_pass(cell.passes, task, share, learn=True) + Tally(tokens_trained=share.rows * task.target)
        for learn in (False, True) if distilled else ():
            work += supervised_pass(cell.passes, task, share, learn, task.prompt)
        return work

    work = NOTHING
    for count, times in micro_batches(cell, task.train, updates).items():
        work += Dealt.of(cell.sharing.supervised(count), rows) * times
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


def supervised_pass(passes: Passes, task: TaskOutline, share: Share, learn: bool, more: float = 0.0) -> Tally:
    """A pass over rows; ``more``: tokens of a row beside its target that logits are made of.

    A row that stands in where a process has none counts as a prompt, since nothing of it is learned.
    """
    computed, tokens = share.prompts, task.target
    work = passes.whole(computed, task.prompt, tokens, task.shown, learn)
    work += passes.head(share.rows * (more + tokens), learn)
    instead = (computed - share.rows) * tokens
    return work + Tally(prompt_tokens=computed * task.prompt + instead, prompt_tokens_computed=instead)


@dataclass(frozen=True, slots=True)
class Rollouts:
    """A stage's updates on groups of completions.

    Attributes:
        cell: whose.
        task: what is learned.
        first: there is no anchor yet.
        rows: completions of an update.
        group: of a prompt.
        again: updates on each batch of rollouts.
        mean: tokens of a completion.
        longest: of a batch's longest.
    """

    cell: Cell
    task: TaskOutline
    first: bool
    rows: int
    group: int
    again: int
    mean: float
    longest: float

    @classmethod
    def of(cls, cell: Cell, task: TaskOutline, first: bool) -> "Rollouts":
        """Those of a cell's stage."""
        rows, mean = rows_per_update(cell.method, cell.config.train), cell.lengths.train
        group, again = (int(getattr(cell.config.method, name)) for name in ("group_size", "updates_per_batch"))
        return cls(cell, task, first, rows, group, again, mean, cell.lengths.longest(mean))

    @property
    def micro(self) -> int:
        """Rows of a micro-batch."""
        return self.rows // self.cell.config.train.accumulation

    @property
    def at_a_time(self) -> int:
        """Prompts that frozen models compute at a time, ahead."""
        return max(1, self.micro // self.group)

    @property
    def in_one_go(self) -> bool:
        """Whether each batch of rollouts is learned from once, and undivided."""
        return self.cell.config.train.accumulation == 1 and self.again == 1

    @property
    def once(self) -> bool:
        """Whether one pass over completions, with gradients, serves scoring and loss."""
        return self.in_one_go and not self.cell.sharing.split

    @property
    def shared(self) -> bool:
        """Whether one pass over prompts, with gradients, serves sampling and loss."""
        return self.once and not self.cell.config.model.gradient_checkpointing

    @property
    def with_anchor(self) -> bool:
        """Whether the policy's log-probabilities are compared with an anchor's."""
        return "anchor" in self.cell.method.needs and not self.first

    def work(self, updates: int) -> Dealt:
        """All of them."""
        cell, train, batches = self.cell, self.cell.config.train, updates / self.again
        drawn = cell.sharing.drawn(self.rows, self.group)
        if not train.share_prefix:  # which several processes cannot do
            return Dealt.alike(self.plain(batches, updates), cell.sharing)
        learned = drawn if self.in_one_go else cell.sharing.learned(self.micro, train.accumulation, self.group)
        work = Dealt.of(drawn, self.batch) * batches
        work += Dealt.of(learned, self.update) * (updates * train.accumulation)
        for place in range(frozen_models(cell.method, self.first)):
            kept = self.kept(place, updates)
            left = 1 - kept / self.task.train  # of a batch's prompts
            work += Dealt.alike(self.ahead(kept), cell.sharing)
            work += Dealt.of(drawn, partial(self.frozen, left=left)) * batches
        return work

    def batch(self, share: Share) -> Tally:
        """Rollouts sampled, and scored where the loss does not do that."""
        cell, task, rows = self.cell, self.task, share.rows
        whole = cell.passes.together  # while rollouts are sampled
        work = cell.passes.gathered() + self.prompts(cell.passes if self.shared else whole, share.prompts, self.shared)
        work += whole.written(rows, rows, task.prompt, self.mean, self.longest, graphs=True)
        work += Tally(prompt_tokens=rows * task.prompt)
        if self.once:  # drift and loss are of one pass, which counts as two
            return work + Tally(prompt_tokens=rows * task.prompt if self.with_anchor else 0.0)
        return work + self.scored(share) * (int(self.again > 1) + int(self.with_anchor))

    def update(self, share: Share) -> Tally:
        """Log-probabilities of a micro-batch, forward and backward."""
        rows, passes = share.rows, self.cell.passes
        work = Tally() if self.shared else self.prompts(passes, share.prompts, learn=True)
        work += passes.following(rows, self.longest, self.task.prompt + self.longest, learn=True)
        work += passes.head(rows * self.mean, learn=True)
        return work + Tally(prompt_tokens=rows * self.task.prompt, tokens_trained=rows * self.mean)

    def prompts(self, passes: Passes, count: float, learn: bool) -> Tally:
        """Prompts together; what all begin with is not shared where layers are checkpointed."""
        task = self.task
        lead = 0.0 if learn and self.cell.config.model.gradient_checkpointing else self.cell.lead(task.lead)
        return passes.prompts(count, task.prompt, task.shown, learn=learn, lead=lead)

    def scored(self, share: Share) -> Tally:
        """Log-probabilities without gradients, in parts of a micro-batch."""
        sharing, passes, rows = self.cell.sharing, self.cell.passes, share.rows
        size = self.micro if sharing.split else math.ceil(self.micro / sharing.processes)
        parts = math.ceil(rows / size)
        work = passes.following(rows / parts, self.longest, self.task.prompt + self.longest) * parts
        return work + passes.entered() + passes.head(rows * self.mean) + Tally(prompt_tokens=rows * self.task.prompt)

    def frozen(self, share: Share, left: float) -> Tally:
        """A frozen model's log-probabilities of a batch; ``left``: the share of its prompts that was not kept."""
        read = self.prompts(self.cell.passes, left * share.prompts, learn=False) if left else Tally()
        return self.scored(share) + read

    def ahead(self, kept: float) -> Tally:
        """Prompts in a frozen model, all before they are asked for: by every process."""
        whole, rest = divmod(kept, self.at_a_time)
        parts = [(float(self.at_a_time), whole), (rest, 1.0 if rest else 0.0)]
        work = (self.prompts(self.cell.passes, count, learn=False) * times for count, times in parts if times)
        return sum(work, Tally())

    def kept(self, place: int, updates: int) -> float:
        """Of how many prompts what they leave behind in a frozen model is kept for the task, the first models first."""
        train, task, text = self.cell.config.train, self.task, self.cell.passes.checkpoint.sizes.text
        asked = updates * self.at_a_time if train.epochs is None else train.epochs * task.train
        if asked < 2 * task.train * self.again or self.cell.sharing.split:
            return 0.0
        each = 2 * text.keys * text.layers * task.prompt * self.cell.passes.weight
        return max(0.0, min(float(task.train), train.kept_prefixes * MIB // each - place * task.train))

    def plain(self, batches: float, updates: int) -> Tally:
        """The same where nothing is shared: every completion has its prompt, and its image, in every pass."""
        cell, task, rows, mean = self.cell, self.task, self.rows, self.mean
        passes, accumulation = cell.passes, cell.config.train.accumulation
        batch = passes.prompts(rows, task.prompt, task.shown)
        batch += passes.written(rows, rows, task.prompt, mean, self.longest, graphs=False)
        batch += Tally(prompt_tokens=rows * task.prompt)
        update = passes.whole(self.micro, task.prompt, self.longest, task.shown, learn=True) * accumulation
        update += passes.head(rows * mean, learn=True)
        update += Tally(prompt_tokens=rows * task.prompt, tokens_trained=rows * mean)
        scored = passes.whole(rows, task.prompt, self.longest, task.shown) + passes.head(rows * mean)
        scored += Tally(prompt_tokens=rows * task.prompt)
        frozen = frozen_models(cell.method, self.first)
        scores = frozen + (1 if "anchor" in cell.method.needs and frozen > 1 else 0)
        return batch * batches + update * updates + scored * (scores * batches)


def fisher(cell: Cell, task: TaskOutline) -> Tally:
    """Completions of some examples, one by one, and their gradients."""
    items, mean, passes = min(cell.method.fisher_items, task.train), cell.lengths.test, cell.passes
    work = passes.prompts(1, task.prompt, task.shown) + passes.written(1, 1, task.prompt, mean, mean, graphs=False)
    work += passes.whole(1, task.prompt, mean, task.shown, learn=True)
    work += passes.head(task.prompt + mean, learn=True) + Tally(prompt_tokens=2 * task.prompt)
    return work * items
