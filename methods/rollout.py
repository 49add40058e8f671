"""Sampling the completions of a group: the prompt runs once, finished rows stop costing.

The noise of every step is drawn for all rows, finished or not, and in the way of ``torch.multinomial``: the tokens
are those that transformers' ``generate`` samples from the same generator state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from methods.meter import meter_of
from methods.shared_prefix import Prefix, Prompts, advance, plain, prefill


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completion tokens are drawn.

    Attributes:
        max_new_tokens: longest completion.
        temperature: the logits are divided by it; above 0.
        top_p: nucleus, in (0, 1].
        stop: tokens that end a completion (they are part of it).
        suppressed: tokens that are never drawn.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    stop: tuple[int, ...]
    suppressed: tuple[int, ...] = ()


@torch.no_grad()
def sample_completions(model: Any, prompts: Prompts, sampling: Sampling) -> list[list[int]]:
    """One completion for each of the N rows, as token lists that end with the stop token or at the limit."""
    unique, rows = prompts.unique()
    meter_of(model).spared(prompts.mask, unique.mask)
    return sample_after(model, prefill(model, unique).repeated(rows), sampling)


@torch.no_grad()
def sample_after(model: Any, prefix: Prefix, sampling: Sampling) -> list[list[int]]:
    """One completion after the prefix of each of N rows, which is used up; as ``sample_completions``."""
    hidden = prefix.last
    rows = torch.arange(len(hidden), device=hidden.device)
    completions: list[list[int]] = [[] for _ in range(len(rows))]
    alive = rows
    stop = torch.tensor(sampling.stop, device=rows.device)
    for step in range(sampling.max_new_tokens):
        tokens = draw(plain(model).get_output_embeddings()(hidden), sampling, alive, len(rows))
        for row, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            completions[row].append(token)
        going = ~torch.isin(tokens, stop)
        if step + 1 == sampling.max_new_tokens or not bool(going.any()):
            break
        if not bool(going.all()):
            kept = going.nonzero().squeeze(1)
            alive, tokens, prefix = alive[kept], tokens[kept], prefix.repeated(kept)
        mask = torch.ones(len(alive), step + 1, device=rows.device, dtype=prefix.mask.dtype)
        hidden = advance(model, prefix, tokens[:, None], mask, start=step)[:, -1]
    meter_of(model).generated(sum(map(len, completions)))
    return completions


def draw(logits: Tensor, sampling: Sampling, alive: Tensor, count: int) -> Tensor:
    """One token for each row that still goes on, [n, V] to [n]; noise is drawn for all ``count`` rows."""
    scores = logits.float()
    if sampling.suppressed:
        scores[:, list(sampling.suppressed)] = -torch.inf
    scores = scores / sampling.temperature
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(alive, scores)
    probabilities = scores.softmax(dim=-1)
    noise = torch.empty(count, probabilities.shape[1], device=scores.device).exponential_(1)
    return (probabilities / noise[alive]).argmax(dim=-1)


def right_padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """Token lists as one tensor, padded on the right, [N, longest]."""
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [value] * (longest - len(row)) for row in rows], device=device)


def left_padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """Token lists as one tensor, padded on the left, [N, longest]."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[value] * (longest - len(row)) + list(row) for row in rows], device=device)
