"""Online EWC: values by hand, the running Fisher, and what survives a restart."""

from pathlib import Path

import pytest
import torch

from methods.parts.ewc import Ewc, EwcConfig
from task_streams.types import TaskStream
from tests.methods.few_weights import context_of, policy_of, set_weights, terms_of
from tests.methods.two_tasks import assert_other_weights, assert_same_weights, made, two_tasks


def learned(strength: float = 2.0, decay: float = 0.5) -> Ewc:
    """After two tasks, with the Fisher information [4, 2] and [1, 0]."""
    method, policy = Ewc(EwcConfig(strength=strength, decay=decay)), policy_of(a=[0.0, 0.0])
    for task, fisher in ((1, [4.0, 2.0]), (2, [1.0, 0.0])):
        method.before_task(context_of(policy, task))
        method.after_task(context_of(policy, task, {"a": torch.tensor(fisher)}))
    return method


def test_the_fisher_information_runs_with_its_decay() -> None:
    # 0.5 * [4, 2] + [1, 0]
    assert learned().fisher["a"].tolist() == [3.0, 1.0]


def test_the_penalty_weighs_squared_distances_by_the_fisher_information() -> None:
    method, policy = learned(), policy_of(a=[1.0, 2.0])
    method.before_task(context_of(policy, 3))
    set_weights(policy, a=[1.5, 0.0])
    # 2 / 2 * (3 * 0.5^2 + 1 * 2^2)
    assert terms_of(method, policy, 3)["ewc_penalty"].item() == pytest.approx(4.75)


def test_the_first_task_has_no_penalty() -> None:
    method, policy = Ewc(EwcConfig()), policy_of(a=[1.0])
    method.before_task(context_of(policy, 1))
    assert terms_of(method, policy, 1) == {}


def test_missing_fisher_information_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no Fisher"):
        Ewc(EwcConfig()).after_task(context_of(policy_of(a=[1.0]), 1))


def test_a_new_object_has_the_same_penalty() -> None:
    fresh, policy = Ewc(EwcConfig(strength=2.0, decay=0.5)), policy_of(a=[1.0, 2.0])
    fresh.load_state_dict(learned().state_dict())
    fresh.before_task(context_of(policy, 3))
    set_weights(policy, a=[1.5, 0.0])
    assert terms_of(fresh, policy, 3)["ewc_penalty"].item() == pytest.approx(4.75)


@pytest.mark.parametrize(("learner", "adapter"), [("sft", "none"), ("grpo", "lora")])
def test_stopped_between_two_tasks_is_never_stopped(
    learner: str, adapter: str, stream: TaskStream, tmp_path: Path
) -> None:
    make = made(learner, "ewc", fisher_items=2)
    whole = two_tasks(make, stream, tmp_path / "whole", adapter=adapter)
    assert_same_weights(whole, two_tasks(make, stream, tmp_path / "parts", stop=True, adapter=adapter))
    assert_other_weights(whole, two_tasks(made(learner), stream, tmp_path / "without", adapter=adapter))
    assert whole.logged(1, "ewc_penalty") == [None, None]
    first, second = whole.logged(2, "ewc_penalty")
    assert first == 0 and second is not None and second > 0  # the weights have not moved before the first update
