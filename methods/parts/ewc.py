"""Elastic weight consolidation, online: hold the weights that mattered for the tasks before.

``(lambda / 2) sum_i F_i (theta_i - theta_{t-1,i})^2`` with one running Fisher, ``F <- gamma F + F_t``.
Sources: EWC, arXiv 1612.00796; the online variant, arXiv 1805.06370.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import NonNegativeFloat

from methods.base import LossContext, Method, Need, TaskContext
from methods.lazy import Tensor
from methods.model.weights import copied_weights, weighted_distance
from task_streams.config import Count, Settings, Share


@dataclass(frozen=True)
class EwcConfig(Settings):
    """Settings of elastic weight consolidation."""

    strength: NonNegativeFloat = 1000.0
    """Coefficient lambda (0 or more)."""
    decay: Share = 0.9
    """How much of the earlier tasks' Fisher information is kept at each task, gamma in [0, 1]."""
    fisher_items: Count = 64
    """Training examples from which a task's Fisher information is estimated (at least 1)."""


class Ewc(Method):
    """Quadratic penalty on weights that mattered for earlier tasks."""

    name, family = "ewc", "part"
    Config = EwcConfig
    source = "arXiv 1612.00796, 1805.06370"
    needs: frozenset[Need] = frozenset({"fisher"})

    config: EwcConfig
    fisher: Mapping[str, Tensor] = MappingProxyType({})
    centre: dict[str, Tensor]

    @property
    def fisher_items(self) -> int:
        return self.config.fisher_items

    def before_task(self, context: TaskContext) -> None:
        self.centre = copied_weights(context.policy.model)
        self.fisher = {name: value.to(self.centre[name].device) for name, value in self.fisher.items()}

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        if not self.fisher:
            return {}
        distance = weighted_distance(context.model, self.centre, self.fisher)
        return {"ewc_penalty": self.config.strength / 2 * distance}

    def after_task(self, context: TaskContext) -> None:
        if context.fisher is None:
            raise RuntimeError("the runner gave no Fisher information")
        old = self.fisher
        self.fisher = {
            name: self.config.decay * old[name] + fresh if old else fresh for name, fresh in context.fisher.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: value.cpu() for name, value in self.fisher.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fisher = dict(state)
