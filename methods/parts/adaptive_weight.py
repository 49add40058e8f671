"""The retention reward with a weight that is learned, so that shaped updates still improve the task reward.

Two levels, as in behaviour alignment by reward optimisation (arXiv 2310.19007): the policy follows
``R_task + lambda R_ret``, lambda follows what the updates so made do for the task reward alone. The paper's outer
gradient is implicit; taken here: one step ahead and seen at the output head. The update moves along
``g_task + lambda g_ret``, so the task reward changes by ``g_task . g_ret`` per unit of lambda, with
``g = sum_i A_i phi_i``, A the group-centred reward and phi the completions' gradient features. The cosine is followed
instead of the product, for its scale is the same whatever the model: ``lambda <- clip(lambda + rate cos, 0, most)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat

from methods.advantage import centred
from methods.base import Method, Need, Rollouts
from methods.lazy import Tensor, torch
from methods.parts.gradient_features import gradient_features
from methods.parts.retention import retention_of
from task_streams.config import Settings


@dataclass(frozen=True)
class AdaptiveWeightConfig(Settings):
    """Settings of the learned weight."""

    initial: NonNegativeFloat = 0.5
    """Weight lambda at first (0 to ``most``)."""
    most: PositiveFloat = 2.0
    """Upper bound of the weight (above 0)."""
    rate: NonNegativeFloat = 0.05
    """How far one step can move the weight (0 or more)."""
    sharpness: PositiveFloat = 20.0
    """Sharpness alpha in exp(-alpha * drift) (above 0), per nat."""

    def problems(self) -> list[str]:
        return [] if self.initial <= self.most else [f"initial: got {self.initial}, expected a number from 0 to most."]


class AdaptiveWeight(Method):
    """Retention reward whose weight is learned: up where it helps the task reward, down where it hurts."""

    name, family = "adaptive_weight", "part"
    joins = frozenset({"reinforcement"})
    Config = AdaptiveWeightConfig
    source = "arXiv 2310.19007"
    needs: frozenset[Need] = frozenset({"anchor"})

    config: AdaptiveWeightConfig

    def __init__(self, config: AdaptiveWeightConfig) -> None:
        super().__init__(config)
        self.weight = config.initial

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        if rollouts.task_index == 1:
            return rewards
        retention = retention_of(rollouts, self.config.sharpness)
        shaped = rewards + self.weight * retention
        rollouts.log("adaptive_weight", self.weight)
        features = gradient_features(rollouts)
        # of the policy gradients of the two rewards at the output head; 0 where one of them teaches nothing
        task, other = (
            (centred(reward, rollouts.group_size)[:, None] * features).sum(dim=0)
            for reward in (rollouts.task_reward, retention)
        )
        agreement = torch.nn.functional.cosine_similarity(task, other, dim=0).item()
        self.weight = min(max(self.weight + self.config.rate * agreement, 0.0), self.config.most)
        return shaped

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight = state["weight"]
