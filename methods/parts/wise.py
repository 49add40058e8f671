"""WiSE averaging: after each task, weights between those before it and those after it.

``theta <- (1 - alpha) theta_{t-1} + alpha theta_t`` from the second task on. Source: WiSE-FT, arXiv 2109.01903, which
averages the fine-tuned weights with the zero-shot ones; here, as each task is learned, with the previous task's.
With an adapter its two factors are averaged, which is not the average of their products.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import Method, TaskContext
from methods.lazy import Tensor, no_grad
from methods.model.weights import copied_weights, trained_weights
from task_streams.config import Settings, Share


@dataclass(frozen=True)
class WiseConfig(Settings):
    """Settings of weight averaging."""

    share: Share = 0.5
    """Share alpha of the newly learned weights, in [0, 1]: 1 keeps them, 0 goes back to the previous task's."""


class Wise(Method):
    """Average the weights before and after each task but the first."""

    name, family = "wise", "part"
    Config = WiseConfig
    source = "arXiv 2109.01903"

    config: WiseConfig
    before: dict[str, Tensor] | None = None

    def before_task(self, context: TaskContext) -> None:
        self.before = copied_weights(context.policy.model) if context.task.index > 1 else None

    @no_grad
    def after_task(self, context: TaskContext) -> None:
        if self.before is None:
            return
        for name, weight in trained_weights(context.policy.model):
            weight.copy_(self.before[name].float().lerp(weight.float(), self.config.share))
        self.before = None
