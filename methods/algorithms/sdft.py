"""Self-distillation: the policy's own replies, taught by itself once it has been shown a right reply.

``KL(pi(. | x, y<t) || pi_ema(. | x, shown reply, y<t))`` at every token of replies y that the policy samples to x,
averaged over them. Source: SDFT, arXiv 2601.19897. Rewards are measured and logged but teach nothing: the rollouts of
the reinforcement trainer serve as samples. The teacher starts anew as the policy at each task. A reply that was
cut off is taught with an end of sequence. One process only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, NonNegativeFloat

from methods.algorithms.grpo import Group, GrpoConfig
from methods.algorithms.sft import Thought
from methods.base import LossContext, Method, Need, Rollouts, TaskContext
from methods.costs.flops import TRAINED_ADAPTER
from methods.lazy import Tensor, no_grad, torch
from methods.model.weights import trained_weights
from methods.training.targets import completion_logits, mean_over_completions, target_inputs
from task_streams.config import Share
from task_streams.prompt import THOUGHTS, Request, request, target_text
from task_streams.types import Example

if TYPE_CHECKING:
    from methods.model.snapshots import Snapshot

TEACHER = "teacher"


@dataclass(frozen=True)
class SdftConfig(GrpoConfig):
    """Settings of self-distillation; those of rollouts are GRPO's."""

    group_size: Group = 2
    """Replies that are sampled for each prompt (at least 2)."""
    kl: NonNegativeFloat = 0.0
    """Coefficient of a k3 KL term to the base (0: none, as in the paper)."""
    average: Share = 0.01
    """Share alpha of the policy's weights that the teacher takes over at each update, in [0, 1]."""
    thought: Thought = THOUGHTS[0]
    """Wording of the thought in the reply that the teacher is shown, with {label} in it."""
    demonstration: Annotated[str, Field(pattern=r"\{reply\}", title="a text that contains {reply}")] = (
        " Here is an example of a good reply: {reply} Now give a reply of your own."
    )
    """What the teacher's prompt has behind the question, with {reply} in it."""


class Sdft(Method):
    """On-policy distillation from the policy that has seen a right reply."""

    name, family = "sdft", "reinforcement"
    Config = SdftConfig
    needs_with: ClassVar[Mapping[Need, str]] = {"reference": "kl"}
    source = "arXiv 2601.19897"

    config: SdftConfig
    context: TaskContext
    teacher: Snapshot | None = None  # inside a task
    examples: Mapping[str, Example]
    replies: Sequence[tuple[str, str]]  # item key and text of each rollout at hand

    def before_task(self, context: TaskContext) -> None:
        self.context = context
        self.teacher = context.policy.snapshot(TEACHER)

    def targets(self, context: TaskContext) -> None:
        """None: replies are sampled. The examples are kept for their prompts, replayed ones among them."""
        self.examples = {example.key: example for example in context.task.train}

    def normalize_advantages(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """No advantages: rewards teach nothing. The replies are kept for the loss."""
        self.replies = list(zip(rollouts.keys, rollouts.completions, strict=True))
        return torch.zeros_like(rewards)

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        if self.teacher is None:
            raise RuntimeError("before_task was not called")
        taught = [self.replies[place] for place in context.inputs["rollout"].tolist()]
        examples, texts = [self.examples[key] for key, _ in taught], [text for _, text in taught]
        inputs = self._inputs(examples, texts, shown=False)
        with torch.no_grad(), self.teacher.active() as teacher:
            goal, _ = completion_logits(teacher, self._inputs(examples, texts, shown=True))
        logits, _ = completion_logits(context.model, inputs)
        return {"sdft_loss": mean_over_completions(reverse_divergence(logits, goal), inputs["labels"])}

    def _inputs(self, examples: Sequence[Example], texts: Sequence[str], shown: bool) -> dict[str, Any]:
        """Replies behind their prompts, with a right reply shown in them or not."""
        labels, style, asked = self.context.task.trained, self.context.style, []
        for example in examples:
            right = target_text(example.target, self.config.thought, style, labels)
            behind = self.config.demonstration.replace("{reply}", right) if shown else ""
            asked.append(with_text(request(example, labels, style), behind))
        return target_inputs(self.context.policy, asked, texts)

    @no_grad
    def after_step(self, task_index: int, step: int) -> None:
        """The teacher follows: ``phi <- alpha theta + (1 - alpha) phi``."""
        for _, weight, follower in self._followers():
            follower.copy_(follower.float().lerp(weight.to(follower.device).float(), self.config.average))

    def _followers(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name of each trained weight, the policy's, and the teacher's."""
        if self.teacher is None:
            raise RuntimeError("before_task was not called")
        weights = dict(self.teacher.model.named_parameters())
        for name, weight in trained_weights(self.context.policy.model):
            adapter = self.context.policy.has_adapter
            yield name, weight, weights[name.replace(f".{TRAINED_ADAPTER}.", f".{TEACHER}.") if adapter else name]

    def state_dict(self) -> dict[str, Any]:
        """The teacher's weights inside a task; nothing between tasks."""
        if self.teacher is None:
            return {}
        return {name: follower.detach().cpu().clone() for name, _, follower in self._followers()}

    @no_grad
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, _, follower in self._followers():
            follower.copy_(state[name])

    def after_task(self, context: TaskContext) -> None:
        self.teacher, self.examples = None, {}


def reverse_divergence(logits: Tensor, goal: Tensor) -> Tensor:
    """``KL(softmax(logits) || softmax(goal))`` of each token, [N, V] and [N, V] to [N], in nats."""
    own, taught = logits.float().log_softmax(dim=-1), goal.float().log_softmax(dim=-1)
    return (own.exp() * (own - taught)).sum(dim=-1)


def with_text(asked: Request, text: str) -> Request:
    """The same question with a text behind it."""
    *turns, last = asked.messages
    *parts, words = last["content"]
    return replace(asked, messages=[*turns, {**last, "content": [*parts, {**words, "text": words["text"] + text}]}])
