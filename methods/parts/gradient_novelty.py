"""Bounded factor for rollouts whose gradient feature differs from those of their group (G2RL, arXiv 2512.15687).

Features are those of ``gradient_features.py``, S_ij their cosines. Choices made here: novelty is
``nu_i = 1 - sum_{j != i} w_j S_ij^2`` with w the softmax of the other rollouts' rewards, so that repeating what is
rewarded counts as less new than repeating what is not, and the factor is ``1 + s (2 nu - 1)``, in [1 - s, 1 + s].
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import Method, Rollouts
from methods.lazy import Tensor, torch
from methods.parts.gradient_features import gradient_features
from task_streams.config import Settings, Share


@dataclass(frozen=True)
class GradientNoveltyConfig(Settings):
    """Settings of gradient novelty."""

    strength: Share = 0.2
    """How far the factor may be from 1, s in [0, 1]."""


class GradientNovelty(Method):
    """Rewards times a bounded factor for how new a rollout's gradient is within its group."""

    name, family = "gradient_novelty", "part"
    joins = frozenset({"reinforcement"})
    Config = GradientNoveltyConfig
    source = "arXiv 2512.15687"

    config: GradientNoveltyConfig

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        novel = novelty(gradient_features(rollouts), rewards, rollouts.group_size)
        rollouts.log("gradient_novelty", novel.mean().item())
        return rewards * (1 + self.config.strength * (2 * novel - 1))


def novelty(features: Tensor, rewards: Tensor, group_size: int) -> Tensor:
    """``1 - sum_{j != i} w_j S_ij^2`` within groups, in [0, 1]; features [B*G, H], rewards [B*G] to [B*G]."""
    unit = torch.nn.functional.normalize(features, dim=1).view(-1, group_size, features.shape[1])
    square = (unit @ unit.transpose(1, 2)).square()  # [B, G, G]
    own = torch.eye(group_size, dtype=torch.bool, device=rewards.device)
    others = rewards.view(-1, 1, group_size).expand(-1, group_size, -1).masked_fill(own, -torch.inf)
    return (1 - (others.softmax(dim=2) * square).sum(dim=2)).clamp(0, 1).flatten()
