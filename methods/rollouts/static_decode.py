"""Decoding with buffers that stay where they are, so that a step is one CUDA graph instead of thousands of launches.

A small model's step is bound by launches: its kernels take less time than Python needs to start them. Here the cache
has room for the longest completion from the start, every step has the same shapes, and on a GPU it is recorded once and
played again; weights may change in between, as long as they stay where they are. Rows that have ended go on unseen.
The graph needs a GPU, and was not run yet; buffers, masks and tokens are tested without one.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

from methods.costs.meter import meter_of
from methods.rollouts.rollout import Noise, Sampling, draw, ended
from methods.rollouts.shared_prefix import Prefix, plain

WARM_UP = 3  # steps before a graph is recorded, as torch asks for


class StaticStep:
    """One step of N rows: a token in, the state that predicts the next one out.

    Args:
        model: whose weights are used; they must stay where they are.
        prefix: of some prompts; those of later ones may be shorter.
        count: N.
        limit: tokens of the longest completion.
        recorded: record the step as a CUDA graph.
    """

    def __init__(self, model: Any, prefix: Prefix, count: int, limit: int, recorded: bool) -> None:
        keys, _ = prefix.layers[0]
        self.model = plain(model).model
        self.room = keys.shape[2]
        self.count = count
        self.limit = limit
        self.cache: Any = StaticCache(self.model.config, max_cache_len=self.room + limit)
        self.cache.early_initialization(count, keys.shape[1], keys.shape[3], keys.dtype, keys.device)
        self.mask = torch.zeros(count, 1, 1, self.room + limit, dtype=torch.bool, device=keys.device)
        self.tokens = torch.zeros(count, 1, dtype=torch.long, device=keys.device)
        self.positions = torch.zeros(3, count, 1, dtype=torch.long, device=keys.device)
        self.recorded = recorded
        self.graph: Any = None
        self.hidden: Tensor | None = None

    def fits(self, model: Any, prefix: Prefix, count: int, limit: int) -> bool:
        """Whether a batch has the shapes of this step, and its model this one's weights."""
        longest = prefix.mask.shape[1]
        return plain(model).model is self.model and (count, limit) == (self.count, self.limit) and longest <= self.room

    def begin(self, prefix: Prefix, rows: Tensor) -> None:
        """Take up the prompts that ``rows`` names, [N]."""
        start = self.room - prefix.mask.shape[1]
        for layer, (keys, values) in zip(self.cache.layers, prefix.layers, strict=True):
            layer.keys[:, :, start : self.room] = keys[rows]
            layer.values[:, :, start : self.room] = values[rows]
        self._rewind()
        self.mask.zero_()
        self.mask[:, 0, 0, start : self.room] = prefix.mask[rows].bool()
        self.positions[:] = prefix.next_position[rows, None]
        self.written = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens [N] to the hidden states that predict the next ones, [N, H], which the next step overwrites."""
        self.mask[:, 0, 0, self.room + self.written] = True
        self.tokens[:, 0] = tokens
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
        return self.hidden

    def _run(self) -> Tensor:
        outputs = self.model.language_model(
            inputs_embeds=self.model.get_input_embeddings()(self.tokens),
            attention_mask={"full_attention": self.mask},
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return outputs.last_hidden_state[:, -1]  # type: ignore[no-any-return]

    def _record(self) -> None:
        """Run the step a few times, as torch asks for, then record it; what it wrote is overwritten by the first."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._run()
                self._rewind()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.hidden = self._run()
        self._rewind()

    def _rewind(self) -> None:
        """The next token comes right behind the prompts."""
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(self.room)


def graph_obstacle(attention: str, device: torch.device) -> str | None:
    """Why a step cannot be recorded, or None if it can."""
    if device.type != "cuda":
        return "there is no GPU"
    if attention not in ("sdpa", "eager"):
        return f"the masks are not those of {attention}; set model.attention=sdpa"
    return None


@torch.no_grad()
def sample_static(step: StaticStep, model: Any, prefix: Prefix, rows: Tensor, sampling: Sampling) -> list[list[int]]:
    """One completion for each of N rows after the prompts that ``rows`` names; the tokens of ``sample_after``."""
    step.begin(prefix, rows)
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
