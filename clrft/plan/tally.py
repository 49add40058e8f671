"""Counted work: tokens, images and operations by what they are for, and what they ask of a device beside arithmetic.

Operations are those of ``methods/flops.py``, so that they add up to what a run's meter counts. Deliberately absent:
work on a CPU beside a GPU (decoding images, tokenising, scoring answers).
"""

from dataclasses import dataclass, fields

from clrft.plan.checkpoint import Checkpoint
from clrft.plan.ruler import Shown
from methods.flops import Work

BACKWARD = 3  # passes that one with gradients counts as: forward, and twice that backward
AGAIN = 1  # one more where activations are computed again


@dataclass(frozen=True, slots=True)
class Tally:
    """Work.

    Attributes:
        updates: optimizer steps.
        items: test items that are answered.
        answers: those of them whose answers are kept.
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
        stepped: layers that are launched by steps.
        moved: bytes that steps read.
        stepping: bytes that the optimizer reads and writes.
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
        weight: bytes of a weight.
        checkpointing: activations are computed again.
        graphs: steps of rollouts are recorded, so that nothing is launched.
    """

    checkpoint: Checkpoint
    weight: int
    checkpointing: bool = False
    graphs: bool = False

    def prompts(
        self, rows: float, tokens: float, shown: Shown, seen: float | None = None, learn: bool = False
    ) -> Tally:
        """Prompts through the model, and their images.

        Args:
            rows: how many.
            tokens: of each.
            shown: images of some such prompts.
            seen: prompts whose images go through the tower; None: all.
            learn: with gradients.
        """
        seen = rows if seen is None else seen
        work = _times(self.checkpoint.shape.vision_work(shown.grids), seen / shown.items)
        work += self._language(rows, tokens, tokens)
        counts = Tally(prompt_tokens_computed=rows * tokens, images=seen * shown.images)
        return counts + self._passed(work, self.checkpoint.layers, learn)

    def following(self, rows: float, tokens: float, context: float, learn: bool = False) -> Tally:
        """Completions behind prompts that were computed: all but their last tokens."""
        work = self._language(rows, max(0.0, tokens - 1), context)
        return self._passed(work, self.checkpoint.sizes.text.layers, learn)

    def whole(self, rows: float, prompt: float, tokens: float, shown: Shown, learn: bool = False) -> Tally:
        """Prompts and completions behind them in one call."""
        work = _times(self.checkpoint.shape.vision_work(shown.grids), rows / shown.items)
        work += self._language(rows, prompt + tokens, prompt + tokens)
        counts = Tally(prompt_tokens_computed=rows * prompt, images=rows * shown.images)
        return counts + self._passed(work, self.checkpoint.layers, learn)

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
            graphs: by recorded steps, if the settings ask for that.
        """
        text = self.checkpoint.sizes.text
        work = self._language(rows, max(0.0, mean - 1), prompt + mean / 2)
        work += _times(self.checkpoint.shape.head.work(1), rows * mean)
        steps = rows / batch * longest
        weights = self.checkpoint.shape.language.weights + self.checkpoint.shape.head.weights
        cache = 2 * text.keys * text.layers * batch * (prompt + mean / 2)
        launched = 0.0 if graphs and self.graphs else steps * text.layers
        return Tally(
            completions=rows,
            tokens_generated=rows * mean,
            decoding=work.forward,
            steps=steps,
            stepped=launched,
            moved=steps * (weights + cache) * self.weight,
        )

    def optimizer(self, trained: int, width: int) -> Tally:
        """One step of AdamW: weight, gradient and two moments read, three of them written."""
        return Tally(updates=1.0, stepping=7.0 * trained * width)

    def _language(self, rows: float, tokens: float, context: float) -> Work:
        one = self.checkpoint.shape.language_work(1, 1, 0)  # without attention, which is that of context 1 each
        pair = self.checkpoint.shape.language_work(1, 1, 1)
        attention = Work(pair.forward - one.forward, pair.backward - one.backward)
        return _times(one, rows * tokens) + _times(attention, rows * tokens * context)

    def _passed(self, work: Work, layers: int, learn: bool) -> Tally:
        if not learn:
            return Tally(reading=work.forward, launched=layers)
        again = work.forward if self.checkpointing else 0
        passes = BACKWARD + (AGAIN if self.checkpointing else 0)
        return Tally(learning=work.forward + work.backward, again=again, launched=passes * layers)


def _times(work: Work, times: float) -> Work:
    return Work(round(work.forward * times), round(work.backward * times))
