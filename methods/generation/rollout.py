"""Sampling completions: a group's prompt runs once, finished rows stop costing, guesses make one pass of several.

The noise of every step is drawn for all rows, finished or not, and in the way of ``torch.multinomial``: the tokens
are those that transformers' ``generate`` samples from the same generator state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from methods.costs.meter import meter_of
from methods.distributed import ranks
from methods.generation.shared_prefix import Continuation, advance, plain
from methods.generation.speculative_decoding import NgramDrafter


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completion tokens are drawn."""

    max_new_tokens: int  # longest completion
    temperature: float  # the logits are divided by it; 0: the likeliest token is taken
    top_p: float  # nucleus, in (0, 1]
    stop: tuple[int, ...]  # tokens that end a completion (they are part of it)
    suppressed: tuple[int, ...] = ()  # tokens that are never drawn
    # rows of all processes together, and which of them these are; None: there are no others. Noise is drawn for all of
    # them, so that a row gets the same whichever process samples it.
    among: tuple[int, slice] | None = None


@torch.no_grad()
def sample_after(
    model: Any, rows: Continuation, sampling: Sampling, drafter: NgramDrafter | None = None
) -> list[list[int]]:
    """One completion after the prefix of each of N rows, as token lists that end with the stop token or at the limit.

    ``drafter`` guesses from completions before these, and learns from them; None: no guess is made.
    """
    drafter = drafter or NgramDrafter(longest=0)
    writing = Writing(rows, sampling, drafter)
    head = plain(model).get_output_embeddings()
    hidden = rows.last[:, None]  # [n, 1, H] predicts the first token
    while True:
        writing.take(writing.drawn(head(hidden)).tolist())
        if not writing.alive:
            break
        tokens, mask, start = writing.fed()
        hidden = advance(model, rows, tokens, mask, start)
    writing.noise.settle()
    meter_of(model).add("tokens_generated", sum(map(len, writing.completions)))
    for completion in writing.completions:
        drafter.learn(completion)
    return writing.completions


class Writing:
    """Completions as they grow: of every row that goes on a pass reads its last token and a guess how it goes on."""

    def __init__(self, rows: Continuation, sampling: Sampling, drafter: NgramDrafter) -> None:
        self.rows = rows
        self.sampling = sampling
        self.drafter = drafter
        count = len(rows.last)
        self.completions: list[list[int]] = [[] for _ in range(count)]
        self.alive = list(range(count))  # rows that go on
        self.guesses: list[list[int]] = [[] for _ in range(count)]  # of each that goes on
        self.noise = Noise(count, rows.last.device, sampling.among)
        self.read = rows.mask.new_ones(count, 0)  # completion tokens in the cache

    def drawn(self, logits: Tensor) -> Tensor:
        """A token at every place that the pass has read, [n, T, V] to [n, T]; those behind a wrong guess are void."""
        places = [len(self.completions[row]) for row in self.alive]
        steps = []
        for offset in range(logits.shape[1]):
            at = [place + offset for place in places]
            noise = self.noise.of(self.alive, at, logits.shape[2], self.sampling, min(places))
            steps.append(draw(logits[:, offset], self.sampling, noise))
        return torch.stack(steps, dim=1)

    def take(self, tokens: list[list[int]]) -> None:
        """Add to every completion the tokens up to the first that was not guessed; rows that end are left."""
        right, kept = [], []
        for place, (row, guess, new) in enumerate(zip(self.alive, self.guesses, tokens, strict=True)):
            same = next((at for at, token in enumerate(guess) if token != new[at]), len(guess))
            taken = ended(new[: same + 1], self.sampling.stop)
            right.append(len(taken) - 1)
            written = self.completions[row]
            written += taken
            if written[-1] not in self.sampling.stop and len(written) < self.sampling.max_new_tokens:
                kept.append(place)
        self.drafter.accepted([count for count, guess in zip(right, self.guesses, strict=True) if guess])
        if self.read.shape[1]:
            width, device = 1 + max(map(len, self.guesses)), self.read.device
            valid = torch.arange(width, device=device) <= torch.tensor(right, device=device)[:, None]
            # no later token looks at guesses that were wrong
            self.read[:, -width:] *= valid.to(self.read.dtype)
        if len(kept) < len(self.alive) and kept:
            chosen = torch.tensor(kept, device=self.read.device)
            rows, self.read = self.rows, self.read[chosen]
            rows.cache.batch_select_indices(chosen)
            rows.last, rows.mask, rows.next_position = rows.last[chosen], rows.mask[chosen], rows.next_position[chosen]
        self.alive = [self.alive[place] for place in kept]

    def fed(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the next pass reads: tokens [n, T], which of the completions' are real so far, where they start [n]."""
        limit = self.sampling.max_new_tokens
        written = [self.completions[row] for row in self.alive]
        self.guesses = [self.drafter.draft(one, limit - len(one) - 1) for one in written]
        device = self.read.device
        reads = [[one[-1], *guess] for one, guess in zip(written, self.guesses, strict=True)]
        real = right_padded([[1] * len(one) for one in reads], device).to(self.read.dtype)
        self.read = torch.cat([self.read, real], dim=1)
        start = torch.tensor([len(one) - 1 for one in written], device=device)
        return right_padded(reads, device), self.read, start


class Noise:
    """The noise of every step, drawn for all rows whether they go on or not; once, and in the order of the steps.

    ``among``: rows of all processes together, and which of them these are; see ``Sampling``.
    """

    def __init__(self, count: int, device: torch.device, among: tuple[int, slice] | None = None) -> None:
        self.everyone, self.own = among or (count, slice(0, count))
        self.device = device
        self.steps: dict[int, Tensor] = {}  # [N, V] each
        self.drawn = 0
        self.size = 0

    def of(self, rows: list[int], steps: list[int], size: int, sampling: Sampling, since: int) -> Tensor | None:
        """That of some rows, each at its own step, [n, V]; None where nothing is drawn. Those before ``since`` go."""
        if sampling.temperature == 0:
            return None
        self.steps = {step: noise for step, noise in self.steps.items() if step >= since}
        self.size = size
        while self.drawn <= max(steps):
            everyones = torch.empty(self.everyone, size, device=self.device).exponential_(1)
            self.steps[self.drawn] = everyones[self.own]
            self.drawn += 1
        if min(steps) == max(steps):
            return self.steps[steps[0]][rows]
        return torch.stack([self.steps[step][row] for row, step in zip(rows, steps, strict=True)])

    def settle(self) -> None:
        """Draw as many steps as the process whose rows were the longest, so that all go on from one random state."""
        if self.size and self.own != slice(0, self.everyone):
            for _ in range(max(ranks.all_gather_json(self.drawn)) - self.drawn):
                torch.empty(self.everyone, self.size, device=self.device).exponential_(1)


def draw(logits: Tensor, sampling: Sampling, noise: Tensor | None) -> Tensor:
    """One token for each row, [n, V] to [n]; at temperature 0, without noise, it is the likeliest one."""
    scores = logits.float()
    if sampling.suppressed:
        scores[:, list(sampling.suppressed)] = -torch.inf
    if noise is None:
        return scores.argmax(dim=-1)
    scores = scores / sampling.temperature
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(torch.empty(0, dtype=torch.long), scores)
    return (scores.softmax(dim=-1) / noise).argmax(dim=-1)


def right_padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Token lists as one tensor, with zeros on the right, [N, longest]."""
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [0] * (longest - len(row)) for row in rows], device=device)


def ended(row: Sequence[int], stop: Sequence[int]) -> list[int]:
    """A completion up to its first stop token, which is part of it."""
    length = next((place + 1 for place, token in enumerate(row) if token in stop), len(row))
    return list(row[:length])
