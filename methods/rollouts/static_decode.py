"""Decoding with buffers that stay where they are, so that a step is one CUDA graph instead of thousands of launches.

A step of a small model is bound by launches: its kernels take less time than Python needs to start them. Here every
step has the same shapes from the first to the last, and on a GPU it is recorded once and played again; weights may
change in between, as long as they stay where they are. A prompt's keys and values are there once for all rows that
follow it, which look at them together. Rows that have ended go on unseen.
Deliberately absent: guesses (``drafts.py``), which are of another length in every step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from methods.costs.meter import meter_of
from methods.rollouts.rollout import Noise, Sampling, draw, ended
from methods.rollouts.shared_prefix import Prefix, keeping_cache, plain

WARM_UP = 3  # steps before a graph is recorded, as torch asks for
ROOM = 64  # buffers have room for prompts of a multiple of this
ATTENTION = "clrft_grouped"  # name of ``attend`` among transformers' attention functions


@dataclass(frozen=True, slots=True)
class Shape:
    """What a step is made for.

    Attributes:
        prompts: how many, B.
        group: rows that follow each of them, G.
        longest: tokens of the longest prompt.
        limit: tokens of the longest completion.
    """

    prompts: int
    group: int
    longest: int
    limit: int

    def holds(self, other: "Shape") -> bool:
        """Whether another batch can be decoded in the buffers of this one."""
        pairs = zip((self.prompts, self.longest, self.limit), (other.prompts, other.longest, other.limit), strict=True)
        return self.group == other.group and all(mine >= its for mine, its in pairs)


class StaticStep:
    """One step of B * G rows: a token in, the state that predicts the next one out.

    Args:
        model: whose weights are used; they must stay where they are.
        prefix: of some prompts, for what keys and values are like.
        shape: what the buffers have room for.
        recorded: record the step as a CUDA graph.
    """

    def __init__(self, model: Any, prefix: Prefix, shape: Shape, recorded: bool) -> None:
        keys, _ = prefix.layers[0]
        heads, size, like = keys.shape[1], keys.shape[3], {"dtype": keys.dtype, "device": keys.device}
        count, layers = shape.prompts * shape.group, range(len(prefix.layers))
        self.model, self.meter = plain(model).model, meter_of(model)
        self.shape = shape
        self.prompts = [torch.zeros(2, shape.prompts, heads, shape.longest, size, **like) for _ in layers]
        self.own = [torch.zeros(2, count, heads, shape.limit, size, **like) for _ in layers]  # completions'
        self.here = torch.zeros(shape.limit, 1, **like)  # 1 at the place that is written
        width = shape.longest + shape.limit
        self.hidden_from = torch.ones(shape.prompts, 1, 1, 1, width, dtype=torch.bool, device=keys.device)
        self.tokens = torch.zeros(count, 1, dtype=torch.long, device=keys.device)
        self.positions = torch.zeros(3, count, 1, dtype=torch.long, device=keys.device)
        self.recorded = recorded
        self.graph: Any = None
        self.hidden: Tensor | None = None
        self.written = self.looked_at = self.rows = 0

    def begin(self, prefix: Prefix, order: Tensor) -> None:
        """Take up the prompts that ``order`` names, [at most B]; their completions begin."""
        count, width = len(order), prefix.mask.shape[1]
        places = slice(self.shape.longest - width, self.shape.longest)
        for buffer, (keys, values) in zip(self.prompts, prefix.layers, strict=True):
            buffer[0, :count, :, places] = keys[order]
            buffer[1, :count, :, places] = values[order]
        self.hidden_from.fill_(True)
        self.hidden_from[:count, 0, 0, 0, places] = ~prefix.mask[order].bool()
        self.rows, self.looked_at = count * self.shape.group, width
        self.positions[:, : self.rows, 0] = prefix.next_position[order].repeat_interleave(self.shape.group)
        self._rewind()

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens [N] to the hidden states that predict the next ones, [N, H], which the next step overwrites."""
        self.hidden_from[..., self.shape.longest + self.written] = False
        self.here.zero_()
        self.here[self.written] = 1
        self.tokens[: self.rows, 0] = tokens
        if self.recorded and self.graph is None:
            self._record()
        if self.graph is None:
            self.hidden = self._run()
        else:
            self.graph.replay()
        self.written += 1
        self.positions += 1
        if self.hidden is None:
            raise RuntimeError("a step has not run")
        self.meter.passed(self.rows, 1, self.looked_at + self.written, None, None)
        return self.hidden[: self.rows]

    def _run(self) -> Tensor:
        kind = self.tokens.device.type
        casting = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}
        backbone = self.model
        with attending(backbone.language_model.config), keeping_cache(backbone):
            with torch.autocast(kind, **casting, cache_enabled=False):  # what is kept would be lost to the graph
                outputs = backbone.language_model(
                    inputs_embeds=backbone.get_input_embeddings()(self.tokens),
                    attention_mask={"full_attention": self.hidden_from},
                    position_ids=self.positions,
                    past_key_values=Written(self),
                    use_cache=True,
                    step=self,
                )
        return outputs.last_hidden_state[:, -1]  # type: ignore[no-any-return]

    def _record(self) -> None:
        """Run the step a few times, as torch asks for, then record it; what it wrote is taken back."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.hidden = self._run()
        self._rewind()

    def _rewind(self) -> None:
        """Nothing is written behind the prompts: what is written is added to zeros."""
        self.written = 0
        for own in self.own:
            own.zero_()


class Written:
    """A step's cache as the layers see it: a token's keys and values are added where nothing was written yet."""

    def __init__(self, step: StaticStep) -> None:
        self.step = step

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Of all rows' completions after this token, [N, heads, limit, size] each."""
        own = self.step.own[layer]
        own[0].addcmul_(keys, self.step.here)
        own[1].addcmul_(values, self.step.here)
        return own[0], own[1]


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *, scaling: float, **given: Any
) -> tuple[Tensor, None]:
    """Attention of one token a row over its prompt, shared by its group, and its completion so far; exact.

    Args:
        module: the layer's attention.
        query: of B * G rows, [N, heads, 1, size].
        key: of the completions, [N, key heads, limit, size].
        value: likewise.
        attention_mask: what is not to be seen, [B, 1, 1, 1, longest + limit].
        scaling: of the scores.
        given: the step, under its name, beside what other attention functions take.

    Returns:
        The result, [N, 1, heads, size], and no weights.
    """
    step: StaticStep = given["step"]
    count, heads, _, size = query.shape
    keys, values = step.prompts[module.layer_idx]  # [B, key heads, longest, size] each
    prompts, few, longest, _ = keys.shape
    alike = (prompts, step.shape.group, few, heads // few)  # B, G, key heads, heads of each

    together = query.view(*alike, size).transpose(1, 2).reshape(prompts, few, -1, size)  # a group's queries, in a row
    shared = (together @ keys.transpose(2, 3)).view(prompts, few, step.shape.group, -1, longest).transpose(1, 2)
    own = (query.view(count, few, -1, size) @ key.transpose(2, 3)).view(*alike, step.shape.limit)
    scores = torch.cat([shared, own], dim=-1).float() * scaling
    weights = scores.masked_fill(attention_mask, -torch.inf).softmax(dim=-1).to(value.dtype)
    over_shared, over_own = weights.split([longest, step.shape.limit], dim=-1)
    shared = over_shared.transpose(1, 2).reshape(prompts, few, -1, longest) @ values
    own = over_own.reshape(count, few, -1, step.shape.limit) @ value
    shared = shared.view(prompts, few, step.shape.group, -1, size).transpose(1, 2)
    return (shared + own.view(*alike, size)).reshape(count, 1, heads, size), None


AttentionInterface.register(ATTENTION, attend)


@contextmanager
def attending(config: Any) -> Iterator[None]:
    """A language model's layers attend by ``attend``."""
    before = config._attn_implementation
    try:
        config._attn_implementation = ATTENTION
        yield
    finally:
        config._attn_implementation = before


@dataclass(slots=True)
class StaticSteps:
    """The step of the batch before, or a larger one.

    Attributes:
        recorded: record steps as CUDA graphs.
    """

    recorded: bool = True
    _step: StaticStep | None = None

    def of(self, model: Any, prefix: Prefix, group: int, prompts: int, limit: int) -> StaticStep:
        """A step for ``group`` rows after each of ``prompts`` prompts, which may be longer by ``limit`` tokens."""
        longest = -(-prefix.mask.shape[1] // ROOM) * ROOM
        shape = Shape(prompts, group, longest, limit)
        step = self._step
        if step is None or step.model is not plain(model).model or not step.shape.holds(shape):
            step = self._step = None  # its memory goes first
            step = self._step = StaticStep(model, prefix, shape, self.recorded)
        return step


def graph_obstacle(device: torch.device) -> str | None:
    """Why a step cannot be recorded, or None if it can."""
    return None if device.type == "cuda" else "there is no GPU"


def laid_out(rows: Tensor, prompts: int) -> tuple[Tensor, int]:
    """Prompts in an order in which each is followed by as many rows, and how many: rows [N] name their prompts.

    Where it is not the same number of adjacent rows for each, every row has its prompt for itself.
    """
    group, rest = divmod(len(rows), prompts)
    order = torch.arange(prompts, device=rows.device)
    if rest == 0 and bool((rows == order.repeat_interleave(group)).all()):
        return order, group
    return rows, 1


@torch.no_grad()
def sample_static(steps: StaticSteps, model: Any, prefix: Prefix, rows: Tensor, sampling: Sampling) -> list[list[int]]:
    """One completion for each of N rows after the prompts that ``rows`` names; the tokens of ``sample_after``."""
    order, group = laid_out(rows, len(prefix.mask))
    step = steps.of(model, prefix, group, len(order), sampling.max_new_tokens)
    step.begin(prefix, order)
    count = len(rows)
    noise, everyone = Noise(count, rows.device, sampling.among), list(range(count))
    stop = torch.tensor(sampling.stop, device=rows.device)
    over = torch.zeros(count, dtype=torch.bool, device=rows.device)
    columns: list[Tensor] = []
    hidden = prefix.last[rows]
    head = plain(model).get_output_embeddings()
    for place in range(sampling.max_new_tokens):
        logits = head(hidden)
        noise.forget(place)
        tokens = draw(logits, sampling, noise.of(everyone, [place] * count, logits.shape[1], sampling))
        columns.append(tokens)
        over |= torch.isin(tokens, stop)
        if place + 1 == sampling.max_new_tokens or bool(over.all()):
            break
        hidden = step(tokens)
    noise.settle()
    completions = [ended(row, sampling.stop) for row in torch.stack(columns, dim=1).tolist()]
    meter_of(model).generated(sum(map(len, completions)))
    return completions
