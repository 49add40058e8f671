"""The hard thresholds of RaPO's pilot study (arXiv 2605.09640): which half of a group's drift is rewarded.

In a group all of whose rollouts are right in everything, nothing but drift tells them apart. ``keep: low`` takes the
reward from the rollouts whose drift from the previous task's policy is above the group's mean, ``keep: high``, the
mirror image, from those below it. All other groups stay as they are, and so does the first task, which has no drift.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base import Method, Need, Rollouts
from methods.retention import drift
from methods.settings import require


@dataclass(frozen=True)
class DriftThresholdConfig:
    """Settings of the hard threshold."""

    keep: str = "low"
    """Rollouts that keep their reward in an all-right group: low (drift up to the group's mean) or high (from it)."""

    def __post_init__(self) -> None:
        require("method", keep=(self.keep in ("low", "high"), self.keep, "low or high"))


class DriftThreshold(Method):
    """No reward for right rollouts on one side of their group's mean drift."""

    name = "drift_threshold"
    family = "part"
    joins = frozenset({"reinforcement"})
    works_split = True
    Config = DriftThresholdConfig
    source = "arXiv 2605.09640"

    config: DriftThresholdConfig

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"anchor"})

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        if rollouts.task_index == 1:
            return rewards
        if rollouts.actor_logps is None or rollouts.anchor_logps is None:
            raise RuntimeError(f"task {rollouts.task_index} has no anchor: the drift threshold is undefined")
        drifts = drift(rollouts.actor_logps, rollouts.anchor_logps, rollouts.mask)
        groups = drifts.view(-1, rollouts.group_size)  # [B, G]
        above = groups - groups.mean(dim=1, keepdim=True)
        full = rollouts.task_reward.view(-1, rollouts.group_size) >= len(rollouts.components)
        decided = full.all(dim=1, keepdim=True)  # [B, 1]
        taken = decided & (above > 0 if self.config.keep == "low" else above < 0)
        rollouts.log("drift", drifts.mean().item())
        rollouts.log("right_groups", decided.float().mean().item())
        return torch.where(taken.view(-1), torch.zeros_like(rewards), rewards)
