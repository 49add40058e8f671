"""Reward for what the thinking adds to the probability of the right answer (IGPO, arXiv 2510.14967).

IGPO: ``pi(a | question, turns so far) - pi(a | question, turns before)`` with
``pi(a | .) = exp((1/L) sum_j log pi(a_j | ., a_<j))``. Choices made here: the one turn is the thought, "before" is an
empty think block, the right answer is the one that supervised methods train towards, its closing tag included. A
completion whose thought cannot be read gains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import NonNegativeFloat

from eval.parse import parse_completion
from methods.base import Method, Rollouts, TaskContext
from methods.lazy import Tensor, torch
from task_streams.config import Settings
from task_streams.errors import UserError
from task_streams.prompt import answer_text


@dataclass(frozen=True)
class InformationGainConfig(Settings):
    """Settings of the information gain."""

    weight: NonNegativeFloat = 0.5
    """Weight of the gain in probability, which lies between -1 and 1 (0 or more)."""


class InformationGain(Method):
    """Reward for the rise of the right answer's probability that the thought brings."""

    name, family = "information_gain", "part"
    joins = frozenset({"reinforcement"})
    Config = InformationGainConfig
    source = "arXiv 2510.14967"

    config: InformationGainConfig

    def before_task(self, context: TaskContext) -> None:
        if not context.style.think:
            raise UserError("information_gain: the prompts ask for no thought; expected stream.think=true.")

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        views = rollouts.views
        if views is None:
            raise RuntimeError("no views: the probability of an answer is undefined")
        thoughts = [parse_completion(text, rollouts.style).thought for text in rollouts.completions]
        answers = [f"{answer_text(target, rollouts.labels, rollouts.style)}</answer>" for target in rollouts.targets]
        opening = "<think>{}</think><answer>"
        after = views.continuation_logps([opening.format(thought or "") for thought in thoughts], answers).exp()
        before = views.continuation_logps([opening.format("")] * len(thoughts), answers).exp()
        readable = torch.tensor([thought is not None for thought in thoughts], device=after.device)
        gain = torch.where(readable, after - before, 0.0)  # in probability of the right answer, [B*G]
        rollouts.log("information_gain", gain.mean().item())
        return rewards + self.config.weight * gain
