"""A watched method: what goes wrong in a hook is named; what hooks see and do, and the figures of an update."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.algorithms.sft import Sft, SftConfig
from methods.base import LossContext, Method, Need, ReplayPlan, TaskContext
from methods.compose import Composite
from methods.guard import HOOKS, PROPERTIES, GuardedMethod, made_method
from methods.model.policy import Policy
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, fit, step_row
from task_streams.errors import UserError
from task_streams.types import Task, TaskStream
from tests.methods.hand_made import rollouts

TASK = Task(2, "two", ("a",), ("a",), (), ())


class Plain(Method):
    """Nothing of its own."""

    name = "plain"
    family = "part"
    Config = SftConfig


def with_hook(hook: str, call: Callable[..., Any]) -> Method:
    return GuardedMethod(type("Own", (Plain,), {hook: call})(None))


STEP, _ = rollouts({"accuracy": [1.0] * 4}, group_size=2, drifts=[0.0] * 4)


@pytest.mark.parametrize(
    ("hook", "result", "reason"),
    [
        ("shape_rewards", torch.ones(2, 2), r"returned shape \(2, 2\), expected \(4,\)"),
        ("shape_rewards", None, r"returned NoneType, expected a tensor of shape \(4,\)"),
        ("shape_rewards", torch.tensor([0.0, 1.0, torch.nan, 0.0]), "returned 1 of 4 values that are not finite"),
        ("normalize_advantages", torch.tensor([0.0, 1.0, torch.inf, torch.nan]), "returned 2 of 4 values that are not"),
        ("loss_terms", None, "returned NoneType, expected scalars by name"),
        ("loss_terms", {"x": torch.ones(2)}, r"term 'x' is shape \(2,\), expected a scalar"),
        ("loss_terms", {"x": 1.0}, "term 'x' is float, expected a scalar"),
        ("loss_terms", {"x": torch.tensor(torch.nan)}, "term 'x' is nan, expected a finite number"),
        ("state_dict", {"x": {1, 2}}, "'x' cannot be kept"),
        ("state_dict", {"x": float("nan")}, "'x' cannot be kept"),
        ("state_dict", {1: 2}, "its key 1 is no string"),
        ("state_dict", [1], "returned list, expected a flat dict"),
        ("problems", None, "returned None, expected a list of sentences"),
        ("problems", "one sentence", "returned 'one sentence', expected a list of sentences"),
        ("problems", [3], r"returned \[3\], expected a list of sentences"),
    ],
)
def test_what_cannot_be_used_is_refused(hook: str, result: Any, reason: str) -> None:
    arguments = {"loss_terms": [None], "state_dict": [], "problems": [None, [TASK]]}.get(hook, [torch.ones(4), STEP])
    method = with_hook(hook, lambda self, *given: result)
    with pytest.raises(UserError, match=rf"method 'plain' \(.*test_guard.*\), {hook}: {reason}"):
        getattr(method, hook)(*arguments)


def test_no_hook_and_no_declaration_of_the_contract_passes_the_checks_by() -> None:
    assert {*HOOKS, *PROPERTIES} <= vars(GuardedMethod).keys()


def test_an_error_names_the_line_of_the_methods_file() -> None:
    def after_step(self: Method, task_index: int, step: int) -> None:
        raise KeyError("lost")

    line = after_step.__code__.co_firstlineno + 1
    with pytest.raises(UserError, match=rf"test_guard.py, line {line}\), after_step: KeyError: 'lost'"):
        with_hook("after_step", after_step).after_step(1, 1)


def test_a_method_that_cannot_be_made_is_named() -> None:
    class Failing(Plain):
        def __init__(self, config: Any) -> None:
            raise OSError("no file")

    with pytest.raises(UserError, match="__init__: OSError: no file"):
        made_method(Failing, None)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"needs": frozenset({"ancor"})}, "unknown need 'ancor'. Did you mean 'anchor'?"),
        ({"needs": ["anchor"]}, "expected a frozenset"),
        ({"needs": frozenset({"replay"})}, "a replay plan and 'replay' in needs belong together"),
        ({"replay": ReplayPlan(4, 0.5)}, "a replay plan and 'replay' in needs belong together"),
        ({"replay": 4, "needs": frozenset({"replay"})}, "expected a ReplayPlan"),
    ],
)
def test_what_no_runner_can_provide_is_refused(declared: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        made_method(type("Own", (Plain,), declared), None)
    assert reason in str(caught.value)


@pytest.mark.parametrize("declared", [frozenset(), frozenset({"anchor"}), frozenset({"fisher"})])
def test_a_hook_sees_only_what_its_method_declares(declared: frozenset[Need]) -> None:
    seen: list[Any] = []
    hooks = {
        "needs": declared,
        "after_task": lambda self, context: seen.append(context),
        "shape_rewards": lambda self, rewards, rollouts: seen.append(rollouts) or rewards,
    }
    method = made_method(type("Own", (Plain,), hooks), None)
    given = TaskContext(TASK, None, "the anchor", 1, memory=("an example",), fisher={})  # type: ignore[arg-type]
    method.after_task(given)
    method.shape_rewards(torch.ones(4), STEP)
    context, shown = seen
    assert (context.anchor is not None) == (shown.actor_logps is not None) == ("anchor" in declared)
    assert (context.fisher is not None) == ("fisher" in declared)
    assert context.memory == ()
    assert replace(context, anchor=None, fisher=None) == replace(given, anchor=None, fisher=None, memory=())


TRAIN = TrainConfig(updates=2, prompts_per_update=4, warmup=0, weight_decay=0.0, accumulation=2)


def learned(part: type[Method], policy: Policy, stream: TaskStream, folder: Path) -> Any:
    """Learn the first task by fine-tuning with a part; returns the part."""
    own = GuardedMethod(part(None))
    method = Composite(GuardedMethod(Sft(SftConfig())), [own])
    fit(method, TaskContext(stream.tasks[0], policy, None, seed=1), None, FitSettings(TRAIN, folder))
    return own.inner


def test_a_gradient_that_is_masked_moves_nothing(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    class Masks(Plain):
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


def test_a_gradient_that_is_no_number_is_named(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    class Root(Plain):
        def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
            weight = next(context.model.parameters())
            return {"root": (weight - weight.detach()).square().sum().sqrt()}  # 0, and without a derivative there

    with pytest.raises(UserError, match=r"'plain' \(.*test_guard.py\): the gradient of update 1 is not finite"):
        learned(Root, policy, stream, tmp_path)
    assert all(bool(torch.isfinite(weight).all()) for weight in policy.model.parameters())


def test_a_hook_that_spoils_gradients_is_named(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    class Spoils(Plain):
        def before_step(self, model: nn.Module, task_index: int, step: int) -> None:
            for weight in model.parameters():
                if weight.grad is not None:
                    weight.grad.div_(0.0)

    with pytest.raises(UserError, match=r"method 'plain' \(.*\), before_step: left gradients that are not finite"):
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
    # a figure without a number is left out, not zero
    assert step_row(1, {"loss": 0.5, "kl": None, "drift": None}) == {"step": 1.0, "loss": 0.5}
