"""Decoding with buffers that stay where they are, so that a step is one CUDA graph instead of thousands of launches.

A step of a small model is bound by launches: its kernels take less time than Python needs to start them. Here every
step has the same shapes from the first to the last, and on a GPU it is recorded once and played again; weights may
change in between, as long as they stay where they are. A prompt's keys and values are there once for all rows that
follow it, which look at them together. Rows that have ended go on unseen.
Deliberately absent: guesses (``speculative_decoding.py``), which are of another length in every step.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from methods.costs.meter import meter_of
from methods.generation.completion_logps import laid_out
from methods.generation.low_precision import LowWeights
from methods.generation.rollout import Noise, Sampling, draw, ended
from methods.generation.shared_prefix import Prefix, obstacle, plain, sees_all

WARM_UP = 3  # steps before a graph is recorded, as torch asks for
FIRST = 256  # tokens of a completion that there is room for at first
ROOM, STEPS = 64, 8  # buffers have room for prompts, and completions, of a multiple of these: kernels are faster


Layers = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a step is made for."""

    prompts: int  # how many, B
    group: int  # rows that follow each of them, G
    longest: int  # tokens of the longest prompt
    limit: int  # tokens of the longest completion so far; longer ones go on in a longer step

    def holds(self, other: "Shape") -> bool:
        """Whether another batch can be decoded in the buffers of this one."""
        pairs = zip((self.prompts, self.longest, self.limit), (other.prompts, other.longest, other.limit), strict=True)
        return self.group == other.group and all(mine >= its for mine, its in pairs)


class StaticStep:
    """One step of B * G rows: a token in, the state that predicts the next one out.

    The model's weights must stay where they are; ``layers`` has keys and values of some prompts, for their shape and
    type; ``low`` the layers' matrices as they are applied under autocast, None without it.
    """

    def __init__(self, model: Any, layers: Layers, shape: Shape, recorded: bool, low: LowWeights | None = None) -> None:
        keys, _ = layers[0]
        heads, size = keys.shape[1], keys.shape[3]
        self.turns_in = keys.dtype  # under autocast that of hidden states, and not that of matrices
        self.applies_in = applied_type(keys)
        like: dict[str, Any] = {"dtype": self.applies_in, "device": keys.device}
        count = shape.prompts * shape.group
        self.model, self.meter = plain(model).model, meter_of(model)
        self.shape = shape
        self.prompts = [torch.zeros(2, shape.prompts, heads, shape.longest, size, **like) for _ in layers]
        self.own = [torch.zeros(2, shape.prompts, heads, shape.group, shape.limit, size, **like) for _ in layers]
        self.here = torch.zeros(shape.limit, 1, **like)  # 1 at the place that is written
        width = shape.longest + shape.limit
        self.hides = torch.zeros(shape.prompts, heads, 1, width, **like)  # -inf where nothing is to be seen
        self.tokens = torch.zeros(count, dtype=torch.long, device=keys.device)
        self.positions = torch.zeros(count, device=keys.device)  # M-RoPE's three are one, behind all images
        self.recorded = recorded
        self.low = low
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
        self.hides.fill_(-torch.inf)
        self.hides[:count, :, 0, places].masked_fill_(prefix.mask[order, None].bool(), 0)
        self.rows, self.looked_at = count * self.shape.group, width
        self.positions[: self.rows] = prefix.next_position[order].repeat_interleave(self.shape.group).float()
        self.written = 0
        for own in self.own:
            own.zero_()  # to which what is written is added

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens [N] to the hidden states that predict the next ones, [N, H], which the next step overwrites."""
        self.hides[..., self.shape.longest + self.written] = 0
        self.here.zero_()
        self.here[self.written] = 1
        self.tokens[: self.rows] = tokens
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
        kind, language = self.tokens.device.type, self.model.language_model
        dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        cast = nullcontext() if self.low is None else self.low.in_place()
        with cast, torch.autocast(kind, dtype, enabled, cache_enabled=False):  # what it keeps the graph would lose
            hidden, rotary = self.model.get_input_embeddings()(self.tokens), language.rotary_emb
            half = self.positions[:, None] * rotary.inv_freq.float()
            cosines = torch.cat([half, half], dim=-1).cos()
            sines = torch.cat([-half.sin(), half.sin()], dim=-1)
            turned = [(one * rotary.attention_scaling).to(self.turns_in)[:, None] for one in (cosines, sines)]
            for place, layer in enumerate(language.layers):
                hidden = self._through(layer, place, hidden, turned)
            return normed(language.norm, hidden)

    def _through(self, layer: Any, place: int, hidden: Tensor, turned: Sequence[Tensor]) -> Tensor:
        """A layer of the language model, [N, H] to [N, H]; cosines and sines that turn its heads, [N, 1, size] each."""
        attention, given = layer.self_attn, normed(layer.input_layernorm, hidden)
        size, (cosines, sines) = attention.head_dim, turned
        queries, keys, values = (
            project(given).view(len(hidden), -1, size)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        heads = torch.cat([queries, keys], dim=1)
        # RoPE: x cos + (the halves of x, exchanged) sin, the sine of the first half being negative
        both = torch.addcmul(heads * cosines, heads.roll(size // 2, dims=-1), sines)
        queries, keys = torch.split(both.to(self.applies_in), [queries.shape[1], keys.shape[1]], dim=1)
        # rows of heads, [N, heads, size], as [B, key heads, G, heads of each, size]
        queries, keys, values = (
            rows.view(self.shape.prompts, self.shape.group, self.hides.shape[1], -1, size).transpose(1, 2)
            for rows in (queries, keys, values)
        )
        for buffer, new in zip(self.own[place], (keys, values), strict=True):
            buffer.addcmul_(new, self.here)  # where nothing was written yet
        seen = self._attended(queries, place, attention.scaling)
        hidden = hidden + attention.o_proj(seen.transpose(1, 2).reshape(len(hidden), -1))
        return hidden + layer.mlp(normed(layer.post_attention_layernorm, hidden))  # type: ignore[no-any-return]

    def _attended(self, queries: Tensor, place: int, scaling: float) -> Tensor:
        """Attention over the prompt, which a group looks at together, and each row's completion so far; exact.

        Queries and what is returned are [B, key heads, G, heads of each, size].
        """
        (keys, values), (own_keys, own_values) = self.prompts[place].flatten(1, 2), self.own[place].flatten(1, 3)
        prompts, few, group, each, size = queries.shape
        asked, longest = queries.contiguous().view(-1, each, size), self.shape.longest
        hides = self.hides.flatten(0, 1)  # [B * key heads, 1, longest + limit]
        scores = asked.new_empty(prompts * few, group * each, hides.shape[2])
        over = scores[..., :longest], scores.view(-1, each, hides.shape[2])[..., longest:]
        together = asked.view(prompts * few, group * each, size)
        torch.baddbmm(hides[..., :longest], together, keys.mT, alpha=scaling, out=over[0])
        torch.baddbmm(hides[:1, :, longest:], asked, own_keys.mT, alpha=scaling, out=over[1])  # all rows' are alike
        weights = scores.softmax(dim=-1)
        over = weights[..., :longest], weights.view(-1, each, hides.shape[2])[..., longest:]
        shared = (over[0] @ values).view(-1, each, size)
        return torch.baddbmm(shared, over[1], own_values).view(queries.shape)

    def _record(self) -> None:
        """Run the step a few times, as torch asks for, then record it; what it wrote is taken back."""
        before = [own.clone() for own in self.own]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.hidden = self._run()
        for own, kept in zip(self.own, before, strict=True):
            own.copy_(kept)


def normed(norm: Any, hidden: Tensor) -> Tensor:
    """A layer's norm in one kernel."""
    return rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


@dataclass(slots=True)
class StaticSteps:
    """The step of the batch before, or one that has more room."""

    recorded: bool = True  # record steps as CUDA graphs
    _step: StaticStep | None = None
    _low: LowWeights | None = None

    def begin(self, model: Any, prefix: Prefix, order: Tensor, group: int, limit: int) -> StaticStep:
        """A step at the beginning of ``group`` completions of up to ``limit`` tokens after each prompt of ``order``."""
        first = min(limit, FIRST)
        longest, first = (-(-size // many) * many for size, many in ((prefix.mask.shape[1], ROOM), (first, STEPS)))
        shape = Shape(len(order), group, longest, first)
        step = self._step
        if step is None or step.model is not plain(model).model:
            self._step = self._low = None  # their memory goes first
            layers = plain(model).model.language_model
            weight = next(layers.parameters())
            if applied_type(weight) != weight.dtype:  # as autocast, which is in force, applies them
                self._low = LowWeights(layers, applied_type(weight))
            step = None
        if step is None or not step.shape.holds(shape):
            step = self._step = None
            step = self._step = StaticStep(model, prefix.layers, shape, self.recorded, self._low)
        if self._low is not None:
            self._low.refresh()
        step.begin(prefix, order)
        return step

    def longer(self, model: Any, step: StaticStep) -> StaticStep:
        """A step that goes on where one has no more room, with twice as much for completions."""
        layers = [(keys.to(step.turns_in), values) for keys, values in step.prompts]
        shape = replace(step.shape, limit=2 * step.shape.limit)
        more = self._step = StaticStep(model, layers, shape, self.recorded, self._low)
        more.written, more.looked_at, more.rows = step.written, step.looked_at, step.rows
        for mine, theirs in zip(more.prompts, step.prompts, strict=True):
            mine.copy_(theirs)
        for mine, theirs in zip(more.own, step.own, strict=True):
            mine[..., : step.written, :] = theirs[..., : step.written, :]
        more.hides.fill_(-torch.inf)
        more.hides[..., : step.hides.shape[3]] = step.hides
        more.positions.copy_(step.positions)
        return more


def applied_type(tensor: Tensor) -> torch.dtype:
    """The type that a matrix is applied in: autocast's, where it is in force, else its own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def graph_obstacle(model: Any, device: torch.device) -> str | None:
    """Why a step of a model cannot be recorded, or None if it can."""
    if device.type != "cuda":
        return "there is no GPU"
    why = obstacle(model)
    return why if why is not None or sees_all(model) else "the model's attention has a sliding window"


def sample_static(steps: StaticSteps, model: Any, prefix: Prefix, rows: Tensor, sampling: Sampling) -> list[list[int]]:
    """One completion for each of N rows after the prompts that ``rows`` names; the tokens of ``sample_after``."""
    count, device = len(rows), rows.device
    noise, everyone = Noise(count, device, sampling.among), list(range(count))
    stop = torch.tensor(sampling.stop, device=device)
    over = torch.zeros(count, dtype=torch.bool, device=device)
    columns: list[Tensor] = []
    head = plain(model).get_output_embeddings()
    with torch.no_grad():  # as a decorator it would hold on to the prefix
        order, group = laid_out(rows)
        step, hidden = steps.begin(model, prefix, order, group, sampling.max_new_tokens), prefix.last[rows]
        del prefix  # whose keys and values are in the buffers
        for place in range(sampling.max_new_tokens):
            logits = head(hidden)
            tokens = draw(logits, sampling, noise.of(everyone, [place] * count, logits.shape[1], sampling, place))
            columns.append(tokens)
            over |= torch.isin(tokens, stop)
            if place + 1 == sampling.max_new_tokens or bool(over.all()):
                break
            if step.written == step.shape.limit:
                step = steps.longer(model, step)
            hidden = step(tokens)
    noise.settle()
    completions = [ended(row, sampling.stop) for row in torch.stack(columns, dim=1).tolist()]
    meter_of(model).add("tokens_generated", sum(map(len, completions)))
    return completions
