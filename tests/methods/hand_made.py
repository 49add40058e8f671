"""Rollout steps made by hand, for tests of what methods do with rewards."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base import Rollouts
from task_streams.types import Target

THOUGHT = "<think>it looks like this</think>"


def reply(answer: str) -> str:
    return f"{THOUGHT}<answer>{answer}</answer>"


def rollouts(
    components: dict[str, list[float]],
    *,
    group_size: int,
    task: int = 2,
    drifts: list[float] | None = None,
    answers: list[str] | None = None,
    target: Target | list[Target] = "three",
    labels: tuple[str, ...] = ("eight", "three"),
) -> tuple[Rollouts, dict[str, float]]:
    """A step of completions of one token each, and what is logged: answers None are written as no reply at all."""
    logged: dict[str, float] = {}
    count = len(next(iter(components.values())))
    targets = target if isinstance(target, list) else [target] * count
    made = Rollouts(
        task_index=task,
        group_size=group_size,
        components={name: torch.tensor(values) for name, values in components.items()},
        mask=torch.ones(count, 1),
        actor_logps=None if drifts is None else torch.tensor(drifts)[:, None] - 1.0,
        anchor_logps=None if drifts is None else torch.full((count, 1), -1.0),
        keys=tuple(f"item/{row // group_size}" for row in range(count)),
        log=logged.__setitem__,
        completions=tuple(answers or ()),
        targets=tuple(targets) if answers else (),
        labels=labels,
    )
    return made, logged


@dataclass
class HandMade:
    """Views with a head of the identity over two tokens."""

    tokens: Tensor
    policy: Tensor
    anchor: Tensor | None = None
    after: tuple[float, ...] = ()

    @property
    def head(self) -> Tensor:
        return torch.eye(2)

    def hidden(self, whose: str) -> Tensor:
        return self.policy if whose == "policy" else self.anchor  # type: ignore[return-value]

    def continuation_logps(self, prefixes: Sequence[str], continuations: Sequence[str]) -> Tensor:
        assert set(continuations) == {"three</answer>"}
        values = [after if "this" in prefix else 0.25 for prefix, after in zip(prefixes, self.after, strict=True)]
        return torch.tensor(values).log()
