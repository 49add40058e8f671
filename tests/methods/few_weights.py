"""A policy of a few weights, for penalties whose values follow by hand: no hook of theirs asks it for an answer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from methods.base import LossContext, Method, TaskContext
from methods.model.config import ModelConfig
from methods.model.policy import Policy
from task_streams.types import Task


def policy_of(**weights: list[float]) -> Policy:
    """A policy whose trained weights have these names and values."""
    model = nn.Module()
    for name, values in weights.items():
        model.register_parameter(name, nn.Parameter(torch.tensor(values)))
    return Policy(model, None, ModelConfig(), "eager")


def set_weights(policy: Policy, **weights: list[float]) -> None:
    """Put other values in their place."""
    with torch.no_grad():
        for name, values in weights.items():
            policy.model.get_parameter(name).copy_(torch.tensor(values))


def context_of(policy: Policy, task: int, fisher: Mapping[str, Tensor] | None = None) -> TaskContext:
    """What surrounds a task without examples."""
    return TaskContext(Task(task, f"task{task}", (), (), (), ()), policy, None, seed=1, fisher=fisher)


def terms_of(method: Method, policy: Policy, task: int) -> dict[str, Tensor]:
    """A method's loss terms as the weights are now."""
    return method.loss_terms(LossContext(policy.model, {}, task, None, lambda name, value: None))
