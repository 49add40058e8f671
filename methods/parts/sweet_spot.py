"""Tiered, progressively amplified credit for near misses (Sweet Spot Learning, arXiv 2601.22491).

How near an answer is to the right one is cut into K tiers, and a tier earns more the nearer it is. Four tiers are the
paper's best. Choices made here: nearness of boxes is their matched IoU, of names and answers the share of letters that
need no edit; tier k of K (k = floor of K times the nearness) earns ``weight (k / K)^p``, p = 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import NonNegativeFloat, PositiveFloat

from methods.base import Method, Rollouts
from methods.lazy import Tensor, torch
from methods.parts.likeness import likeness_of, whole_likeness
from task_streams.config import Count, Settings


@dataclass(frozen=True)
class SweetSpotConfig(Settings):
    """Settings of sweet spot learning."""

    weight: NonNegativeFloat = 0.5
    """Credit of the innermost tier (0 or more)."""
    tiers: Count = 4
    """Tiers K (at least 1); with one, only exact answers earn credit."""
    power: PositiveFloat = 2.0
    """Amplification p: 1 is linear in the tier, more favours the inner tiers (above 0)."""


class SweetSpot(Method):
    """Tiered credit for near misses: more, the nearer an answer is to the right one."""

    name, family = "sweet_spot", "part"
    joins = frozenset({"reinforcement"})
    works_split = True
    Config = SweetSpotConfig
    source = "arXiv 2601.22491"

    config: SweetSpotConfig

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        nearness = likeness_of(rollouts, whole_likeness)
        tier = torch.floor(nearness * self.config.tiers + 1e-6)  # 1e-6: an IoU of 0.5 must not fall below its tier
        return rewards + self.config.weight * (tier / self.config.tiers) ** self.config.power
