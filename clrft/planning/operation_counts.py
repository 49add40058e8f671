"""Counted work: tokens, images and operations by what they are for, and what they ask of a device beside arithmetic.

Operations are those of ``methods/costs/flops.py``, so that they add up to what a run's meter counts.
Deliberately absent: work on a CPU beside a GPU (decoding images, tokenising, scoring answers).
"""

from dataclasses import dataclass, fields, replace

import torch

from clrft.config.run_config import RunConfig
from clrft.memory.checkpoint_shape import Checkpoint
from clrft.memory.estimate import setup_of
from clrft.planning.token_lengths import Shown
from methods import build_method
from methods.costs.flops import Work
from methods.generation.shared_prefix import SAVED

BACKWARD = 3  # passes that one with gradients counts as: forward, and twice that backward
AGAIN = 1  # one more where activations are computed again
RECORDED = 0.2  # a layer of a recorded step beside one that is launched: 0.15 ms and 0.7 ms on an H200


@dataclass(frozen=True, slots=True)
class Tally:
    """Work.

    Attributes:
        updates: optimizer steps.
        items: test items that are answered.
        answers: that are kept; of an item that several tasks are tested on one for each.
        completions: that are sampled or answered.
        prompt_tokens: as a model has them that shares nothing.
        prompt_tokens_computed: that go through the model.
        tokens_generated: sampled.
        tokens_trained: in the learner's own loss.
        images: through the vision tower.
        reading: operations of prompts, and of completions that are scored.
        learning: operations of passes with gradients, backward included.
        decoding: operations of tokens that are written one after the other.
        again: operations of activations that are computed again, which a meter does not count.
        steps: passes that write a token of a batch, one after the other.
        launched: layers that are launched by passes that read or learn.
        stepped: layers that are launched by steps, those of recorded steps in part.
        moved: bytes that steps read.
        stepping: bytes that the optimizer reads and writes.
        exchanged: bytes that a device gets from the others of its cell, and sends as many.
    """

    updates: float = 0.0
    items: float = 0.0
    answers: float = 0.0
    completions: float = 0.0
    prompt_tokens: float = 0.0
    prompt_tokens_computed: float = 0.0
    tokens_generated: float = 0.0
    tokens_trained: float = 0.0
    images: float = 0.0
    reading: float = 0.0
    learning: float = 0.0
    decoding: float = 0.0
    again: float = 0.0
    steps: float = 0.0
    launched: float = 0.0
    stepped: float = 0.0
    moved: float = 0.0
    stepping: float = 0.0
    exchanged: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __mul__(self, times: float) -> "Tally":
        return Tally(*(getattr(self, one.name) * times for one in fields(self)))

    @property
    def model_flops(self) -> float:
        """Operations as a meter counts them."""
        return self.reading + self.learning + self.decoding


@dataclass(frozen=True, slots=True)
class Passes:
    """How calls of one model are counted.

    Attributes:
        checkpoint: the model.
        weight: bytes of a weight as it is held.
        compute: bytes of a weight, or a number of the cache, as it is computed with.
        checkpointing: activations are computed again.
        compensated: an update moves a compensation beside each weight.
        graphs: steps are recorded where the code records them, so that little is launched.
        parts: processes that the weights are split among: a pass gathers those that it goes through.
    """

    checkpoint: Checkpoint
    weight: int
    compute: int
    checkpointing: bool = False
    compensated: bool = False
    graphs: bool = False
    parts: int = 1

    @classmethod
    def of(cls, config: RunConfig, checkpoint: Checkpoint, device: torch.device, graphs: bool, parts: int) -> "Passes":
        """Those of a cell's model, its optimizer decided."""
        setup = setup_of(config, build_method(config.method_name, config.method, config.parts), device)
        return cls(
            checkpoint,
            setup.precision.weight,
            setup.precision.compute,
            setup.checkpointing,
            setup.compensated,
            graphs,
            parts,
        )

    @property
    def together(self) -> "Passes":
        """The same while every process has all weights."""
        return replace(self, parts=1)

    def prompts(
        self,
        rows: float,
        tokens: float,
        shown: Shown,
        seen: float | None = None,
        learn: bool = False,
        lead: float = 0.0,
    ) -> Tally:
        """Prompts through the model together, and their images; what all begin with once, where that pays.

        Args:
            rows: how many.
            tokens: of each.
            shown: images of some such prompts.
            seen: prompts whose images go through the tower; None: all.
            learn: with gradients.
            lead: tokens that all of them begin with.
        """
        seen = rows if seen is None else seen
        lead = lead if (rows - 1) * lead >= SAVED else 0.0
        work = _times(self.checkpoint.shape.vision_work(shown.grids), seen / shown.items)
        work += self._language(rows, tokens - lead, tokens) + self._language(1, lead, lead)
        counts = Tally(prompt_tokens_computed=rows * (tokens - lead) + lead, images=seen * shown.images)
        layers = self.checkpoint.layers + (self.checkpoint.sizes.text.layers if lead else 0)
        return counts + self._passed(work, layers, learn, self.checkpoint.sizes.parameters)

    def following(self, rows: float, tokens: float, context: float, learn: bool = False) -> Tally:
        """Completions behind prompts that were computed: all but their last tokens.

        Their gradients are added to those of the prompts, with which they are summed.
        """
        work = self._language(rows, max(0.0, tokens - 1), context)
        layers, weights = self.checkpoint.sizes.text.layers, self.checkpoint.shape.language.weights
        passed = self._passed(work, layers, learn, weights)
        return replace(passed, exchanged=passed.exchanged - (self._from_others(weights) if learn else 0.0))

    def entered(self) -> Tally:
        """A pass that begins inside of the model gathers what is outside of the layers, too."""
        return Tally(exchanged=self._from_others(self.checkpoint.outer))

    def whole(self, rows: float, prompt: float, tokens: float, shown: Shown, learn: bool = False) -> Tally:
        """Prompts and completions behind them in one call."""
        work = _times(self.checkpoint.shape.vision_work(shown.grids), rows / shown.items)
        work += self._language(rows, prompt + tokens, prompt + tokens)
        counts = Tally(prompt_tokens_computed=rows * prompt, images=rows * shown.images)
        return counts + self._passed(work, self.checkpoint.layers, learn, self.checkpoint.sizes.parameters)

    def head(self, tokens: float, learn: bool = False) -> Tally:
        """Logits of some tokens."""
        return self._passed(_times(self.checkpoint.shape.head.work(1), tokens), 0, learn)

    def written(self, rows: float, batch: float, prompt: float, mean: float, longest: float, graphs: bool) -> Tally:
        """Completions token by token.

        Args:
            rows: how many.
            batch: written at once.
            prompt: tokens before them.
            mean: tokens of one.
            longest: tokens of the longest of a batch.
            graphs: by recorded steps, if the settings and the device allow that.
        """
        text = self.checkpoint.sizes.text
        work = self._language(rows, max(0.0, mean - 1), prompt + mean / 2)
        work += _times(self.checkpoint.shape.head.work(1), rows * mean)
        steps = rows / batch * longest
        weights = self.checkpoint.shape.language.weights + self.checkpoint.shape.head.weights
        cache = 2 * text.keys * text.layers * batch * (prompt + mean / 2)
        launched = steps * text.layers * (RECORDED if graphs and self.graphs else 1.0)
        return Tally(
            completions=rows,
            tokens_generated=rows * mean,
            decoding=work.forward,
            steps=steps,
            stepped=launched,
            moved=steps * (weights + cache) * self.compute,
        )

    def optimizer(self) -> Tally:
        """One step of AdamW: weight, gradient and two moments read, three of them written; each its part."""
        numbers = 9.0 if self.compensated else 7.0
        return Tally(updates=1.0, stepping=numbers * self.checkpoint.trained * self.weight / self.parts)

    def gathered(self, models: float = 1.0) -> Tally:
        """All weights of so many models, put together in every process."""
        return Tally(exchanged=self._from_others(models * self.checkpoint.sizes.parameters))

    def summed(self, processes: int) -> Tally:
        """The gradients of an update, summed over processes that have all weights: first parts, then their sums."""
        there = 2 * (processes - 1) / processes * self.checkpoint.trained * self.weight
        return Tally(exchanged=there if self.parts == 1 else 0.0)

    def _language(self, rows: float, tokens: float, context: float) -> Work:
        one = self.checkpoint.shape.language_work(1, 1, 0)  # without attention, which is that of context 1 each
        pair = self.checkpoint.shape.language_work(1, 1, 1)
        attention = Work(pair.forward - one.forward, pair.backward - one.backward)
        return _times(one, rows * tokens) + _times(attention, rows * tokens * context)

    def _passed(self, work: Work, layers: float, learn: bool, weights: float = 0.0) -> Tally:
        """A pass; with gradients the backward pass gathers its weights again, and gives each process its sums."""
        there = self._from_others(weights)
        if not learn:
            return Tally(reading=work.forward, launched=layers, exchanged=there)
        again = work.forward if self.checkpointing else 0
        passes = BACKWARD + (AGAIN if self.checkpointing else 0)
        learning = work.forward + work.backward
        return Tally(learning=learning, again=again, launched=passes * layers, exchanged=3 * there)

    def _from_others(self, weights: float) -> float:
        return (self.parts - 1) / self.parts * weights * self.weight


def _times(work: Work, times: float) -> Work:
    return Work(round(work.forward * times), round(work.backward * times))
