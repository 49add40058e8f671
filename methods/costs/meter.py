"""What a model's calls come to: tokens, images and floating point operations, counted where the model is called.

A meter watches a model from inside (forward hooks), so whoever calls it is counted: rollouts, updates,
log-probabilities of anchor and reference (copies of the model keep its meter), penalties, estimates, evaluation. What a
call with prompts and completions together cannot tell, the caller tells. Nothing here changes a number that the model
computes, and counts stay on the device until they are asked for. Of several processes each counts
its own; the sum is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from methods.costs.flops import ModelShape, Work, shape_of

if TYPE_CHECKING:
    from torch import Tensor

COUNTS = (
    "prompt_tokens",  # of all rows and passes, images' included: as a model has it that shares nothing
    "prompt_tokens_computed",  # those that went through the model: a group's shared prompt once
    "tokens_generated",  # sampled, end of sequence included
    "tokens_trained",  # in the learner's own loss
    "images",  # that went through the vision tower; a clip counts as the steps of its time
    "model_flops",  # floating point operations, forward and backward
)
IGNORED = -100  # label of a token that is not learned

Counts = dict[str, float]


class Meter:
    """Counts of one model and its copies since the last ``taken``."""

    def __init__(self) -> None:
        self._counts: dict[str, float] = dict.fromkeys(COUNTS, 0)
        self._waiting: list[tuple[str, Tensor, float]] = []  # on the model's device
        self._paused = False
        self._model: Any = None
        self._shape: ModelShape | None = None

    def __deepcopy__(self, memo: Any) -> Meter:
        return self  # a frozen copy of the model counts here too

    def watch(self, model: Any) -> None:
        """Count the calls of a transformers model, inside an adapter's wrapper or not, and of later copies of it."""
        self._model = model
        self.watch_too(model)
        self.look()

    def watch_too(self, model: Any) -> None:
        """Count the calls of another model of the same shape, which is no copy of the one that is watched."""
        model.__dict__["meter"] = self
        backbone = getattr(model, "model", model)
        model.register_forward_hook(self._on_whole, with_kwargs=True)
        backbone.register_forward_hook(self._on_tokens, with_kwargs=True)
        if shape_of(model) is not None:
            backbone.visual.register_forward_hook(self._on_images, with_kwargs=True)
            model.get_output_embeddings().register_forward_hook(self._on_head)

    def look(self) -> None:
        """Look again at which weights are trained."""
        self._shape = None if self._model is None else shape_of(self._model)

    def taken(self) -> Counts:
        """What came together since the last time; of families other than Qwen2-VL's neither images nor operations."""
        for name, value, times in self._waiting:
            self._counts[name] += int(value) * times
        self._waiting = []
        counts, self._counts = self._counts, dict.fromkeys(COUNTS, 0)
        counts["prompt_tokens"] += counts["prompt_tokens_computed"]
        known = self._shape is not None
        return {name: float(count) for name, count in counts.items() if known or "token" in name}

    def completions(self, tokens: int | Tensor) -> None:
        """Tokens of completions in a call that has them behind their prompts, without labels."""
        self.add("prompt_tokens_computed", tokens, -1)

    def asked(self, rows: Tensor) -> None:
        """Prompts that rollouts follow, computed now or before: their masks, one for each rollout."""
        self.add("prompt_tokens", rows.sum())

    def prefilled(self, prompts: Tensor) -> None:
        """Prompts that are computed now for rollouts to follow: ``asked`` counts them. Their masks."""
        self.add("prompt_tokens", prompts.sum(), -1)

    def behind(self, prompts: Tensor) -> None:
        """What is computed now of prompts behind a beginning that they share: masks; ``asked`` counts them too."""
        self.add("prompt_tokens_computed", prompts.sum())
        self.prefilled(prompts)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is counted: what is done again was counted before."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def add(self, name: str, value: float | Tensor, times: float = 1) -> None:
        """Count ``times`` the value under a name in ``COUNTS``; a tensor stays on its device until counts are taken."""
        if self._paused:
            return
        if not isinstance(value, int | float):
            self._waiting.append((name, value.detach(), times))
        else:
            self._counts[name] += value * times

    def _work(self, work: Work, output: Any) -> None:
        self.add("model_flops", work.forward)
        if getattr(output, "requires_grad", False):
            output.register_hook(lambda _: self.add("model_flops", work.backward))

    def _on_tokens(self, module: Any, arguments: tuple[Any, ...], given: dict[str, Any], output: Any) -> None:
        """The backbone was called: with prompts (and completions), or with what follows a cache."""
        import torch

        possible = (*arguments[:1], given.get("input_ids"), given.get("inputs_embeds"))
        rows, length = next(one.shape[:2] for one in possible if one is not None)
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        real = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None  # [N, context]
        context = length if cache is None else int(cache.get_seq_length())  # which has grown by this call
        context = context if real is None else real.shape[1]
        prompts = None if context != length else torch.ones(rows, length) if real is None else real
        self.passed(rows, length, context, prompts, getattr(output, "last_hidden_state", None))

    def passed(self, rows: int, length: int, context: int, prompts: Tensor | None, output: Any) -> None:
        """The language model was called with ``length`` tokens of each row, padding included, that look at ``context``.

        ``prompts`` is the mask of the prompts, where they are what it was called with; ``output`` has the hidden
        states, whose gradients tell that there is a backward pass.
        """
        if prompts is not None:
            self.add("prompt_tokens_computed", prompts.sum())
        if self._shape is not None:
            self._work(self._shape.language_work(rows, length, context), output)

    def _on_images(self, module: Any, arguments: tuple[Any, ...], given: dict[str, Any], output: Any) -> None:
        grids = (given["grid_thw"] if "grid_thw" in given else arguments[1]).tolist()
        self.add("images", sum(time for time, _, _ in grids))
        if self._shape is not None:
            self._work(self._shape.vision_work(grids), output.pooler_output)

    def _on_head(self, module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        if self._shape is not None:
            self._work(self._shape.head.work(output.shape[:-1].numel()), output)

    def _on_whole(self, module: Any, arguments: tuple[Any, ...], given: dict[str, Any], output: Any) -> None:
        """The whole model was called; with labels it got completions behind prompts."""
        labels = given.get("labels")
        if labels is None:
            return
        learned = (labels[:, 1:] != IGNORED).sum()
        self.completions(learned)
        if given.get("fused_lm_head") and self._shape is not None:  # which does not call the head
            work, backward = self._shape.head.work(1), output.loss is not None and output.loss.requires_grad
            self.add("model_flops", learned, work.forward + (work.backward if backward else 0))


def meter_of(model: Any) -> Meter:
    """The meter that watches a model; one that nobody asks where none does."""
    found = getattr(model, "meter", None)
    return found if isinstance(found, Meter) else Meter()


def sums(rows: Iterable[dict[str, float]]) -> Counts:
    """Sum of the counts in rows of figures; those that not every row has are left out."""
    rows = list(rows)
    return {name: sum(row[name] for row in rows) for name in COUNTS if all(name in row for row in rows)}


def sampled_tokens(tokens: Tensor, ends: Tensor) -> Tensor:
    """Number of tokens up to the first end of sequence in each row, all together; [N, L] to a scalar."""
    import torch

    ended = torch.isin(tokens, ends).cumsum(dim=1)
    before = (ended - torch.isin(tokens, ends).to(ended.dtype)) == 0  # no end before this token
    return before.sum()
