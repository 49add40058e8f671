"""A watched method: what goes wrong in a hook names method, file, hook and reason; hooks see what is declared."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from methods.algorithms.sft import SftConfig
from methods.base import Method, Need, ReplayPlan, Rollouts, TaskContext
from methods.guard import GuardedMethod, made_method
from task_streams.errors import UserError
from task_streams.types import Task

TASK = Task(2, "two", ("a",), ("a",), (), ())


class Plain(Method):
    """Nothing of its own."""

    name = "plain"
    family = "part"
    Config = SftConfig


def with_hook(hook: str, call: Callable[..., Any]) -> Method:
    return GuardedMethod(type("Own", (Plain,), {hook: call})(None))


def rollouts() -> Rollouts:
    return Rollouts(
        task_index=2,
        group_size=2,
        components={"accuracy": torch.ones(4)},
        mask=torch.ones(4, 1),
        actor_logps=torch.zeros(4, 1),
        anchor_logps=torch.zeros(4, 1),
        keys=("x",) * 4,
        log=lambda name, value: None,
    )


@pytest.mark.parametrize(
    ("hook", "result", "reason"),
    [
        ("shape_rewards", torch.ones(2, 2), r"returned shape \(2, 2\), expected \(4,\)"),
        ("shape_rewards", None, r"returned NoneType, expected a tensor of shape \(4,\)"),
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
    arguments = {"loss_terms": [None], "state_dict": [], "problems": [None, [TASK]]}.get(
        hook, [torch.ones(4), rollouts()]
    )
    method = with_hook(hook, lambda self, *given: result)
    with pytest.raises(UserError, match=rf"method 'plain' \(.*test_guard.*\), {hook}: {reason}"):
        getattr(method, hook)(*arguments)


def test_an_error_names_the_line_of_the_methods_file() -> None:
    def after_step(self: Method, task_index: int, step: int) -> None:
        raise KeyError("lost")

    line = after_step.__code__.co_firstlineno + 1
    with pytest.raises(UserError, match=rf"test_guard.py, line {line}\), after_step: KeyError: 'lost'"):
        with_hook("after_step", after_step).after_step(1, 1)


class Failing(Plain):
    def __init__(self, config: Any) -> None:
        raise OSError("no file")


def test_a_method_that_cannot_be_made_is_named() -> None:
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
    method.shape_rewards(torch.ones(4), rollouts())
    context, shown = seen
    assert (context.anchor is not None) == (shown.actor_logps is not None) == ("anchor" in declared)
    assert (context.fisher is not None) == ("fisher" in declared)
    assert context.memory == ()
    assert replace(context, anchor=None, fisher=None) == replace(given, anchor=None, fisher=None, memory=())
