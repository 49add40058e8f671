"""Root EWC: an EWC-like penalty with the square root of the Fisher information as importance, summed over tasks."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import LossContext, Method, Need, TaskContext
from methods.model.weights import copied_weights, weighted_distance


@dataclass(frozen=True)
class RootEwcConfig:
    strength: float = 10.0
    """Coefficient of the penalty (0 or more)."""


class RootEwc(Method):
    """Keeps weights that mattered for earlier tasks near where the previous task left them."""

    name, family, Config, source = "root_ewc", "part", RootEwcConfig, "docs/own-method.md"
    needs: frozenset[Need] = frozenset({"fisher"})  # the runner estimates it after each task
    importance: dict[str, Tensor] | None = None

    def before_task(self, context: TaskContext) -> None:
        self.centre = copied_weights(context.policy.model)

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        if not self.importance:
            return {}
        return {"root_ewc": self.config.strength * weighted_distance(context.model, self.centre, self.importance)}

    def after_task(self, context: TaskContext) -> None:
        before = self.importance or {}
        self.importance = {name: before.get(name, 0) + f.sqrt() for name, f in (context.fisher or {}).items()}

    def state_dict(self) -> dict[str, Tensor]:
        return self.importance or {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.importance = state
