"""Counted work: tokens, images and operations by what they are for, and what they ask of a device beside arithmetic.

Operations are those of ``methods/costs/flops.py``, so that they add up to what a run's meter counts.
Deliberately absent: work on a CPU beside a GPU (decoding images, tokenising, scoring answers).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

from clrft.memory.model_sizes import ModelSizes
from clrft.memory.phases import Setup
from clrft.memory.sharing import Share, Shares, Sharing
from clrft.planning.token_lengths import Grid, images_in
from methods.costs.flops import Work
from methods.generation.shared_prefix import SAVED

BACKWARD = 3  # passes that one with gradients counts as: forward, and twice that backward
RECORDED = 0.2  # a layer of a recorded step beside one that is launched: 0.15 ms and 0.7 ms on an H200


@dataclass(frozen=True, slots=True)
class OperationCounts:
    """Work."""

    updates: float = 0.0  # optimizer steps
    items: float = 0.0  # test items that are answered
    answers: float = 0.0  # that are kept; of an item that several tasks are tested on one for each
    completions: float = 0.0  # that are sampled or answered
    prompt_tokens: float = 0.0  # as a model has them that shares nothing
    prompt_tokens_computed: float = 0.0  # that go through the model
    tokens_generated: float = 0.0  # sampled
    tokens_trained: float = 0.0  # in the learner's own loss
    images: float = 0.0  # through the vision tower
    reading: float = 0.0  # operations of prompts, and of completions that are scored
    learning: float = 0.0  # operations of passes with gradients, backward included
    decoding: float = 0.0  # operations of tokens that are written one after the other
    again: float = 0.0  # operations of activations that are computed again, which a meter does not count
    launched: float = 0.0  # layers that are launched by passes that read or learn
    stepped: float = 0.0  # layers that are launched to write tokens, those of recorded steps in part
    moved: float = 0.0  # bytes that steps read
    stepping: float = 0.0  # bytes that the optimizer reads and writes
    exchanged: float = 0.0  # bytes that a device gets from the others of its cell, and sends as many

    def __add__(self, other: "OperationCounts") -> "OperationCounts":
        return OperationCounts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __mul__(self, times: float) -> "OperationCounts":
        return OperationCounts(*(getattr(self, one.name) * times for one in fields(self)))

    @property
    def model_flops(self) -> float:
        """Operations as a meter counts them."""
        return self.reading + self.learning + self.decoding


def total_of(counts: Iterable[OperationCounts]) -> OperationCounts:
    """Work added up."""
    return sum(counts, OperationCounts())


@dataclass(frozen=True, slots=True)
class SharedCounts:
    """Work of a cell's processes."""

    all: OperationCounts = OperationCounts()  # of all together, as a run's costs have it
    own: OperationCounts = OperationCounts()  # of the one that has most, for which the others wait

    def __add__(self, other: "SharedCounts") -> "SharedCounts":
        return SharedCounts(self.all + other.all, self.own + other.own)

    def __mul__(self, times: float) -> "SharedCounts":
        return SharedCounts(self.all * times, self.own * times)

    @classmethod
    def of(cls, shares: Shares, work: Callable[[Share], OperationCounts]) -> "SharedCounts":
        """The work that each does by its share."""
        each = {share: work(share) for share in shares}
        return cls(total_of(each[share] * count for share, count in shares.items()), each[max(shares)])

    @classmethod
    def alike(cls, work: OperationCounts, sharing: Sharing) -> "SharedCounts":
        """Work that every process does by itself."""
        return cls(work * sharing.processes, work)


@dataclass(frozen=True, slots=True)
class Passes:
    """How calls of one model are counted; where weights are split a pass gathers those that it goes through."""

    sizes: ModelSizes
    setup: Setup

    @property
    def unsharded(self) -> "Passes":
        """The same while every process has all weights."""
        return replace(self, setup=replace(self.setup, parts=1))

    def prompts(
        self,
        rows: float,
        tokens: float,
        grids: Sequence[Sequence[Grid]],
        seen: float | None = None,
        learn: bool = False,
        lead: float = 0.0,
    ) -> OperationCounts:
        """Prompts through the model together, and their images; what all begin with once, where that pays.

        Args:
            rows: how many.
            tokens: of each.
            grids: images of some such prompts.
            seen: prompts whose images go through the tower; None: all.
            learn: with gradients.
            lead: tokens that all of them begin with.
        """
        lead = lead if (rows - 1) * lead >= SAVED else 0.0
        work, images = self._vision(grids, rows if seen is None else seen)
        work += self._language(rows, tokens - lead, tokens) + self._language(1, lead, lead)
        layers = self.sizes.layers + (self.sizes.text.layers if lead else 0)
        counts = OperationCounts(prompt_tokens_computed=rows * (tokens - lead) + lead, images=images)
        return counts + self._passed(work, layers, learn, self.sizes.parameters)

    def following(self, rows: float, tokens: float, context: float, learn: bool = False) -> OperationCounts:
        """Completions behind prompts that were computed: all but their last tokens.

        Their gradients are added to those of the prompts, with which they are summed.
        """
        work, weights = self._language(rows, max(0.0, tokens - 1), context), self.sizes.shape.language.weights
        passed = self._passed(work, self.sizes.text.layers, learn, weights)
        return replace(passed, exchanged=passed.exchanged - (self.from_others(weights) if learn else 0.0))

    def whole(
        self, rows: float, prompt: float, tokens: float, grids: Sequence[Sequence[Grid]], learn: bool = False
    ) -> OperationCounts:
        """Prompts and completions behind them in one call."""
        call = self.prompts(rows, prompt + tokens, grids, learn=learn)
        return replace(call, prompt_tokens_computed=rows * prompt)

    def head(self, tokens: float, learn: bool = False) -> OperationCounts:
        """Logits of some tokens."""
        return self._passed(_times(self.sizes.shape.head.work(1), tokens), 0, learn, 0)

    def written(
        self, rows: float, prompt: float, mean: float, longest: float, recorded: bool = False
    ) -> OperationCounts:
        """Completions of a batch token by token.

        Args:
            rows: how many.
            prompt: tokens before them.
            mean: tokens of one.
            longest: tokens of the longest.
            recorded: by recorded steps, if the settings and the device allow that.
        """
        text, shape = self.sizes.text, self.sizes.shape
        work = self._language(rows, max(0.0, mean - 1), prompt + mean / 2) + _times(shape.head.work(1), rows * mean)
        cache = 2 * text.keys * text.layers * rows * (prompt + mean / 2)
        return OperationCounts(
            completions=rows,
            tokens_generated=rows * mean,
            decoding=work.forward,
            stepped=longest * text.layers * (RECORDED if recorded and self.setup.recorded else 1.0),
            moved=longest * (shape.language.weights + shape.head.weights + cache) * self.setup.compute,
        )

    def optimizer(self, processes: int) -> OperationCounts:
        """One step of AdamW: weight, gradient and two moments read, three of them written; each its part.

        Gradients are summed over processes that have all weights: first parts, then their sums.
        """
        size, numbers = self.sizes.trained * self.setup.weight, 9.0 if self.setup.compensated else 7.0
        summed = 2 * (processes - 1) / processes * size if self.setup.parts == 1 else 0.0
        return OperationCounts(updates=1.0, stepping=numbers * size / self.setup.parts, exchanged=summed)

    def from_others(self, weights: float) -> float:
        """Bytes of so many weights that a process gets from the others."""
        return (self.setup.parts - 1) / self.setup.parts * weights * self.setup.weight

    def _vision(self, grids: Sequence[Sequence[Grid]], rows: float) -> tuple[Work, float]:
        """Work and number of the images of so many prompts, by those of some."""
        flat, times = [grid for own in grids for grid in own], rows / len(grids)
        return _times(self.sizes.shape.vision_work(flat), times), images_in(flat) * times

    def _language(self, rows: float, tokens: float, context: float) -> Work:
        one = self.sizes.shape.language_work(1, 1, 0)  # without attention, which is that of context 1 each
        pair = self.sizes.shape.language_work(1, 1, 1)
        attention = Work(pair.forward - one.forward, pair.backward - one.backward)
        return _times(one, rows * tokens) + _times(attention, rows * tokens * context)

    def _passed(self, work: Work, layers: float, learn: bool, weights: float) -> OperationCounts:
        """A pass; with gradients the backward pass gathers its weights again, and gives each process its sums."""
        exchanged = self.from_others(weights)
        if not learn:
            return OperationCounts(reading=work.forward, launched=layers, exchanged=exchanged)
        again = self.setup.checkpointing
        return OperationCounts(
            learning=work.forward + work.backward,
            again=work.forward * again,
            launched=(BACKWARD + again) * layers,
            exchanged=3 * exchanged,
        )


def _times(work: Work, times: float) -> Work:
    return Work(round(work.forward * times), round(work.backward * times))
