"""Learning without forgetting: the distance by hand, its gradient, and two tasks."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from methods.base import LossContext
from methods.model.policy import Policy
from methods.parts.lwf import Lwf, LwfConfig, softened_distance
from methods.training.targets import IGNORED, target_inputs
from task_streams.prompt import request, target_text
from task_streams.types import TaskStream
from tests.methods.two_tasks import TRAIN, assert_other_weights, made, never_stopped, two_tasks, without_part


def test_the_distance_is_the_softened_divergence_times_the_temperature_squared_and_so_is_its_gradient() -> None:
    taught, logits = torch.tensor([[0.0, 2 * math.log(3)]]), torch.zeros(1, 2, requires_grad=True)
    # T = 2: teacher softmax([0, ln 3]) = [1/4, 3/4], student [1/2, 1/2]
    # KL = 1/4 ln(1/2) + 3/4 ln(3/2) = 0.130812; times 4
    distance = softened_distance(logits, taught, 2.0)
    assert distance.tolist() == pytest.approx([0.523248], abs=1e-6)
    distance.sum().backward()
    # d/dz T^2 KL = T (softmax(z / T) - softmax(z_teacher / T)) = 2 ([1/2, 1/2] - [1/4, 3/4])
    assert logits.grad is not None
    assert logits.grad.tolist() == [pytest.approx([0.5, -0.5])]


def inputs_of(policy: Policy, stream: TaskStream) -> dict[str, Tensor]:
    """Two examples of task 2 with their targets, and what TRL adds to its batches."""
    task = stream.tasks[1]
    examples = task.train[:2]
    asked, texts = [request(e, task.trained) for e in examples], [target_text(e.target) for e in examples]
    return {**target_inputs(policy, asked, texts), "use_cache": False}  # type: ignore[dict-item]


def penalty(policy: Policy, anchor: object, inputs: dict[str, Tensor], task: int = 2) -> dict[str, Tensor]:
    context = LossContext(policy.model, inputs, task, anchor, lambda name, value: None)  # type: ignore[arg-type]
    return Lwf(LwfConfig(strength=3.0)).loss_terms(context)


@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_it_compares_the_policy_with_its_anchor_on_the_completions_only(
    kind: str, stream: TaskStream, request: pytest.FixtureRequest
) -> None:
    policy: Policy = request.getfixturevalue(kind)
    inputs, anchor = inputs_of(policy, stream), policy.snapshot()
    taught = policy.model(**{k: v for k, v in inputs.items() if k != "labels"}).logits.detach()
    assert penalty(policy, anchor, inputs)["lwf_penalty"].item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if weight.requires_grad:
                weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    logits = policy.model(**{k: v for k, v in inputs.items() if k != "labels"}).logits
    # by rows, in probabilities, with torch's own divergence
    rows = []
    for own, goal, labels in zip(logits, taught, inputs["labels"], strict=True):
        learned = (labels != IGNORED).nonzero().squeeze(1)
        p, q = (goal[learned - 1] / 2).softmax(-1), (own[learned - 1] / 2).softmax(-1)
        rows.append(4 * torch.nn.functional.kl_div(q.log(), p, reduction="batchmean"))
    expected = 3 * sum(rows) / 2
    found = penalty(policy, anchor, inputs)["lwf_penalty"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)  # type: ignore[union-attr]
    weights = [weight for weight in policy.model.parameters() if weight.requires_grad]
    ours = torch.autograd.grad(found, weights, allow_unused=True)
    theirs = torch.autograd.grad(expected, weights, allow_unused=True)  # type: ignore[arg-type]
    assert max(g.abs().max().item() for g in ours if g is not None) > 1e-3
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert torch.allclose(mine, other, rtol=1e-2, atol=1e-5)


def test_the_first_task_has_no_penalty_and_a_missing_anchor_is_an_error(policy: Policy, stream: TaskStream) -> None:
    inputs = inputs_of(policy, stream)
    assert penalty(policy, None, inputs, task=1) == {}
    with pytest.raises(RuntimeError, match="no anchor"):
        penalty(policy, None, inputs)


def test_stopped_between_two_tasks_is_never_stopped(stream: TaskStream, tmp_path: Path) -> None:
    make = made("sft", "lwf", strength=10.0)
    whole = never_stopped(make, stream, tmp_path)
    assert_other_weights(whole, without_part("sft", stream, tmp_path))
    assert whole.logged(1, "lwf_penalty") == [None, None]
    first, second = whole.logged(2, "lwf_penalty")
    assert first == pytest.approx(0.0, abs=1e-6) and second is not None and second > 1e-4
    split = two_tasks(make, stream, tmp_path / "split", train=replace(TRAIN, accumulation=2))
    assert split.logged(2, "lwf_penalty")[1] == pytest.approx(second, rel=1e-2)


def test_it_works_with_an_adapter(stream: TaskStream, tmp_path: Path) -> None:
    run = two_tasks(made("sft", "lwf"), stream, tmp_path / "run", adapter="lora")
    second = run.logged(2, "lwf_penalty")[1]
    assert second is not None and second > 0
    assert all(".default." in name for name in run.weights())  # the anchor is not trained
