"""The anchor by each rule, on policies whose weights are known numbers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clrft.base_model import default_model_path
from clrft.runner.checkpoint import read_anchor, write_anchor
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.base import AnchorRule, Method
from methods.model.anchor import Anchors, anchor_problems
from methods.model.config import ModelConfig
from methods.model.policy import Policy, load_policy
from methods.model.snapshots import Snapshot
from methods.parts.lwf import Lwf, LwfConfig
from methods.training.targets import completion_logits
from task_streams.errors import UserError
from task_streams.types import TaskStream
from tests.methods.two_tasks import inputs_of

LEFT = (1.0, 5.0, 9.0)  # what each task leaves in every trained weight


def leave(policy: Policy, value: float) -> None:
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight.fill_(value)


def held(snapshot: Snapshot) -> float:
    """The one number in all of a snapshot's weights."""
    values = torch.cat([weight.flatten() for weight in snapshot.weights().values()]).unique()
    assert len(values) == 1
    return values.item()


def three_tasks(policy: Policy, rule: AnchorRule) -> Iterator[float]:
    """The anchors of the second, third and fourth task."""
    anchors = Anchors(rule, policy)
    for value in LEFT:
        leave(policy, value)
        anchors.end()
        yield held(anchors.begin())


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (AnchorRule("previous"), [1.0, 5.0, 9.0]),
        (AnchorRule("first"), [1.0, 1.0, 1.0]),
        # 0.25 * 1 + 0.75 * 5 = 4, then 0.25 * 4 + 0.75 * 9 = 7.75
        (AnchorRule("average", 0.25), [1.0, 4.0, 7.75]),
        (AnchorRule("average", 0.0), [1.0, 5.0, 9.0]),  # nothing of the past: the previous one
    ],
    ids=str,
)
def test_the_anchor_is_the_policy_that_the_rule_names(policy: Policy, rule: AnchorRule, expected: list[float]) -> None:
    assert list(three_tasks(policy, rule)) == expected


def test_the_anchor_of_adapters_is_the_adapter_that_the_rule_names(lora_policy: Policy) -> None:
    assert list(three_tasks(lora_policy, AnchorRule("first"))) == [1.0, 1.0, 1.0]
    assert all(".default." in name for name, weight in lora_policy.model.named_parameters() if weight.requires_grad)


@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_the_base_stays_what_the_model_was_before_any_training(
    kind: str, stream: TaskStream, request: pytest.FixtureRequest
) -> None:
    moving: Policy = request.getfixturevalue(kind)
    base = load_policy(ModelConfig(dtype="float32", device="cpu"), str(default_model_path()))
    anchors = Anchors(AnchorRule("base"), moving)
    leave(moving, 0.01)
    anchors.end()
    inputs = inputs_of(base, stream)
    expected, _ = completion_logits(base.model, inputs)
    with anchors.begin().active() as frozen:
        found, _ = completion_logits(frozen, inputs)
    moved, _ = completion_logits(moving.model, inputs)
    assert torch.equal(found, expected)
    assert not torch.allclose(moved, expected)
    assert anchors.unlike_policy() == {}  # a restart loads the base anyway


def test_a_missing_or_strange_anchor_is_refused(policy: Policy, lora_policy: Policy, tmp_path: Path) -> None:
    anchors = Anchors(AnchorRule("first"), policy)
    with pytest.raises(UserError, match=r"anchor.safetensors does not hold the anchor that task 3 needs \(.*No such"):
        read_anchor(tmp_path, anchors, 2)
    adapters = Anchors(AnchorRule("first"), lora_policy)
    adapters.begin()
    write_anchor(tmp_path, adapters)
    with pytest.raises(UserError, match=r"task 3 needs .*tensors are missing or of another policy"):
        read_anchor(tmp_path, anchors, 2)


def test_an_average_of_adapters_is_refused(policy: Policy, lora_policy: Policy) -> None:
    average = Rapo(RapoConfig(anchor="average"))
    (problem,) = anchor_problems(average, lora_policy)
    assert "cannot be made of LoRA adapters" in problem and "previous, first or base" in problem
    others: list[tuple[Method, Policy]] = [
        (average, policy),
        (Rapo(RapoConfig(anchor="average", retention=False)), lora_policy),  # needs no anchor
        (Lwf(LwfConfig()), lora_policy),
    ]
    assert [anchor_problems(method, trained) for method, trained in others] == [[], [], []]
