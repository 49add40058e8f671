"""Rollout-based instance filtering (RIF-RFT, arXiv 2507.05386): learn from what can be learned from.

Before a task the policy answers every training example K times, and those that it never answers right are left out.
The paper's section on efficiency; K = 8. Choices where it leaves them: rollouts are drawn at temperature 1, as in
training, and examples that are always answered right stay in. Deliberately absent: filtering again within a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.score import score
from methods.base import LossContext, Method, TaskContext
from methods.lazy import Tensor
from methods.model.config import Decoding
from task_streams.config import Count, Settings
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.types import Example


@dataclass(frozen=True)
class RifConfig(Settings):
    """Settings of rollout-based instance filtering."""

    rollouts: Count = 8
    """Answers sampled for each training example before a task, K (at least 1)."""
    least_correct: Count = 1
    """Right answers among them that keep an example (1 to ``rollouts``)."""
    batch_size: Count = 8
    """Examples whose answers are sampled at once (at least 1); changes memory, and which answers are drawn."""

    def problems(self) -> list[str]:
        if self.least_correct <= self.rollouts:
            return []
        return [f"least_correct: got {self.least_correct}, expected a whole number from 1 to rollouts."]


class Rif(Method):
    """Leave out training examples that the policy never answers right before the task."""

    name, family = "rif", "part"
    joins = frozenset({"reinforcement"})
    Config = RifConfig
    source = "arXiv 2507.05386"

    config: RifConfig
    kept = 1.0  # share of the task's examples

    def choose_examples(self, context: TaskContext, examples: Sequence[Example]) -> Sequence[Example]:
        size = self.config.batch_size
        chosen: list[Example] = []
        for start in range(0, len(examples), size):
            batch = examples[start : start + size]
            counts = correct_answers(context, batch, self.config.rollouts, context.seed + start)
            chosen += [one for one, right in zip(batch, counts, strict=True) if right >= self.config.least_correct]
        if not chosen:
            raise UserError(
                f"rif: none of the {len(examples)} training examples of task {context.task.name!r} is answered right "
                f"{self.config.least_correct} times in {self.config.rollouts}; raise method.parts.rif.rollouts, or "
                "begin with a model that answers some of them."
            )
        self.kept = len(chosen) / len(examples)
        return chosen

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        context.log("rif_kept", self.kept)
        return {}


def correct_answers(context: TaskContext, examples: Sequence[Example], count: int, seed: int) -> list[int]:
    """How many of ``count`` sampled answers are right, for each example."""
    labels = context.task.trained
    asked = [context.policy.prepared(request(example, labels, context.style)) for example in examples]
    decoding = Decoding(context.max_completion_tokens, temperature=1.0, seed=seed)
    answers = context.policy.generate([one for one in asked for _ in range(count)], decoding)
    right = [
        score(answer, examples[row // count].target, labels, context.style).correct
        for row, answer in enumerate(answers)
    ]
    return [sum(right[start : start + count]) for start in range(0, len(right), count)]
