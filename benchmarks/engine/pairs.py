"""Contenders measured in turn: A B C, A B C, …, so that a machine whose speed drifts slows all alike.

The figure of a contender is the median over the rounds of its seconds divided by the baseline's of the same round.
Before every turn the random generators are seeded by the round: contenders of a round draw the same noise.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from methods.costs.meter import Counts
from methods.model.policy import Policy


@dataclass(frozen=True, slots=True)
class Turn:
    """What a contender did in one turn.

    Attributes:
        tokens: of completions that were sampled or scored.
        decode_steps: calls of the model with one token a row, one after the other.
        decoded: tokens that went through the model in those calls, of all rows, without any padding.
        items: test items answered.
        parts: seconds by part of the work; what could not be watched is not in it.
        seconds: of the turn where its clock is not that around the call; None = around the call.
    """

    tokens: int = 0
    decode_steps: int = 0
    decoded: int = 0
    items: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those that are compared.

    Attributes:
        name: of it.
        take: one turn.
        policy: whose meter counts it; None where nothing is counted.
        held: tensors that it holds between turns: weights, copies of them, the optimizer's moments.
    """

    name: str
    take: Callable[[], Turn]
    policy: Policy | None = None
    held: Callable[[], Iterable[Tensor]] = tuple


@dataclass(frozen=True, slots=True)
class Case:
    """Contenders that do the same work.

    Attributes:
        title: what is compared.
        axes: what the work is: prompts, group, lengths.
        baseline: the contender that the others are divided by.
        contenders: in the order of their turns.
    """

    title: str
    axes: dict[str, Any]
    baseline: str
    contenders: Sequence[Contender]


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn, measured: seconds by the clock, what was done, what the model's calls came to."""

    seconds: float
    turn: Turn
    counts: Counts


def measured(case: Case, rounds: int, warmup: int, device: torch.device) -> dict[str, list[Sample]]:
    """Samples of every contender, round by round; none of one for which the device has too little memory."""
    samples: dict[str, list[Sample]] = {one.name: [] for one in case.contenders}
    able = [one for one in case.contenders if fits(one, device)]
    warm = max(1, warmup)
    for turn in range(1, warm + rounds):  # the first turn of all was to see who fits
        for one in able:
            sample = sampled(one, turn, device)
            if turn >= warm:
                samples[one.name].append(sample)
    return samples


def fits(one: Contender, device: torch.device) -> bool:
    """Whether a contender's first turn has memory enough."""
    try:
        sampled(one, 0, device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def sampled(one: Contender, seed: int, device: torch.device) -> Sample:
    """One turn of a contender."""
    torch.manual_seed(seed)
    if one.policy is not None:
        one.policy.meter.taken()
    synchronize(device)
    start = time.perf_counter()
    turn = one.take()
    synchronize(device)
    seconds = time.perf_counter() - start
    counts = {} if one.policy is None else one.policy.meter.taken()
    return Sample(seconds if turn.seconds is None else turn.seconds, turn, counts)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(mine: Sequence[Sample], base: Sequence[Sample]) -> list[float]:
    """Seconds over those of the baseline, round by round."""
    return [one.seconds / other.seconds for one, other in zip(mine, base, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles; of one value it is that value."""
    several = values if len(values) > 1 else [*values, *values]
    low, middle, high = statistics.quantiles(several, n=4, method="inclusive")
    return {"median": middle, "quarter": low, "three_quarters": high}
