"""Iterated self-SFT: sample answers, keep the right ones, fine-tune on them, and sample anew on every pass.

Source: the iterated self-SFT of arXiv 2510.18874 (approximately on-policy data forget less); the filter is that of
RAFT, arXiv 2304.06767. Right means: right as a whole and well-formed. Boxes are right only if every one is.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat

from eval.score import score
from methods.algorithms.sft import SftConfig
from methods.base import Method, TaskContext
from methods.model.config import Decoding
from task_streams.config import Count, PositiveShare
from task_streams.errors import UserError
from task_streams.prompt import request, target_text


@dataclass(frozen=True)
class RaftConfig(SftConfig):
    """Settings of iterated self-SFT."""

    answers: Count = 5
    """Answers that are sampled for each example, n (at least 1)."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature (above 0)."""
    top_p: PositiveShare = 1.0
    """Nucleus of the sampling, in (0, 1]."""
    refresh: NonNegativeInt | None = None
    """Updates after which is sampled anew (0: once per task; null: on every pass over the kept answers)."""
    unsolved: Literal["drop", "target"] = "drop"
    """An example without a right answer is left out (drop) or learned from its label (target)."""
    sampled_together: Count = 40
    """Answers that are sampled in one batch (at least 1); changes memory and the draws."""


class Raft(Method):
    """Fine-tune on the policy's own right answers."""

    name, family = "raft", "supervised"
    Config = RaftConfig
    source = "arXiv 2510.18874"

    config: RaftConfig
    context: TaskContext | None = None
    kept: dict[str, list[str]]  # right answers by item key, read by the training as it goes
    every: int  # updates after which is sampled anew; 0: never

    def targets(self, context: TaskContext) -> dict[str, list[str]]:
        self.context = context
        self.kept = self._sampled(context, 0)
        if not self.kept:
            raise UserError(
                f"method raft: none of {self.config.answers} answers to each of {len(context.task.train)} examples of "
                f"task {context.task.name!r} is right; raise method.answers or set method.unsolved=target."
            )
        rows = sum(len(self.kept.get(example.key, ())) for example in context.task.train)
        one_pass = ceil(rows / context.prompts_per_update)
        self.every = one_pass if self.config.refresh is None else self.config.refresh
        return self.kept

    def after_step(self, task_index: int, step: int) -> None:
        if self.context is None or self.every == 0 or step % self.every:
            return
        fresh = self._sampled(self.context, step)
        if fresh:  # otherwise the last right answers stay
            self.kept.clear()
            self.kept.update(fresh)

    def after_task(self, context: TaskContext) -> None:
        self.context = None

    def state_dict(self) -> dict[str, Any]:
        """The answers at hand inside a task; nothing between tasks."""
        return {} if self.context is None else {"kept": {key: list(texts) for key, texts in self.kept.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept.clear()
        self.kept.update(state["kept"])

    def _sampled(self, context: TaskContext, step: int) -> dict[str, list[str]]:
        """Right answers of the policy as it is now, by item key; examples without one as the config says."""
        examples = list({example.key: example for example in context.task.train}.values())
        several = [example for example in examples for _ in range(self.config.answers)]
        labels, style = context.task.trained, context.style
        kept: dict[str, list[str]] = {}
        for first in range(0, len(several), self.config.sampled_together):
            batch = several[first : first + self.config.sampled_together]
            asked = {key: request(example, labels, style) for key, example in {e.key: e for e in batch}.items()}
            seed = context.seed + 1_000_003 * step + first
            decoding = Decoding(context.max_completion_tokens, self.config.temperature, self.config.top_p, seed)
            answers = context.policy.generate([asked[example.key] for example in batch], decoding)
            for example, text in zip(batch, answers, strict=True):
                judged = score(text, example.target, labels, style)
                if judged.correct and judged.format_ok:
                    kept.setdefault(example.key, []).append(text)
        if self.config.unsolved == "target":
            for example in examples:
                truth = target_text(example.target, context.thought, style, labels)
                kept.setdefault(example.key, [truth])
        return kept
