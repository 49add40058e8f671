"""What a method sees and does before an optimizer step, gradients that are no numbers, and the figures of an update."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.algorithms.sft import Sft, SftConfig
from methods.base import LossContext, Method, TaskContext
from methods.compose import Composite
from methods.guard import GuardedMethod
from methods.model.policy import Policy
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, fit, step_row
from task_streams.errors import UserError
from task_streams.types import TaskStream

TRAIN = TrainConfig(updates=2, prompts_per_update=4, warmup=0, weight_decay=0.0, accumulation=2)


class Part(Method):
    """Nothing of its own."""

    name = "part"
    family = "part"
    Config = SftConfig


def learned(part: type[Method], policy: Policy, stream: TaskStream, folder: Path) -> Any:
    """Learn the first task by fine-tuning with a part; returns the part."""
    own = GuardedMethod(part(None))
    method = Composite(GuardedMethod(Sft(SftConfig())), [own])
    fit(method, TaskContext(stream.tasks[0], policy, None, seed=1), None, FitSettings(TRAIN, folder))
    return own.inner


def test_a_gradient_that_is_masked_moves_nothing(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    class Masks(Part):
        seen: tuple[Any, ...] = ()

        def before_step(self, model: nn.Module, task_index: int, step: int) -> None:
            norm = torch.nn.utils.get_total_norm([w.grad for w in model.parameters() if w.grad is not None]).item()
            self.seen = (*self.seen, (task_index, step, norm))
            for name, weight in model.named_parameters():
                if "visual" in name and weight.grad is not None:
                    weight.grad.zero_()

    before = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    part = learned(Masks, policy, stream, tmp_path)
    moved = {name for name, weight in policy.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved and not any("visual" in name for name in moved)
    assert [(task, step) for task, step, _ in part.seen] == [(1, 1), (1, 2)]  # once per update, not per micro-batch
    assert all(0 < norm <= TRAIN.max_grad_norm * 1.0001 for _, _, norm in part.seen)  # clipped already


def test_a_gradient_that_is_no_number_is_named_before_the_weights_are_lost(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    class Root(Part):
        def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
            weight = next(context.model.parameters())
            return {"root": (weight - weight.detach()).square().sum().sqrt()}  # 0, and without a derivative there

    with pytest.raises(UserError, match=r"'part' \(.*test_before_step.py\): the gradient of update 1 is not finite"):
        learned(Root, policy, stream, tmp_path)
    assert all(bool(torch.isfinite(weight).all()) for weight in policy.model.parameters())


def test_a_hook_that_spoils_gradients_is_named(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    class Spoils(Part):
        def before_step(self, model: nn.Module, task_index: int, step: int) -> None:
            for weight in model.parameters():
                if weight.grad is not None:
                    weight.grad.div_(0.0)

    with pytest.raises(UserError, match=r"method 'part' \(.*\), before_step: left gradients that are not finite"):
        learned(Spoils, policy, stream, tmp_path)


def test_what_a_method_logs_is_kept_and_what_trl_alone_logs_is_not() -> None:
    logs = {
        "loss": 0.5,
        "reward_std": 1.0,  # TRL's
        "reward_std_batch": 0.25,  # RaPO's own
        "epoch": 2.0,
        "epochs_added": 0.125,  # a method may begin like that
        "rewards/accuracy/mean": 0.75,
        "rewards/accuracy/std": 0.1,
        "completions/mean_length": 17.0,
        "completions/min_length": 16.0,
        "clip_ratio/low_mean": 0.0,
    }
    assert step_row(3, logs) == {
        "step": 3.0,
        "loss": 0.5,
        "reward_std_batch": 0.25,
        "epochs_added": 0.125,
        "reward_accuracy": 0.75,
        "completion_length": 17.0,
    }


def test_a_figure_without_a_number_is_left_out_not_zero() -> None:
    assert step_row(1, {"loss": 0.5, "kl": None, "drift": None}) == {"step": 1.0, "loss": 0.5}
