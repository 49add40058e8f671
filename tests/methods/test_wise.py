"""WiSE averaging: by hand, and two tasks."""

from pathlib import Path

import pytest
import torch

from methods.parts.wise import Wise, WiseConfig
from task_streams.types import TaskStream
from tests.methods.few_weights import context_of, policy_of, set_weights
from tests.methods.two_tasks import assert_same_weights, fresh_policy, made, two_tasks


@pytest.mark.parametrize(
    ("task", "share", "expected"),
    # 0.75 [1, 2] + 0.25 [3, 0]; the first task is kept as it is
    [(2, 0.25, [1.5, 1.5]), (2, 1.0, [3.0, 0.0]), (2, 0.0, [1.0, 2.0]), (1, 0.25, [3.0, 0.0])],
)
def test_weights_end_between_those_before_and_after_the_task(task: int, share: float, expected: list[float]) -> None:
    policy, method = policy_of(a=[1.0, 2.0]), Wise(WiseConfig(share))
    method.before_task(context_of(policy, task))
    set_weights(policy, a=[3.0, 0.0])
    method.after_task(context_of(policy, task))
    assert policy.model.a.tolist() == expected
    assert policy.model.a.requires_grad


def test_half_precision_is_averaged_in_float32() -> None:
    policy, method = policy_of(a=[1.0]), Wise(WiseConfig(0.5))
    policy.model.to(torch.bfloat16)
    method.before_task(context_of(policy, 2))
    set_weights(policy, a=[1.0078125])  # the next number that bfloat16 has after 1
    method.after_task(context_of(policy, 2))
    assert policy.model.a.dtype == torch.bfloat16
    assert policy.model.a.item() in (1.0, 1.0078125)


def test_stopped_between_two_tasks_is_never_stopped(stream: TaskStream, tmp_path: Path) -> None:
    whole = two_tasks(made("sft", "wise"), stream, tmp_path / "whole")
    assert_same_weights(whole, two_tasks(made("sft", "wise"), stream, tmp_path / "parts", stop=True))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_two_tasks_end_half_way_between_the_first_and_plain_training(
    adapter: str, stream: TaskStream, tmp_path: Path
) -> None:
    plain = two_tasks(made("sft"), stream, tmp_path / "plain", adapter=adapter)
    averaged = two_tasks(made("sft", "wise", share=0.5), stream, tmp_path / "averaged", adapter=adapter)
    back = two_tasks(made("sft", "wise", share=0.0), stream, tmp_path / "back", adapter=adapter)
    base = dict(fresh_policy(adapter).model.named_parameters())
    first, full = back.weights(), plain.weights()  # nothing of task 2; all of it
    for name, weight in averaged.weights().items():
        assert torch.allclose(weight, (first[name] + full[name]) / 2, atol=1e-7), name
    assert any(not torch.equal(weight, base[name]) for name, weight in first.items())  # task 1 was kept
