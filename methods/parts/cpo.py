"""CPO's penalty: hold the few weights of each tensor that earlier tasks moved most.

``lambda sum_tensors mean_{i in M} |theta_i - theta_{t-1,i}|``, where M is the union over the earlier tasks of each
tensor's top 10 % by ``|theta_t - theta_{t-1}|``. Source: arXiv 2607.04364. Weights that a task did not move never
enter M, whatever the share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import NonNegativeFloat

from methods.base import LossContext, Method, TaskContext
from methods.lazy import Tensor, no_grad, torch
from methods.model.weights import copied_weights, trained_weights
from task_streams.config import PositiveShare, Settings


@dataclass(frozen=True)
class CpoConfig(Settings):
    """Settings of CPO's penalty."""

    strength: NonNegativeFloat = 10.0
    """Coefficient lambda (0 or more); the paper's range is 1 to 100."""
    share: PositiveShare = 0.1
    """Share of each tensor's weights that a task adds to those that are held, in (0, 1]."""


class Cpo(Method):
    """Absolute penalty on the weights that earlier tasks moved most."""

    name, family = "cpo", "part"
    Config = CpoConfig
    source = "arXiv 2607.04364"

    config: CpoConfig
    held: Mapping[str, Tensor] = MappingProxyType({})  # by parameter name, true where a weight is in M
    centre: dict[str, Tensor]

    def before_task(self, context: TaskContext) -> None:
        self.centre = copied_weights(context.policy.model)
        self.held = {name: held.to(self.centre[name].device) for name, held in self.held.items()}

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        terms = [
            ((weight.float() - self.centre[name].float()).abs() * self.held[name]).sum() / self.held[name].sum()
            for name, weight in trained_weights(context.model)
            if name in self.held
        ]
        return {"cpo_penalty": self.config.strength * torch.stack(terms).sum()} if terms else {}

    @no_grad
    def after_task(self, context: TaskContext) -> None:
        for name, weight in trained_weights(context.policy.model):
            moved = most_moved((weight.float() - self.centre[name].float()).abs(), self.config.share)
            held = moved | self.held[name] if name in self.held else moved
            if bool(held.any()):
                self.held = {**self.held, name: held}

    def state_dict(self) -> dict[str, Any]:
        return {name: held.cpu() for name, held in self.held.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held = dict(state)


def most_moved(change: Tensor, share: float) -> Tensor:
    """Where a tensor's largest changes are, the first among equal ones; never where nothing changed.

    Equal ones are many: after few updates Adam has moved most weights by the same step.
    """
    flat = change.flatten()
    count = max(1, round(share * flat.numel()))
    least = flat.topk(count).values.min()
    above, equal = flat > least, flat == least
    first = equal.cumsum(dim=0) <= count - above.sum()
    return ((above | (equal & first)) & (flat > 0)).view_as(change)
