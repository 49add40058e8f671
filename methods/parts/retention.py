"""RaPO's retention reward as a part of its own, plain and gated.

``R + lambda exp(-alpha D)`` from task 2 on, D the drift from the anchor: the previous task's policy (arXiv 2605.09640,
equations 2 to 4), or another past one. Gated (G-RA, arXiv 2508.10548): the retention reward, the lower-priority one,
counts only for rollouts whose task reward reaches a threshold. The paper's threshold is on a four-valued outcome; here
it is on the mean of the task reward's components, and 0.75 asks of a class both the right answer and the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat

from methods.base import AnchorKind, AnchorRule, Method, Need, Rollouts
from methods.drift.log_ratio import drift, retention_reward
from methods.lazy import Tensor, torch
from task_streams.config import Momentum, Settings, Share


@dataclass(frozen=True)
class RetentionConfig(Settings):
    """Settings of the retention reward."""

    weight: NonNegativeFloat = 0.5
    """Weight lambda of the retention reward (0 or more)."""
    sharpness: PositiveFloat = 20.0
    """Sharpness alpha in exp(-alpha * drift) (above 0), per nat."""
    anchor: AnchorKind = "previous"
    """Policy that drift is measured from: previous (task's), first (task's), average (of past tasks') or base."""
    anchor_momentum: Momentum = 0.9
    """Momentum m of the average, a <- m a + (1 - m) policy once per task, in [0, 1)."""


class RetentionShaper(Method):
    """Reward for low drift from the anchor."""

    name, family = "retention", "part"
    joins = frozenset({"reinforcement"})
    works_split = True
    Config = RetentionConfig
    source = "arXiv 2605.09640"
    needs: frozenset[Need] = frozenset({"anchor"})

    config: RetentionConfig

    @property
    def anchor_rule(self) -> AnchorRule:
        return AnchorRule(self.config.anchor, self.config.anchor_momentum)

    def describe(self) -> dict[str, Any]:
        return {"anchor": str(self.anchor_rule)}

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        return rewards if rollouts.task_index == 1 else rewards + self.config.weight * self.retained(rollouts)

    def retained(self, rollouts: Rollouts) -> Tensor:
        """The retention reward of every rollout, [B*G]."""
        return retention_of(rollouts, self.config.sharpness)


@dataclass(frozen=True)
class GatedRetentionConfig(RetentionConfig):
    """Settings of the gated retention reward."""

    threshold: Share = 0.75
    """Mean of the task reward's components from which on the retention reward counts, in [0, 1]."""


class GatedRetention(RetentionShaper):
    """Reward for low drift, only for rollouts whose task reward reaches a threshold."""

    name = "gated_retention"
    Config = GatedRetentionConfig
    source = "arXiv 2508.10548"

    config: GatedRetentionConfig

    def retained(self, rollouts: Rollouts) -> Tensor:
        passed = rollouts.task_reward / len(rollouts.components) >= self.config.threshold
        rollouts.log("gate_open", passed.float().mean().item())
        return torch.where(passed, super().retained(rollouts), 0.0)


def retention_of(rollouts: Rollouts, sharpness: float) -> Tensor:
    """``exp(-alpha D)`` of every rollout, [B*G]; drift and reward are logged."""
    if rollouts.actor_logps is None or rollouts.anchor_logps is None:
        raise RuntimeError(f"task {rollouts.task_index} has no anchor: the retention reward is undefined")
    drifts = drift(rollouts.actor_logps, rollouts.anchor_logps, rollouts.mask)
    retention = retention_reward(drifts, sharpness)
    rollouts.log("drift", drifts.mean().item())
    rollouts.log("retention_reward", retention.mean().item())
    return retention
