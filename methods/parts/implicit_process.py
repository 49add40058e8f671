"""Rewards of an implicit process model that learns from each group's own good and bad rollouts (OPRL, 2509.19199).

OPRL: token rewards ``beta log(pi_phi / pi_old)``, pi_phi a second language model trained by a DPO loss on pairs of a
better and a worse rollout, before its rewards are used. Choices made here: pi_phi is the policy with a linear map M
added at its last hidden states, taken to first order, so that a token's log-ratio is ``g_t . M h_t`` with
``g_t = W^T (e(y_t) - p_t)``: a map of H x H instead of a second model, beta absorbed in it. A completion earns the
mean over its tokens, for rewards here are one a completion. The step of M is divided by the mean squared distance of
the pairs' features, which makes its rate the same whatever the model's scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import NonNegativeFloat

from methods.base import Method, Rollouts
from methods.lazy import Tensor, no_grad, torch
from methods.parts.gradient_features import token_gradients
from task_streams.config import Settings


@dataclass(frozen=True)
class ImplicitProcessConfig(Settings):
    """Settings of the implicit process reward."""

    weight: NonNegativeFloat = 0.1
    """Weight of the process reward (0 or more)."""
    rate: NonNegativeFloat = 0.5
    """Step of the process model on each batch of rollouts (0 or more); 1 moves a single pair apart by a half."""


class ImplicitProcess(Method):
    """Reward from an implicit process model that learns to tell a group's good rollouts from its bad ones."""

    name, family = "implicit_process", "part"
    joins = frozenset({"reinforcement"})
    Config = ImplicitProcessConfig
    source = "arXiv 2509.19199"

    config: ImplicitProcessConfig
    map: Tensor | None = None  # M, [H, H]

    @no_grad
    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        self.map = learned_map(self.map, rollouts, self.config.rate)
        if self.map is None:
            return rewards
        earned = torch.cat([process_rewards(features, self.map) for features in group_features(rollouts)])
        rollouts.log("process_reward", earned.mean().item())
        return rewards + self.config.weight * earned

    def state_dict(self) -> dict[str, Any]:
        return {} if self.map is None else {"map": self.map.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.map = state["map"]


def group_features(rollouts: Rollouts) -> Iterator[Tensor]:
    """``mean_t g_t h_t^T`` of the completions, group by group, [G, H, H]: all at once would be large."""
    features = (gradients.T @ states / len(states) for gradients, states in token_gradients(rollouts))
    while group := list(islice(features, rollouts.group_size)):
        yield torch.stack(group)


def process_rewards(features: Tensor, linear_map: Tensor) -> Tensor:
    """Mean log-ratio of every completion's tokens, [G, H, H] and [H, H] to [G]."""
    return (features * linear_map.to(features.device)).sum(dim=(1, 2))


def learned_map(linear_map: Tensor | None, rollouts: Rollouts, rate: float) -> Tensor | None:
    """The map after one step of the DPO loss on all pairs of a better and a worse rollout of one group.

    It stays as it is, None at first, where no group has such a pair.
    """
    step: Tensor | None = None
    squares = 0.0
    scores = rollouts.task_reward.view(-1, rollouts.group_size)
    for features, reward in zip(group_features(rollouts), scores, strict=True):
        current = torch.zeros_like(features[0]) if linear_map is None else linear_map.to(features.device)
        earned = process_rewards(features, current)
        step = torch.zeros_like(current) if step is None else step
        for better, worse in (reward[:, None] > reward[None, :] + 1e-6).nonzero().tolist():
            apart = features[better] - features[worse]
            step += torch.sigmoid(earned[worse] - earned[better]) * apart
            squares += float(apart.square().sum())
    if step is None or squares == 0:
        return linear_map
    old = torch.zeros_like(step) if linear_map is None else linear_map.to(step.device)
    return old + rate * step / squares  # the mean step over the mean square: the number of pairs cancels
