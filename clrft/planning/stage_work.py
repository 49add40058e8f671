"""The work of a cell's stages, counted from what the code that runs does: training, drift, tests.

It follows ``methods/training/fit.py``, ``methods/generation/group_passes.py`` (updates), ``methods/drift/measure.py``
(drift) and ``clrft/runner/stage.py`` (tests); operations are those of ``methods/costs/flops.py``, so that they add up
to what a run's meter counts. Of several processes each has an even share of the rows of updates; whole batches of tests
are dealt out; drift, Fisher information and what frozen models keep are done by every one. Of penalties and estimates
those of the methods in ``COUNTED`` are in it; what other parts' hooks compute is not, which a plan tells.
Deliberately absent: AdamW's step; split weights that are put together for the disk; work on a CPU beside a GPU
(decoding images, tokenising, scoring answers).
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import pandas as pd
import torch

from clrft.config.run_config import RunConfig
from clrft.memory.phases import ALONE, Phases, Sharing
from clrft.planning.stream_statistics import (
    PromptLengths,
    StreamStatistics,
    TaskStatistics,
    images_in,
    probe_prompt,
    statistics_of,
)
from clrft.runs.layout import COUNTS, DRIFT, EVALUATE, TRAIN
from methods.costs.flops import Work
from methods.drift.items import GROUP_SIZE, OTHERS_SIZE
from methods.drift.measure import PROMPTS
from methods.generation.shared_prefix import SAVED
from methods.settings import TrainConfig
from methods.training.budget import planned_updates, rows_per_update

COUNTED = frozenset(
    (
        *("zero_shot", "sft", "grpo", "joint_sft", "joint_grpo", "rapo", "rapo_rr", "rapo_ctan"),
        *("dr_grpo", "dapo", "gspo", "sapo", "anchored_kl", "l2", "l2_init", "ewc", "lwf", "wise", "replay"),
    )
)
BACKWARD = 3  # passes that one with gradients counts as: forward, and twice that backward
RECORDED = 0.2  # a layer of a recorded step beside one that is launched: 0.15 ms and 0.7 ms on an H200
# Columns of a table of work: what a run's costs have, and what it asks of a device beside arithmetic.
COLUMNS = (
    "updates",  # optimizer steps
    "test_items",  # test items that are answered
    *COUNTS,
    "passes",  # operations of prompts, and of completions that are scored or learned, backward included
    "again",  # operations of activations that are computed again, which a meter does not count
    "decoding",  # operations of tokens that are written one after the other
    "launched",  # layers that are launched by passes
    "stepped",  # layers that are launched to write tokens, those of recorded steps in part
    "moved",  # bytes that steps of decoding read
    "share",  # of all that, what the process has which has most, for which the others wait
    "exchanged",  # bytes that a process gets from the others, and sends as many
)

Counts = Mapping[str, float]  # by some of these columns
Calls = list[tuple[float, Counts]]  # how often, and what each comes to


def total(calls: Calls, times: float = 1.0) -> dict[str, float]:
    """What calls come to, all of them so many times."""
    found: dict[str, float] = {}
    for often, counts in calls:
        for name, count in counts.items():
            found[name] = found.get(name, 0.0) + count * often * times
    return found


def batch_sizes(items: int, size: int) -> Counter[int]:
    """How many batches of some items have so many: all but the last are full."""
    return Counter(min(size, items - start) for start in range(0, items, size))


def micro_batches(train: TrainConfig, items: int, updates: int) -> Counter[int]:
    """Supervised batches by their rows: an epoch's last one has what is left, and ends its update."""
    epoch = [*batch_sizes(items, max(1, train.prompts_per_update // train.accumulation)).elements()]
    epochs, left = divmod(updates, math.ceil(len(epoch) / train.accumulation))
    return Counter(epoch * epochs + epoch[: left * train.accumulation])


def part_of(rows: int, count: int, group: int) -> tuple[float, float]:
    """Rollouts of one of so many even parts of a batch, and their different prompts: means; groups are adjacent."""
    ends = [rows * place // count for place in range(count + 1)]
    return rows / count, sum(len({row // group for row in range(*part)}) for part in pairwise(ends)) / count


class Lengths(NamedTuple):
    """Tokens of a completion, end of sequence included."""

    train: float  # of a rollout
    test: float  # of an answer
    spread: float  # the longest of a batch is so many times as long as the mean


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
        self.held = Phases(config, self.statistics.longest, device, sharing)
        self.sizes, self.shape, self.method = self.held.sizes, self.held.sizes.shape, self.held.method
        # Bytes of all weights that a process gets from the others where they are split.
        self.gathered = (self.held.parts - 1) / self.held.parts * self.sizes.parameters * self.held.weight
        self.trains, last = self.method.family != "frozen", len(self.statistics.tasks)
        self.stages = [0, last] if self.method.joint else list(range(last + 1))

    def work(self) -> pd.DataFrame:
        """Work of all processes together, by stage and activity."""
        rows: dict[tuple[int, str], Counts] = {}
        for stage in self.stages:
            rows[stage, EVALUATE] = self.tests(stage)
            if stage and self.trains:
                rows[stage, TRAIN] = self.training(stage)
                if self.config.evaluate.drift_prompts:
                    rows[stage, DRIFT] = {**total(self.drift(stage), self.processes), "share": 1 / self.processes}
        index = pd.MultiIndex.from_tuples(rows, names=("stage", "activity"))
        table = pd.DataFrame(list(rows.values()), index, COLUMNS).fillna(0.0)
        return table.assign(model_flops=table.passes + table.decoding)

    def training(self, stage: int) -> Counts:
        """The updates of a stage and what a method asks for around them."""
        method, train, processes, statistics = self.method, self.config.train, self.processes, self.statistics
        task, first = statistics.joint if method.joint else statistics.tasks[stage - 1], method.joint or stage == 1
        updates = planned_updates(method, train, task.train)
        if train.epochs is None and method.joint:
            updates *= len(statistics.tasks)
        learn = self.supervised if method.family == "supervised" else self.rollouts
        calls, times = learn(task, updates, first)
        if "fisher" in method.needs:  # completions of some examples, one by one, and their gradients
            prompt, mean, items = task.prompt, self.lengths.test, min(method.fisher_items, task.train)
            calls += [
                (items, self.prompts(1, prompt)),
                (items, self.written(1, prompt.tokens, mean, recorded=False, longest=mean)),
                (items, self.whole(1, prompt, mean, learn=True, every=True)),
            ]
        exchanged = self.gathered * times
        if self.held.parts == 1:  # gradients are summed: first parts, then their sums
            exchanged = updates * 2 * (processes - 1) / processes * self.held.trained
        # an update is one, however many work on it
        return {**total(calls, processes), "updates": updates, "share": 1 / processes, "exchanged": exchanged}

    def supervised(self, task: TaskStatistics, updates: int, first: bool) -> tuple[Calls, float]:
        """A process's prompts with their targets, and how often it gathers split weights for them.

        Distillation asks the anchor, and the policy once more. A process without a row computes one from which nothing
        is learned: all of it counts as a prompt.
        """
        processes, calls = self.processes, Calls()
        distilled = not first and "lwf" in dict(self.config.parts)
        passes = [(True, False), *([(False, True), (True, True)] if distilled else [])]  # with gradients, all logits
        batches = micro_batches(self.config.train, task.train, updates)
        for rows, times in batches.items():
            own, instead = rows / processes, max(0, processes - rows) / processes
            for learn, every in passes:
                calls.append((times, self.whole(own, task.prompt, task.target, learn, every, instead)))
            calls.append((times, {"tokens_trained": own * task.target}))
        return calls, batches.total() * (7 if distilled else 3)

    def rollouts(self, task: TaskStatistics, updates: int, first: bool) -> tuple[Calls, float]:
        """A process's groups of completions, and how often it gathers split weights for them.

        A prompt is computed once for its group; with ``train.share_prefix=false`` for every completion, in every pass.
        Rollouts are dealt out by whole groups where every process gets one.
        """
        config, method, held, prompt, items = self.config, self.method, self.held, task.prompt, task.train
        train, again = config.train, int(config.method.updates_per_batch)
        tokens, mean = prompt.tokens, self.lengths.train
        group = int(config.method.group_size) if train.share_prefix else 1
        every, batches, parts = rows_per_update(method, train), updates / again, updates * train.accumulation
        rows, drawn = part_of(every, self.processes, group)
        if every >= group * self.processes:
            drawn = rows / group
        micro, learned = part_of(every, self.processes * train.accumulation, group)
        # One pass over completions, with gradients, serves scoring and loss; one over prompts also serves sampling.
        once = train.share_prefix and train.accumulation == again == held.parts == 1
        serves_all = once and not config.model.gradient_checkpointing
        anchored = held.anchor and not first
        same = anchored and (method.anchor_rule.kind == "base" or method.kl_target == "anchor")
        frozen = int(anchored) + int("reference" in method.needs and not same)  # models that score rollouts
        own_scores = 0 if once else int(again > 1) + anchored
        passes = math.ceil(train.accumulation / self.processes) if held.parts > 1 else train.accumulation
        scores = batches * (own_scores + frozen)
        calls: Calls = [
            (batches, self.prompts(drawn, prompt, learn=serves_all)),
            (batches, self.written(rows, tokens, mean)),
            (scores * passes, self.following(rows / passes, tokens, mean)),
            (parts, self.following(micro, tokens, mean, learn=True)),
            (parts, {"tokens_trained": micro * mean}),
        ]
        if not train.share_prefix:
            calls.append((batches * own_scores, self.prompts(rows, prompt)))
        if once and anchored:  # drift and loss are of one pass, which counts as two
            calls.append((batches, {"prompt_tokens": rows * tokens}))
        if not serves_all:
            some = drawn if train.accumulation == again == 1 else learned
            calls.append((parts, self.prompts(some, prompt, learn=True)))
        # What prompts leave behind in frozen models is kept where they come twice, as far as there is room.
        ahead, kept = max(1, every // train.accumulation // group), 0
        asked = updates * ahead if train.epochs is None else train.epochs * items
        if frozen and train.share_prefix and held.parts == 1 and asked >= 2 * items * again:
            each = 2 * self.sizes.keys * self.shape.language_layers * tokens * held.weight
            kept = min(items, int(train.kept_prefixes * 2**20 / each / frozen))
        calls += [(times * frozen, self.prompts(count, prompt)) for count, times in batch_sizes(kept, ahead).items()]
        if kept < items:
            calls.append((batches * frozen, self.prompts(drawn * (1 - kept / items), prompt)))
        # A pass over completions goes through the layers alone, and scoring begins outside of them.
        layers, outside = (part / self.sizes.parameters for part in (self.shape.language.weights, self.sizes.outer))
        gathers = batches * (1 + frozen) + scores * (passes * layers + outside) + parts * (3 + 2 * layers)
        return calls, gathers

    def drift(self, stage: int) -> Calls:
        """Rollouts of the policy and of those before it, and what each says about the other's."""
        joint, mean, calls = self.method.joint, self.lengths.test, Calls()
        task = self.statistics.joint if joint else self.statistics.tasks[stage - 1]
        others, asked = 1 if joint or stage == 1 else 2, min(self.config.evaluate.drift_prompts, task.test)
        for count, times in batch_sizes(asked, PROMPTS).items():
            calls.append((times * (1 + others), self.prompts(count, task.prompt)))
            for size, policies in ((GROUP_SIZE, 1), (OTHERS_SIZE, others)):
                rows, tokens = count * size, task.prompt.tokens
                calls.append((times * policies, self.written(rows, tokens, mean, recorded=False)))
                calls.append((times * 2 * others, self.following(rows, tokens, mean)))
        return calls

    def tests(self, stage: int) -> Counts:
        """Answers to the test items of every task due, to one task once more, and to the built-in probe.

        A process answers whole batches in turn; split weights are gathered once, for drift and tests together.
        """
        evaluate, statistics, method, tasks = self.config.evaluate, self.statistics, self.method, self.statistics.tasks
        # Of each: the prompts, the number of items, and whether their images go through the tower.
        asked = [(statistics.prompt(place, stage - 1), task.new, True) for place, task in enumerate(tasks[:stage])]
        if stage < len(tasks):  # at the last stage all are tested on all
            tested = asked[:-1] if stage % evaluate.every == 0 else []
            own = [(prompt, items if tested else tasks[stage - 1].test, seen) for prompt, items, seen in asked[-1:]]
            asked = [(prompt, min(items, evaluate.sample or items), seen) for prompt, items, seen in tested] + own
        if evaluate.future and stage % evaluate.every == 0:
            asked += [(task.prompt, task.test, True) for task in tasks[stage:]]
        if stage and evaluate.final_list and statistics.lists[stage - 1] < statistics.lists[-1] and not method.joint:
            asked.append((statistics.prompt(stage - 1, -1), tasks[stage - 1].test, False))  # they were seen just now
        if evaluate.probe and (stage == 0 or self.trains or stage == len(tasks)):
            probe = probe_prompt(self.config.model, self.config.stream.style, evaluate.probe)
            asked.append((probe, evaluate.probe, True))
        calls, every, most = Calls(), 0, 0
        for prompt, items, seen in asked:
            batches = math.ceil(items / evaluate.batch_size)
            every, most = every + batches, most + math.ceil(batches / self.processes)
            for size, times in batch_sizes(items, math.ceil(items / max(1, batches)) or 1).items():
                calls.append((times, {"test_items": size}))
                calls.append((times, self.prompts(size, prompt, seen=seen)))
                calls.append((times, self.written(size, prompt.tokens, self.lengths.test)))
        anchor = self.held.anchor and (method.anchor_rule.kind == "base" or (stage > 1 and not method.joint))
        exchanged = self.gathered * (1 + anchor + self.held.reference)
        return {**total(calls), "share": most / max(1, every), "exchanged": exchanged}

    def longest(self, mean: float) -> float:
        """Tokens of a batch's longest completion."""
        return min(mean * self.lengths.spread, max(mean, float(self.config.train.max_completion_tokens)))

    def prompts(self, rows: float, prompt: PromptLengths, learn: bool = False, seen: bool = True) -> Counts:
        """Prompts through the model together, and their images unless these were ``seen`` just now.

        What all begin with is computed once, where that pays and no layers are checkpointed.
        """
        shared = self.config.train.share_prefix and not (learn and self.config.model.gradient_checkpointing)
        lead = prompt.lead if shared and (rows - 1) * prompt.lead >= SAVED else 0.0
        grids, times = [grid for own in prompt.grids for grid in own if seen], rows / len(prompt.grids)
        work = self.shape.language_work(rows, prompt.tokens - lead, prompt.tokens)
        work += self.shape.language_work(1, lead, lead) + self.shape.vision_work(grids) * times
        computed, layers = rows * (prompt.tokens - lead) + lead, self.shape.language_layers * (2 if lead else 1)
        passed = self.passed(work, self.sizes.tower_layers + layers, learn)
        return {"prompt_tokens_computed": computed, "images": images_in(grids) * times, **passed}

    def following(self, rows: float, prompt: float, mean: float, learn: bool = False) -> Counts:
        """Log-probabilities of completions behind prompts that were computed: all but their last tokens go through."""
        longest = self.longest(mean)
        work = self.shape.language_work(rows, max(0.0, longest - 1), prompt + longest)
        work += self.shape.head.work(rows * mean)
        return {"prompt_tokens": rows * prompt, **self.passed(work, self.shape.language_layers, learn)}

    def whole(
        self, rows: float, prompt: PromptLengths, tokens: float, learn: bool, every: bool = False, more: float = 0.0
    ) -> Counts:
        """Prompts and completions behind them in one call, and logits: of completions, or of ``every`` token.

        Nothing of so many ``more`` rows is learned, which count as prompts.
        """
        longer = replace(prompt, tokens=prompt.tokens + tokens, lead=0.0)
        head = self.passed(self.shape.head.work(rows * (tokens + prompt.tokens * every)), 0, learn)
        asked = rows * prompt.tokens + more * longer.tokens
        call = total([(1, self.prompts(rows + more, longer, learn)), (1, head)])
        return {**call, "prompt_tokens": asked, "prompt_tokens_computed": asked}

    def written(
        self, rows: float, prompt: float, mean: float, recorded: bool = True, longest: float | None = None
    ) -> Counts:
        """Completions of a batch token by token; ``recorded``: as steps, if the settings and the device allow that."""
        layers, shape, longest = self.shape.language_layers, self.shape, longest or self.longest(mean)
        work = shape.language_work(rows, max(0.0, mean - 1), prompt + mean / 2) + shape.head.work(rows * mean)
        cache = 2 * self.sizes.keys * layers * rows * (prompt + mean / 2)
        return {
            "prompt_tokens": rows * prompt,
            "tokens_generated": rows * mean,
            "decoding": work.forward,
            "stepped": longest * layers * (RECORDED if recorded and self.held.recorded else 1.0),
            "moved": longest * (shape.language.weights + shape.head.weights + cache) * self.held.compute,
        }

    def passed(self, work: Work, layers: float, learn: bool) -> Counts:
        """Operations and layers of a pass, with those backward if it learns."""
        if not learn:
            return {"passes": work.forward, "launched": layers}
        again = int(self.config.model.gradient_checkpointing)
        launched = (BACKWARD + again) * layers
        return {"passes": work.forward + work.backward, "again": work.forward * again, "launched": launched}
