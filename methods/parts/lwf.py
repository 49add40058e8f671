"""Learning without forgetting: answer the new task's prompts with the previous policy's probabilities, softened.

``lambda T^2 KL(softmax(z_{t-1} / T) || softmax(z / T))`` on the tokens of the current task's targets, averaged over
them. Source: arXiv 1606.09282 (the distillation of arXiv 1503.02531, whose T^2 keeps the size of the gradients).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from methods.base import Family, LossContext, Method, Need
from methods.lazy import Tensor, torch
from methods.training.targets import completion_logits, mean_over_completions
from task_streams.config import Settings


@dataclass(frozen=True)
class LwfConfig(Settings):
    """Settings of learning without forgetting; the paper's defaults."""

    strength: NonNegativeFloat = 1.0
    """Coefficient lambda of the distillation (0 or more)."""
    temperature: PositiveFloat = 2.0
    """Temperature T that softens both policies' probabilities (above 0)."""


class Lwf(Method):
    """Distillation from the previous task's policy on the new task's examples; rehearsal-free."""

    name, family = "lwf", "part"
    joins: ClassVar[frozenset[Family]] = frozenset({"supervised"})
    Config = LwfConfig
    source = "arXiv 1606.09282"
    needs: frozenset[Need] = frozenset({"anchor"})

    config: LwfConfig

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        if context.task_index == 1:
            return {}
        if context.anchor is None:
            raise RuntimeError(f"task {context.task_index} has no anchor: there is nothing to distil from")
        inputs = dict(context.inputs)
        with torch.no_grad(), context.anchor.active() as teacher:
            taught, _ = completion_logits(teacher, inputs)
        logits, _ = completion_logits(context.model, inputs)
        distances = softened_distance(logits, taught, self.config.temperature)
        return {"lwf_penalty": self.config.strength * mean_over_completions(distances, inputs["labels"])}


def softened_distance(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(taught / T) || softmax(logits / T))`` of each token, [N, V] and [N, V] to [N], in nats."""
    own = (logits.float() / temperature).log_softmax(dim=-1)
    goal = (taught.float() / temperature).log_softmax(dim=-1)
    return temperature**2 * (goal.exp() * (goal - own)).sum(dim=-1)
