"""How far a policy has moved: drift, retention reward and exact KL of its rollouts against the policies before it.

For any method, supervised ones included. Drift and retention reward are RaPO's (arXiv 2605.09640, equations 2 and 3);
the spread of drift inside groups of equal reward is its pilot study; forward KL on a new task's inputs is what RL's
Razor (arXiv 2509.04259) relates to forgetting. Tensors and plain values in, plain values out.
Deliberately absent: sampling and forward passes (``drift/rollouts.py``), and which policies are compared (``clrft``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from methods.drift.log_ratio import retention_reward
from task_streams.scenarios.draw import shuffled
from task_streams.types import Example

SHARPNESS = 20.0  # alpha of the retention reward, as in the paper
GROUP_SIZE = 8  # rollouts of the policy per prompt
OTHERS_SIZE = 4  # rollouts of another policy per prompt: there for the forward KL alone
Other = Literal["prev", "base"]
OTHERS: tuple[Other, ...] = ("prev", "base")
SPREADS = ("spread_prev", "spread_prev_correct")


@dataclass(frozen=True, slots=True)
class Against:
    """The policy's rollouts, and another policy's, seen by both."""

    drift: Tensor  # D of each of the policy's rollouts from the other policy, in nats per token, [B*G]
    reverse: Tensor  # KL(policy || other) at each token of the policy's rollouts, in nats, [tokens]
    forward: Tensor  # KL(other || policy) at each token of the other's rollouts, in nats, [tokens]


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured after one task."""

    keys: tuple[str, ...]  # items that were asked about, B of them
    rewards: Tensor  # task reward of each of the policy's rollouts, groups adjacent, [B*G]
    full: float  # the reward of a rollout that is right in everything
    against: Mapping[Other, Against]  # by the other policy; those that there is none of are missing


def drawn_items(examples: Sequence[Example], count: int, seed: int) -> tuple[Example, ...]:
    """At most ``count`` examples, one of each class in turn; the classes, too, come in seeded order."""
    groups: dict[str, list[Example]] = {}  # by class or categories; all questions are of one kind
    for example in shuffled(examples, seed, "drift"):
        target, kind = example.target, ""
        if isinstance(target, str):
            kind = target
        elif isinstance(target, tuple):
            kind = "+".join(sorted({box.category for box in target}))
        groups.setdefault(kind, []).append(example)
    longest = max((len(group) for group in groups.values()), default=0)
    in_turn = [group[turn] for turn in range(longest) for group in groups.values() if turn < len(group)]
    return tuple(in_turn[:count])


def exact_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities over a whole vocabulary, [..., V] to [...], in nats; never below 0."""
    return torch.where(first > -torch.inf, first.exp() * (first - second), 0.0).sum(dim=-1).clamp(min=0.0)


def summary(probe: Probe, reasons: Mapping[Other, str]) -> dict[str, Any]:
    """The figures of a probe by name; what is undefined is None and has its reason under ``undefined``.

    ``reasons`` tells why there is no other policy to compare with, by its name.
    """
    figures: dict[str, Any] = {"prompts": len(probe.keys), "rollouts": GROUP_SIZE, "rollouts_of_others": OTHERS_SIZE}
    figures["sharpness"] = SHARPNESS
    figures["reward"] = probe.rewards.mean().item()
    undefined: dict[str, str] = {}
    for other in OTHERS:
        # KL as means over tokens, the rest over rollouts
        names = f"kl_{other}_reverse", f"kl_{other}_forward", f"drift_{other}", f"retention_{other}"
        figures |= dict.fromkeys(names)
        if other in probe.against:
            found = probe.against[other]
            values = (found.reverse, found.forward, found.drift, retention_reward(found.drift, SHARPNESS))
            figures |= {name: one.double().mean().item() for name, one in zip(names, values, strict=True)}
        else:
            undefined |= dict.fromkeys(names, reasons[other])
    figures |= dict.fromkeys((*SPREADS, *(f"{name}_groups" for name in SPREADS)))
    if "prev" in probe.against:
        rewards = probe.rewards.view(len(probe.keys), GROUP_SIZE)
        drifts = probe.against["prev"].drift.view(len(probe.keys), GROUP_SIZE)
        equal = [row for row in range(len(rewards)) if bool((rewards[row] == rewards[row, 0]).all())]
        right = [row for row in equal if float(rewards[row, 0]) == probe.full]
        for name, rows in zip(SPREADS, (equal, right), strict=True):
            # mean over groups of the sample standard deviation of drift inside a group
            deviations = [drifts[row].double().std().item() for row in rows]
            figures |= {name: fmean(deviations) if deviations else None, f"{name}_groups": len(deviations)}
            if not deviations:
                undefined[name] = (
                    "no group of equal rewards" if name == SPREADS[0] else "no group all of which is right"
                )
    else:
        undefined |= {name: reasons["prev"] for name in (*SPREADS, *(f"{name}_groups" for name in SPREADS))}
    return {**figures, "undefined": undefined}


def group_rows(probe: Probe) -> list[dict[str, Any]]:
    """One row per prompt: rewards and drifts of its rollouts; None where there is no other policy."""
    rows: list[dict[str, Any]] = [{"key": key} for key in probe.keys]
    drifts = {f"drift_{other}": probe.against[other].drift if other in probe.against else None for other in OTHERS}
    for name, values in {"rewards": probe.rewards, **drifts}.items():
        groups = [None] * len(rows) if values is None else values.view(len(rows), GROUP_SIZE).tolist()
        for row, group in zip(rows, groups, strict=True):
            row[name] = group
    return rows
