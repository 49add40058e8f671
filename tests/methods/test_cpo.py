"""CPO's penalty: which weights are held and how much it costs to move them, by hand."""

from pathlib import Path

import pytest
import torch

from methods.model.policy import Policy
from methods.parts.cpo import Cpo, CpoConfig, most_moved
from task_streams.types import TaskStream
from tests.methods.few_weights import context_of, policy_of, set_weights, terms_of
from tests.methods.two_tasks import assert_other_weights, assert_same_weights, made, two_tasks


def moved(**changes: float) -> list[float]:
    """Ten weights, 0 but for those named ``at3=0.5``."""
    values = [0.0] * 10
    for place, value in changes.items():
        values[int(place.removeprefix("at"))] = value
    return values


def after_one_task() -> tuple[Cpo, Policy]:
    """Task 1 moved weight 3 of ``a`` most; ``b`` not at all."""
    method, policy = Cpo(CpoConfig(strength=10.0, share=0.1)), policy_of(a=moved(), b=[1.0, 1.0])
    method.before_task(context_of(policy, 1))
    assert terms_of(method, policy, 1) == {}
    set_weights(policy, a=moved(at3=-0.5, at7=0.4))
    method.after_task(context_of(policy, 1))
    return method, policy


def test_the_weights_that_moved_most_are_held_and_a_tensor_that_did_not_move_is_free() -> None:
    method, _ = after_one_task()
    assert {name: held.nonzero().flatten().tolist() for name, held in method.held.items()} == {"a": [3]}


def test_the_penalty_is_the_mean_distance_of_the_held_weights() -> None:
    method, policy = after_one_task()
    method.before_task(context_of(policy, 2))
    set_weights(policy, a=moved(at3=-0.3, at7=3.0), b=[5.0, 5.0])
    # weight 3 went from -0.5 to -0.3: 10 * 0.2
    assert terms_of(method, policy, 2)["cpo_penalty"].item() == pytest.approx(2.0)


def test_each_task_adds_to_what_is_held_and_tensors_are_summed() -> None:
    method, policy = after_one_task()
    method.before_task(context_of(policy, 2))
    set_weights(policy, a=moved(at3=-0.5, at7=3.0), b=[1.0, 2.0])
    method.after_task(context_of(policy, 2))
    assert method.held["a"].nonzero().flatten().tolist() == [3, 7]
    assert method.held["b"].tolist() == [False, True]
    method.before_task(context_of(policy, 3))
    set_weights(policy, a=moved(at3=-0.6, at7=3.3), b=[9.0, 2.5])
    # a: mean of 0.1 and 0.3 = 0.2; b: 0.5; 10 * (0.2 + 0.5)
    penalty = terms_of(method, policy, 3)["cpo_penalty"]
    assert penalty.item() == pytest.approx(7.0, rel=1e-5)
    penalty.backward()
    # 10 * sign / 2 on the two of a, 10 on the one of b
    assert policy.model.a.grad.tolist() == pytest.approx(moved(at3=-5.0, at7=5.0))
    assert policy.model.b.grad.tolist() == [0.0, 10.0]


def test_a_new_object_holds_the_same() -> None:
    method, policy = after_one_task()
    fresh = Cpo(CpoConfig(strength=10.0))
    fresh.load_state_dict(method.state_dict())
    fresh.before_task(context_of(policy, 2))
    set_weights(policy, a=moved(at3=-0.3))
    assert terms_of(fresh, policy, 2)["cpo_penalty"].item() == pytest.approx(2.0)


def test_of_equal_changes_the_first_are_held_and_of_no_change_none() -> None:
    assert most_moved(torch.tensor([1.0, 3.0, 3.0, 0.0]), 0.25).tolist() == [False, True, False, False]
    assert most_moved(torch.tensor([[1.0, 3.0], [1.0, 1.0]]), 0.5).tolist() == [[True, True], [False, False]]
    assert most_moved(torch.tensor([1.0, 0.0, 0.0, 0.0]), 0.75).tolist() == [True, False, False, False]


@pytest.mark.parametrize(("learner", "adapter"), [("grpo", "none"), ("sft", "lora")])
def test_stopped_between_two_tasks_is_never_stopped(
    learner: str, adapter: str, stream: TaskStream, tmp_path: Path
) -> None:
    make = made(learner, "cpo", strength=100.0)
    whole = two_tasks(make, stream, tmp_path / "whole", adapter=adapter)
    assert_same_weights(whole, two_tasks(make, stream, tmp_path / "parts", stop=True, adapter=adapter))
    assert_other_weights(whole, two_tasks(made(learner), stream, tmp_path / "without", adapter=adapter))
    held = {name: value for name, value in whole.method.state_dict().items() if value.numel() >= 100}
    # two tasks hold between 10 % (the same weights) and 20 % (others) of every large tensor
    assert all(0.09 < value.float().mean() <= 0.21 for value in held.values())
