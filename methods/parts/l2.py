"""L2 penalty: stay near the weights that the previous task left, or near those of the base (L2-init).

``(lambda / 2) sum (theta - theta*)^2``. Sources: the regularisation baselines of RaPO (arXiv 2605.09640); L2-init,
arXiv 2308.11958. With an adapter the weights are the adapter's, for L2-init as they were before the first task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeFloat

from methods.base import LossContext, Method, TaskContext
from methods.lazy import Tensor
from methods.model.weights import copied_weights, trained_weights, weighted_distance
from task_streams.config import Settings


@dataclass(frozen=True)
class L2Config(Settings):
    """Settings of the L2 penalty."""

    strength: NonNegativeFloat = 1.0
    """Coefficient lambda (0 or more)."""


class L2(Method):
    """L2 penalty to the weights that the previous task left."""

    name, family = "l2", "part"
    Config = L2Config
    source = "baseline of arXiv 2605.09640"

    config: L2Config
    centre: dict[str, Tensor] | None = None

    def before_task(self, context: TaskContext) -> None:
        self.centre = copied_weights(context.policy.model) if context.task.index > 1 else None

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        if self.centre is None:
            return {}
        distance = weighted_distance(context.model, self.centre, None)
        return {f"{self.name}_penalty": self.config.strength / 2 * distance}


class L2Init(L2):
    """L2 penalty to the weights before the first task, from the first task on."""

    name = "l2_init"
    needs_first_task = "it holds the weights as they were before the first task"
    source = "arXiv 2308.11958"

    def before_task(self, context: TaskContext) -> None:
        if self.centre is None:
            self.centre = copied_weights(context.policy.model)
        homes = dict(trained_weights(context.policy.model))
        self.centre = {name: value.to(homes[name].device) for name, value in self.centre.items()}

    def state_dict(self) -> dict[str, Any]:
        return {name: value.cpu() for name, value in (self.centre or {}).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.centre = dict(state)
