"""The work of a cell's stages, counted from what the code that runs does: training, drift, tests.

It follows ``methods/fit.py`` and ``group_passes.py`` (updates), ``methods/drift_measure.py`` (drift) and
``clrft/stage.py`` (tests). Of penalties and estimates those of the methods in ``COUNTED`` are in it; what other parts'
hooks compute is not, which ``uncounted`` tells.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from clrft.config import RunConfig
from clrft.cost_names import DRIFT, EVALUATE, TRAIN
from clrft.plan.outline import Outline, TaskOutline
from clrft.plan.ruler import Looked
from clrft.plan.streams import probe_of
from clrft.plan.tally import Passes, Tally
from methods import build_method
from methods.base import Method
from methods.drift_measure import PROMPTS
from methods.drift_probe import GROUP_SIZE, OTHERS_SIZE
from methods.fit import planned_updates, rows_per_update

COUNTED = frozenset(
    (
        *("zero_shot", "sft", "grpo", "joint_sft", "joint_grpo", "rapo", "rapo_rr", "rapo_ctan"),
        *("dr_grpo", "dapo", "gspo", "sapo", "anchored_kl", "l2", "l2_init", "ewc", "lwf", "wise", "replay"),
    )
)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a completion, end of sequence included.

    Attributes:
        train: of a rollout.
        test: of an answer in a test, by a policy that has learned.
        base: likewise by the base.
        probe: of an answer in the built-in probe.
        spread: the longest of a batch is so many times as long as the mean.
        limit: of the settings.
    """

    train: float
    test: float
    base: float
    probe: float
    spread: float
    limit: int

    def longest(self, mean: float) -> float:
        """Tokens of a batch's longest completion."""
        return min(mean * self.spread, max(mean, float(self.limit)))


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with all that its work is counted from.

    Attributes:
        config: its settings.
        method: how it learns.
        outline: its stream.
        probe: a prompt of its built-in probe.
        passes: its model's calls.
        lengths: of its completions.
    """

    config: RunConfig
    method: Method
    outline: Outline
    probe: Looked
    passes: Passes
    lengths: Lengths

    @classmethod
    def of(cls, config: RunConfig, outline: Outline, passes: Passes, lengths: Lengths) -> "Cell":
        """The cell of some settings."""
        method = build_method(config.method_name, config.method, config.parts)
        return cls(config, method, outline, probe_of(config), passes, lengths)

    @property
    def trains(self) -> bool:
        """Whether anything is learned."""
        return self.method.family != "frozen"

    @property
    def stages(self) -> list[int]:
        """Stages, 0 among them."""
        last = len(self.outline)
        return [0, last] if self.method.joint else list(range(last + 1))


def uncounted(config: RunConfig) -> list[str]:
    """Members of a cell's method whose own passes are not counted."""
    return [name for name in (config.method_name, *(part for part, _ in config.parts)) if name not in COUNTED]


def stage_work(cell: Cell, stage: int) -> Mapping[str, Tally]:
    """The work of a stage by activity."""
    work = {EVALUATE: tests(cell, stage)}
    if stage and cell.trains:
        work[TRAIN] = training(cell, stage)
        if cell.config.evaluate.drift_prompts:
            work[DRIFT] = drift(cell, stage)
    return work


def training(cell: Cell, stage: int) -> Tally:
    """The updates of a stage and what a method asks for around them."""
    method, train = cell.method, cell.config.train
    task = cell.outline.joint if method.joint else cell.outline.tasks[stage - 1]
    first = method.joint or stage == 1
    updates = planned_updates(method, train, task.train)
    if train.epochs is None and method.joint:
        updates *= len(cell.outline)
    step = cell.passes.optimizer(cell.passes.checkpoint.trained, cell.passes.weight) * updates
    if method.family == "supervised":
        rows = updates * train.prompts_per_update if train.epochs is None else train.epochs * task.train
        work = supervised(cell, task, rows, first)
    else:
        work = rollouts(cell, task, updates, first)
    return step + work + (fisher(cell, task) if "fisher" in method.needs else Tally())


def supervised(cell: Cell, task: TaskOutline, rows: float, first: bool) -> Tally:
    """Prompts with their targets, forward and backward; distillation asks the anchor, and the policy once more."""
    passes, tokens = cell.passes, task.target
    work = passes.whole(rows, task.prompt, tokens, task.shown, learn=True) + passes.head(rows * tokens, learn=True)
    work += Tally(prompt_tokens=rows * task.prompt, tokens_trained=rows * tokens)
    if first or "lwf" not in dict(cell.config.parts):
        return work
    for learn in (False, True):
        work += passes.whole(rows, task.prompt, tokens, task.shown, learn)
        work += passes.head(rows * (task.prompt + tokens), learn) + Tally(prompt_tokens=rows * task.prompt)
    return work


def rollouts(cell: Cell, task: TaskOutline, updates: int, first: bool) -> Tally:
    """Updates on groups of completions."""
    method, train = cell.method, cell.config.train
    again = int(cell.config.method.updates_per_batch)
    rows, batches = rows_per_update(method, train), updates / again
    mean = cell.lengths.train
    longest = cell.lengths.longest(mean)
    sample = cell.passes.written(rows, rows, task.prompt, mean, longest, graphs=True)
    learned = Tally(prompt_tokens=rows * task.prompt, tokens_trained=rows * mean)
    update = cell.passes.head(rows * mean, learn=True) + learned
    once = train.accumulation == 1 and again == 1
    if not train.share_prefix:
        return plain_rollouts(cell, task, (batches, updates, rows, mean, longest), frozen_models(method, first), update)
    checkpointed = cell.config.model.gradient_checkpointing
    shared = once and not checkpointed  # one pass over prompts, with gradients, for sampling and for the loss
    prompts = min(train.prompts_per_update * (1 if once else train.accumulation), rows)
    batch = sample + cell.passes.prompts(train.prompts_per_update, task.prompt, task.shown, learn=shared)
    batch += Tally(prompt_tokens=rows * task.prompt)
    if not shared:
        update += cell.passes.prompts(prompts, task.prompt, task.shown, learn=True)
    update += cell.passes.following(rows, longest, task.prompt + longest, learn=True)
    scored = cell.passes.following(rows, longest, task.prompt + longest) + cell.passes.head(rows * mean)
    scored += Tally(prompt_tokens=rows * task.prompt)
    with_anchor = "anchor" in method.needs and not first
    if with_anchor and once:
        batch += Tally(prompt_tokens=rows * task.prompt)  # drift and loss are of one pass, which counts as two
    elif not once:
        batch += scored * ((1 if again > 1 else 0) + (1 if with_anchor else 0))
    work = batch * batches + update * updates
    for _ in range(frozen_models(method, first)):
        kept = task.train if 2 * task.train * again <= updates * train.prompts_per_update else 0
        read = kept or train.prompts_per_update * batches
        work += scored * batches + cell.passes.prompts(read, task.prompt, task.shown)
    return work


def plain_rollouts(
    cell: Cell, task: TaskOutline, sizes: tuple[float, int, int, float, float], frozen: int, update: Tally
) -> Tally:
    """The same where nothing is shared: every completion has its prompt, and its image, in every pass."""
    batches, updates, rows, mean, longest = sizes
    passes = cell.passes
    batch = passes.prompts(rows, task.prompt, task.shown)
    batch += passes.written(rows, rows, task.prompt, mean, longest, graphs=False)
    batch += Tally(prompt_tokens=rows * task.prompt)
    update += passes.whole(rows, task.prompt, longest, task.shown, learn=True)
    scored = passes.whole(rows, task.prompt, longest, task.shown) + passes.head(rows * mean)
    scored += Tally(prompt_tokens=rows * task.prompt)
    scores = frozen + (1 if "anchor" in cell.method.needs and frozen > 1 else 0)
    return batch * batches + update * updates + scored * (scores * batches)


def frozen_models(method: Method, first: bool) -> int:
    """Models beside the policy that score rollouts: reference, and from the second task on the anchor."""
    anchor = "anchor" in method.needs and not first
    reference = "reference" in method.needs
    same = anchor and (method.anchor_rule.kind == "base" or method.kl_target == "anchor")
    return int(anchor) + int(reference and not same)


def fisher(cell: Cell, task: TaskOutline) -> Tally:
    """Completions of some examples, one by one, and their gradients."""
    items, mean, passes = min(cell.method.fisher_items, task.train), cell.lengths.test, cell.passes
    work = passes.prompts(1, task.prompt, task.shown) + passes.written(1, 1, task.prompt, mean, mean, graphs=False)
    work += passes.whole(1, task.prompt, mean, task.shown, learn=True)
    work += passes.head(task.prompt + mean, learn=True) + Tally(prompt_tokens=2 * task.prompt)
    return work * items


def drift(cell: Cell, stage: int) -> Tally:
    """Rollouts of the policy and of those before it, and what each says about the other's."""
    task = cell.outline.joint if cell.method.joint else cell.outline.tasks[stage - 1]
    prompt = task.prompts[-1] if cell.method.joint else task.prompts[stage - 1]
    items, mean, passes = min(cell.config.evaluate.drift_prompts, task.test), cell.lengths.test, cell.passes
    others = 1 if cell.method.joint or stage == 1 else 2
    longest, at_once = cell.lengths.longest(mean), min(items, PROMPTS)
    own, theirs = items * GROUP_SIZE, items * OTHERS_SIZE

    def sampled(rows: float, copies: int) -> Tally:
        return passes.written(rows, at_once * copies, prompt, mean, longest, graphs=False)

    def said(rows: float) -> Tally:
        both = passes.following(rows, longest, prompt + longest) + passes.head(rows * mean)
        return (both + Tally(prompt_tokens=rows * prompt)) * 2

    work = passes.prompts(items, prompt, task.shown) * (1 + others)
    work += sampled(own, GROUP_SIZE) + Tally(prompt_tokens=own * prompt)
    each = sampled(theirs, OTHERS_SIZE) + Tally(prompt_tokens=theirs * prompt) + said(own) + said(theirs)
    return work + each * others


def tests(cell: Cell, stage: int) -> Tally:
    """Answers to the test items of every task due, to one task once more, and to the built-in probe."""
    evaluate, outline, method = cell.config.evaluate, cell.outline, cell.method
    mean = cell.lengths.test if stage and cell.trains else cell.lengths.base
    work = Tally()
    for index, task in enumerate(outline.tasks, start=1):
        if index <= stage or evaluate.future:
            work += answered(cell, task.test, task.prompts[max(stage, index) - 1], task, mean)
    asked_again = evaluate.final_list and stage > 0 and not method.joint
    if asked_again and not outline.tasks[stage - 1].lists_all:
        task = outline.tasks[stage - 1]
        work += answered(cell, task.test, task.prompts[-1], task, mean, seen=0)  # their images were seen just now
    if evaluate.probe and (stage == 0 or cell.trains or stage == len(outline)):
        work += probe(cell)
    return work


def answered(cell: Cell, items: int, prompt: float, task: TaskOutline, mean: float, seen: float | None = None) -> Tally:
    """Answers to some items."""
    batch = items / math.ceil(items / cell.config.evaluate.batch_size)
    read = cell.passes.prompts(items, prompt, task.shown, seen)
    wrote = cell.passes.written(items, batch, prompt, mean, cell.lengths.longest(mean), graphs=False)
    return read + wrote + Tally(items=items, answers=items, prompt_tokens=items * prompt)


def probe(cell: Cell) -> Tally:
    """Answers to the built-in probe."""
    look, items = cell.probe, cell.config.evaluate.probe
    task = TaskOutline(0, items, look.tokens, (look.tokens,), 0.0, look.shown, True)
    return replace(answered(cell, items, look.tokens, task, cell.lengths.probe), answers=0.0)
