"""L2 and L2-init: values by hand, and what survives a restart."""

from pathlib import Path

import pytest
import torch

from methods.model.weights import weighted_distance
from methods.parts.l2 import L2, L2Config, L2Init
from task_streams.types import TaskStream
from tests.methods.few_weights import context_of, policy_of, set_weights, terms_of
from tests.methods.two_tasks import assert_other_weights, assert_same_weights, made, two_tasks


def test_the_penalty_is_half_the_strength_times_the_squared_distance() -> None:
    policy, method = policy_of(a=[1.0, 2.0], b=[0.0]), L2(L2Config(strength=3.0))
    method.before_task(context_of(policy, 2))
    set_weights(policy, a=[1.5, 1.0], b=[2.0])
    # 3 / 2 * (0.5^2 + 1^2 + 2^2) = 1.5 * 5.25
    assert terms_of(method, policy, 2)["l2_penalty"].item() == pytest.approx(7.875)


def test_the_penaltys_gradient_is_the_strength_times_the_distance() -> None:
    policy, method = policy_of(a=[1.0, 2.0]), L2(L2Config(strength=3.0))
    method.before_task(context_of(policy, 2))
    set_weights(policy, a=[1.5, 1.0])
    terms_of(method, policy, 2)["l2_penalty"].backward()
    assert policy.model.a.grad.tolist() == pytest.approx([1.5, -3.0])


def test_weights_that_are_not_trained_do_not_count() -> None:
    policy = policy_of(a=[1.0], b=[1.0])
    policy.model.b.requires_grad_(False)
    assert weighted_distance(policy.model, {"a": torch.zeros(1)}, None).item() == 1.0


def test_the_first_task_of_l2_has_no_penalty_and_that_of_l2_init_has_one() -> None:
    for kind, expected in ((L2, {}), (L2Init, {"l2_init_penalty": 2.0})):
        policy, method = policy_of(a=[1.0]), kind(L2Config())
        method.before_task(context_of(policy, 1))
        set_weights(policy, a=[3.0])
        # 1 / 2 * 2^2
        assert {name: term.item() for name, term in terms_of(method, policy, 1).items()} == expected


def test_l2_holds_to_the_previous_task_and_l2_init_to_the_base_also_in_a_new_object() -> None:
    held: dict[str, list[list[list[float]]]] = {}
    for kind in (L2, L2Init):
        policy, method = policy_of(a=[1.0]), kind(L2Config())
        method.before_task(context_of(policy, 1))
        set_weights(policy, a=[3.0])
        method.after_task(context_of(policy, 1))
        fresh = kind(L2Config())
        fresh.load_state_dict(method.state_dict())
        for one in (method, fresh):
            one.before_task(context_of(policy, 2))
            held.setdefault(kind.name, []).append([value.tolist() for value in (one.centre or {}).values()])
    assert held == {"l2": [[[3.0]], [[3.0]]], "l2_init": [[[1.0]], [[1.0]]]}


@pytest.mark.parametrize("name", ["l2", "l2_init"])
def test_stopped_between_two_tasks_is_never_stopped(name: str, stream: TaskStream, tmp_path: Path) -> None:
    whole = two_tasks(made("sft", name, strength=50.0), stream, tmp_path / "whole")
    assert_same_weights(whole, two_tasks(made("sft", name, strength=50.0), stream, tmp_path / "parts", stop=True))
    assert_other_weights(whole, two_tasks(made("sft"), stream, tmp_path / "without"))


def test_l2_init_holds_an_adapter_to_its_first_weights(stream: TaskStream, tmp_path: Path) -> None:
    run = two_tasks(made("grpo", "l2_init"), stream, tmp_path / "run", adapter="lora")
    held = run.method.state_dict()
    assert held and all(name.startswith("l2_init.") and ".default." in name for name in held)
    assert all(value.abs().max() == 0 for name, value in held.items() if "lora_B" in name)
