"""DER++: keep logits of remembered examples as they were, and go on learning their labels.

``alpha mean ||z - z_buf||^2 + beta CE`` on two draws from the memory, each as large as the batch at hand. Not
rehearsal-free. Source: arXiv 2004.07211; its defaults are Mammoth's for a memory of 500. Here the logits are the
largest of each token of the target, stored as the next task begins, for the prompt as the example's own task put it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, ClassVar

from pydantic import NonNegativeFloat

from methods.base import Family, LossContext, Method, Need, ReplayPlan, TaskContext
from methods.lazy import Tensor, no_grad, torch
from methods.training.targets import completion_logits, mean_over_completions, target_inputs
from task_streams.config import Count, Settings
from task_streams.prompt import request, target_text
from task_streams.scenarios.draw import shuffled
from task_streams.types import Example


@dataclass(frozen=True)
class DerppConfig(Settings):
    """Settings of DER++."""

    items: Count = 100
    """Examples of all earlier tasks together that are kept (at least 1)."""
    logit_weight: NonNegativeFloat = 0.2
    """Coefficient alpha of the squared distance to the stored logits (0 or more)."""
    label_weight: NonNegativeFloat = 0.5
    """Coefficient beta of the cross-entropy on remembered labels (0 or more)."""
    top: Count = 64
    """Logits that are stored for each token, the largest (at least 1)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What is kept of one example: the classes that its prompt listed, and the largest logits of N tokens."""

    listed: tuple[str, ...]  # classes that the prompt listed
    values: Tensor  # the logits, [N, k]
    tokens: Tensor  # which tokens they are of, [N, k]


class Derpp(Method):
    """Replay of stored logits and of labels; not rehearsal-free."""

    name, family = "derpp", "part"
    joins: ClassVar[frozenset[Family]] = frozenset({"supervised"})
    Config = DerppConfig
    needs_first_task = "it keeps logits of each task's examples as the task left them"
    source = "arXiv 2004.07211"
    needs: frozenset[Need] = frozenset({"replay"})

    config: DerppConfig
    context: TaskContext

    def __init__(self, config: DerppConfig) -> None:
        super().__init__(config)
        self.stored: dict[str, Stored] = {}  # by item key
        self.listed: tuple[str, ...] = ()  # by the prompts of the task before
        self.draws: dict[str, Iterator[Example]] = {}
        self.drawn = {"logits": 0, "labels": 0}  # examples of the memory, in this task

    @property
    def replay(self) -> ReplayPlan:
        return ReplayPlan(self.config.items, share=0)

    def before_task(self, context: TaskContext) -> None:
        """Store the logits of what entered the memory: the policy is still as the task before left it."""
        self.context = context
        known = self.stored
        self.stored = {e.key: known[e.key] if e.key in known else self._fresh(e) for e in context.memory}
        self.drawn = dict.fromkeys(self.drawn, 0)
        self.draws = {use: endless(context.memory, context.seed, use) for use in self.drawn}

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        if not self.stored:
            return {}
        rows = len(context.inputs["labels"])
        terms = {}
        if self.config.logit_weight > 0:
            examples = self._next("logits", rows)
            inputs = self._inputs(examples, [self.stored[e.key].listed for e in examples])
            logits, _ = completion_logits(context.model, inputs)
            distances = logit_distance(logits, [self.stored[e.key] for e in examples])
            terms["derpp_logits"] = self.config.logit_weight * mean_over_completions(distances, inputs["labels"])
        if self.config.label_weight > 0:
            examples = self._next("labels", rows)
            inputs = self._inputs(examples, [self.context.task.seen] * rows)
            logits, labels = completion_logits(context.model, inputs)
            losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
            terms["derpp_labels"] = self.config.label_weight * mean_over_completions(losses, inputs["labels"])
        return terms

    def after_task(self, context: TaskContext) -> None:
        self.listed = context.task.trained
        self.draws = {}

    def _next(self, use: str, count: int) -> list[Example]:
        self.drawn[use] += count
        return list(islice(self.draws[use], count))

    def _inputs(self, examples: Sequence[Example], listed: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Examples with their targets as model inputs, each prompt with its own list of classes."""
        style, thought = self.context.style, self.context.thought
        asked = [request(e, labels, style) for e, labels in zip(examples, listed, strict=True)]
        texts = [target_text(e.target, thought, style, labels) for e, labels in zip(examples, listed, strict=True)]
        return target_inputs(self.context.policy, asked, texts)

    @no_grad
    def _fresh(self, example: Example) -> Stored:
        policy = self.context.policy
        was_training = policy.model.training
        policy.model.eval()
        with policy.computing():
            logits, _ = completion_logits(policy.model, self._inputs([example], [self.listed]))
        policy.model.train(was_training)
        top = logits.float().topk(min(self.config.top, logits.shape[-1]))
        return Stored(self.listed, top.values.cpu(), top.indices.int().cpu())

    def state_dict(self) -> dict[str, Any]:
        kept = list(self.stored.values())
        lists = list(dict.fromkeys(one.listed for one in kept))
        state: dict[str, Any] = {
            "listed": list(self.listed),
            "keys": list(self.stored),
            "lists": [list(names) for names in lists],
            "list_of_key": [lists.index(one.listed) for one in kept],
            "lengths": [len(one.values) for one in kept],
            "drawn": dict(self.drawn) if self.draws else {},
        }
        if kept:
            state["values"] = torch.cat([one.values for one in kept])
            state["tokens"] = torch.cat([one.tokens for one in kept])
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.listed = tuple(state["listed"])
        for use, drawn in state["drawn"].items():  # inside a task, whose draws before_task began anew
            self._next(use, drawn)
        if not state["keys"]:
            return
        values, tokens = (state[name].split(state["lengths"]) for name in ("values", "tokens"))
        listed = [tuple(state["lists"][i]) for i in state["list_of_key"]]
        kept = [Stored(*parts) for parts in zip(listed, values, tokens, strict=True)]
        self.stored = dict(zip(state["keys"], kept, strict=True))


def logit_distance(logits: Tensor, stored: Sequence[Stored]) -> Tensor:
    """Mean squared distance of each token's logits to those stored of it, [N, V] to [N]."""
    tokens = torch.cat([one.tokens for one in stored]).to(logits.device).long()  # [N, k]
    values = torch.cat([one.values for one in stored]).to(logits.device)
    return (logits.float().gather(1, tokens) - values).square().mean(dim=1)


def endless(examples: Sequence[Example], seed: int, use: str) -> Iterator[Example]:
    """The examples in seeded order, again and again in another one."""
    for turn in count() if examples else ():
        yield from shuffled(examples, seed, f"derpp {use} {turn}")
