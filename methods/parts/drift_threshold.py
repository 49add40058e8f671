"""The hard thresholds of RaPO's pilot study (arXiv 2605.09640): which side of a group's mean KL is rewarded.

In a group all of whose rollouts are right in everything, nothing but drift tells them apart. ``keep: low`` takes the
reward from the rollouts whose KL from the previous task's policy is above the group's mean, ``keep: high``, the mirror
image, from those below it. The KL is the mean log-ratio of a rollout's tokens as it is, not clamped at zero as RaPO's
drift. The paper does so "in the later tasks", which it does not number. All other groups stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from methods.base import Method, Need, Rollouts
from methods.drift.log_ratio import drift
from methods.lazy import Tensor, torch
from task_streams.config import Settings


@dataclass(frozen=True)
class DriftThresholdConfig(Settings):
    """Settings of the hard threshold."""

    keep: Literal["low", "high"] = "low"
    """Rollouts that keep their reward in an all-right group: low (KL up to the group's mean) or high (from it)."""
    from_task: Annotated[int, Field(ge=2)] = 2
    """First task whose rewards are changed (from 2: the first has no previous policy)."""


class DriftThreshold(Method):
    """No reward for right rollouts on one side of their group's mean KL."""

    name, family = "drift_threshold", "part"
    joins = frozenset({"reinforcement"})
    works_split = True
    Config = DriftThresholdConfig
    source = "arXiv 2605.09640"
    needs: frozenset[Need] = frozenset({"anchor"})

    config: DriftThresholdConfig

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        if rollouts.task_index < self.config.from_task:
            return rewards
        if rollouts.actor_logps is None or rollouts.anchor_logps is None:
            raise RuntimeError(f"task {rollouts.task_index} has no anchor: the drift threshold is undefined")
        kl = drift(rollouts.actor_logps, rollouts.anchor_logps, rollouts.mask, clamped=False)
        groups = kl.view(-1, rollouts.group_size)  # [B, G]
        above = groups - groups.mean(dim=1, keepdim=True)
        full = rollouts.task_reward.view(-1, rollouts.group_size) >= len(rollouts.components)
        decided = full.all(dim=1, keepdim=True)  # [B, 1]
        taken = decided & (above > 0 if self.config.keep == "low" else above < 0)
        rollouts.log("drift", kl.clamp(min=0.0).mean().item())
        rollouts.log("right_groups", decided.float().mean().item())
        return torch.where(taken.view(-1), torch.zeros_like(rewards), rewards)
