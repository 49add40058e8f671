"""Counted work: tokens, images and operations of calls of a model, and what they ask of a device beside arithmetic.

Operations are those of ``methods/costs/flops.py``, so that they add up to what a run's meter counts.
Deliberately absent: work on a CPU beside a GPU (decoding images, tokenising, scoring answers).
"""

from dataclasses import dataclass, fields, replace

from clrft.memory.phases import Phases
from clrft.planning.stream_statistics import PromptLengths, images_in
from methods.costs.flops import Work
from methods.generation.shared_prefix import SAVED

BACKWARD = 3  # passes that one with gradients counts as: forward, and twice that backward
RECORDED = 0.2  # a layer of a recorded step beside one that is launched: 0.15 ms and 0.7 ms on an H200


@dataclass(frozen=True, slots=True)
class OperationCounts:
    """Work."""

    updates: float = 0.0  # optimizer steps
    items: float = 0.0  # test items that are answered
    prompt_tokens: float = 0.0  # as a model has them that shares nothing
    prompt_tokens_computed: float = 0.0  # that go through the model
    tokens_generated: float = 0.0  # sampled
    tokens_trained: float = 0.0  # in the learner's own loss
    images: float = 0.0  # through the vision tower
    passes: float = 0.0  # operations of prompts, and of completions that are scored or learned, backward included
    again: float = 0.0  # operations of activations that are computed again, which a meter does not count
    decoding: float = 0.0  # operations of tokens that are written one after the other
    launched: float = 0.0  # layers that are launched by passes
    stepped: float = 0.0  # layers that are launched to write tokens, those of recorded steps in part
    moved: float = 0.0  # bytes that steps of decoding read

    def __add__(self, other: "OperationCounts") -> "OperationCounts":
        return OperationCounts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __mul__(self, times: float) -> "OperationCounts":
        return OperationCounts(*(getattr(self, one.name) * times for one in fields(self)))

    @property
    def model_flops(self) -> float:
        """Operations as a meter counts them."""
        return self.passes + self.decoding


class Calls:
    """Calls of one model, counted; ``held`` tells how that is held."""

    def __init__(self, held: Phases) -> None:
        self.held, self.sizes, self.shape = held, held.sizes, held.sizes.shape
        self.again = int(held.config.model.gradient_checkpointing)

    def prompts(self, rows: float, prompt: PromptLengths, learn: bool = False, seen: bool = True) -> OperationCounts:
        """Prompts through the model together, and their images unless these were ``seen`` just now.

        What all begin with is computed once, where that pays and no layers are checkpointed.
        """
        shared = self.held.config.train.share_prefix and not (learn and self.again)
        lead = prompt.lead if shared and (rows - 1) * prompt.lead >= SAVED else 0.0
        work = self.shape.language_work(rows, prompt.tokens - lead, prompt.tokens)
        work += self.shape.language_work(1, lead, lead)
        grids = [grid for own in prompt.grids for grid in own if seen]
        times = rows / len(prompt.grids)
        layers = self.sizes.tower_layers + self.sizes.shape.language_layers * (2 if lead else 1)
        computed = rows * (prompt.tokens - lead) + lead
        counts = OperationCounts(prompt_tokens_computed=computed, images=images_in(grids) * times)
        return counts + self._passed(work + self.shape.vision_work(grids) * times, layers, learn)

    def following(
        self, rows: float, prompt: float, mean: float, longest: float, learn: bool = False
    ) -> OperationCounts:
        """Log-probabilities of completions behind prompts that were computed: all but their last tokens go through."""
        work = self.shape.language_work(rows, max(0.0, longest - 1), prompt + longest)
        passed = self._passed(work + self.shape.head.work(rows * mean), self.sizes.shape.language_layers, learn)
        return replace(passed, prompt_tokens=rows * prompt)

    def whole(
        self, rows: float, prompt: PromptLengths, tokens: float, learn: bool, every: bool = False, more: float = 0.0
    ) -> OperationCounts:
        """Prompts and completions behind them in one call, and logits: of completions, or of ``every`` token.

        Nothing of so many ``more`` rows is learned, which count as prompts.
        """
        head = self.shape.head.work(rows * (tokens + prompt.tokens * every))
        longer = replace(prompt, tokens=prompt.tokens + tokens, lead=0.0)
        call = self.prompts(rows + more, longer, learn) + self._passed(head, 0, learn)
        asked = rows * prompt.tokens + more * longer.tokens
        return replace(call, prompt_tokens=asked, prompt_tokens_computed=asked)

    def written(
        self, rows: float, prompt: float, mean: float, longest: float, recorded: bool = True
    ) -> OperationCounts:
        """Completions of a batch token by token; ``recorded``: as steps, if the settings and the device allow that."""
        layers, shape = self.sizes.shape.language_layers, self.shape
        work = shape.language_work(rows, max(0.0, mean - 1), prompt + mean / 2) + shape.head.work(rows * mean)
        cache = 2 * self.sizes.keys * layers * rows * (prompt + mean / 2)
        return OperationCounts(
            prompt_tokens=rows * prompt,
            tokens_generated=rows * mean,
            decoding=work.forward,
            stepped=longest * layers * (RECORDED if recorded and self.held.recorded else 1.0),
            moved=longest * (shape.language.weights + shape.head.weights + cache) * self.held.compute,
        )

    def _passed(self, work: Work, layers: float, learn: bool) -> OperationCounts:
        if not learn:
            return OperationCounts(passes=work.forward, launched=layers)
        launched = (BACKWARD + self.again) * layers
        return OperationCounts(passes=work.forward + work.backward, again=work.forward * self.again, launched=launched)
