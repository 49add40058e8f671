"""Preference as reward (PAR, arXiv 2502.18770): a bounded reward, the sigmoid of the reward above a reference reward.

The paper: ``(1/M) sum_m sigmoid(r - r_ref_m)`` with reference rewards of answers of the initial policy to the same
prompt. Choice made here: the references are the other rollouts of the group, M = G - 1, so that a reward is the
probability of being preferred to one of its peers; no further rollouts are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveFloat

from methods.base import Method, Rollouts
from methods.lazy import Tensor, torch
from task_streams.config import Settings


@dataclass(frozen=True)
class ParConfig(Settings):
    """Settings of preference as reward."""

    sharpness: PositiveFloat = 1.0
    """Factor on the distance to a reference reward inside of the sigmoid (above 0)."""


class Par(Method):
    """Bounded reward: the sigmoid of a rollout's reward above those of its group."""

    name, family = "par", "part"
    joins = frozenset({"reinforcement"})
    works_split = True
    Config = ParConfig
    source = "arXiv 2502.18770"

    config: ParConfig

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        groups = rewards.view(-1, rollouts.group_size)  # [B, G]
        preferred = torch.sigmoid(self.config.sharpness * (groups[:, :, None] - groups[:, None, :]))  # [B, G, G]
        own = preferred.diagonal(dim1=1, dim2=2)  # of a rollout over itself: a half
        return ((preferred.sum(dim=2) - own) / (rollouts.group_size - 1)).flatten()
