"""Prefixes that frozen models keep are those computed anew, within a limit, and the same whatever was asked before."""

import pytest
import torch

from methods.generation.group_passes import FrozenPrefixes, encoded
from methods.generation.shared_prefix import Prefix, prefill
from methods.inputs.prompts import Prompts
from methods.model.policy import Policy
from task_streams.prompt import request
from task_streams.types import TaskStream


class Asked:
    """The prompts of a task, in parts of three."""

    def __init__(self, policy: Policy, stream: TaskStream) -> None:
        self.policy = policy
        # one prompt in two lists fewer classes, so that lengths differ
        lists = (stream.labels, stream.labels[:3])
        examples = stream.tasks[1].train[:8]
        self.requests = [request(example, lists[place % 2]) for place, example in enumerate(examples)]

    def prompts(self, places: list[int]) -> tuple[tuple[str, ...], Prompts]:
        rows = [
            {"prompt": one.messages, "images": list(one.images), "key": one.key}
            for one in (self.requests[place] for place in places)
        ]
        prompts = encoded(rows, self.policy.processor, self.policy.model.config, self.policy.device)
        return tuple(str(row["key"]) for row in rows), prompts

    def memory(self, limit: int) -> FrozenPrefixes:
        return FrozenPrefixes(lambda: map(self.prompts, ([0, 1, 2], [3, 4, 5], [6, 7])), limit)


@pytest.fixture
def asked(policy: Policy, stream: TaskStream) -> Asked:
    return Asked(policy, stream)


def assert_equal(one: Prefix, other: Prefix, tolerance: float = 2e-5) -> None:
    assert torch.equal(one.mask, other.mask) and torch.equal(one.next_position, other.next_position)
    assert torch.allclose(one.last, other.last, atol=tolerance)
    real = one.mask.bool()
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.allclose(a.transpose(1, 2)[real], b.transpose(1, 2)[real], atol=tolerance)


@pytest.mark.parametrize("part", [1.0, 0.5, 0.0])  # of the task's prompts are kept: all, some, none
def test_kept_ones_are_those_computed_anew(part: float, asked: Asked, policy: Policy) -> None:
    with torch.no_grad():
        whole = prefill(policy.model, asked.prompts(list(range(8)))[1])
        memory = asked.memory(int(whole.bytes * part))
        for places in ([5, 0, 7], [1], [2, 6, 3, 4]):
            keys, prompts = asked.prompts(places)
            assert_equal(memory.of("anchor", policy.model, keys, prompts), prefill(policy.model, prompts))
    assert 0 <= memory.room <= whole.bytes * part
    assert len(memory.kept["anchor"]) == {1.0: 8, 0.5: 3, 0.0: 0}[part]


def test_bits_do_not_depend_on_what_was_asked_before(asked: Asked, policy: Policy) -> None:
    keys, prompts = asked.prompts([4, 1])
    first, second = asked.memory(2**30), asked.memory(2**30)
    second.of("anchor", policy.model, *asked.prompts([7, 2, 3]))
    one, other = (memory.of("anchor", policy.model, keys, prompts) for memory in (first, second))
    assert torch.equal(one.last, other.last)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one.layers, other.layers, strict=True))


def test_models_have_prefixes_of_their_own(asked: Asked, policy: Policy) -> None:
    moved = policy.snapshot()
    with torch.no_grad():
        for weight in moved.weights().values():
            weight.mul_(1.01)
    keys, prompts = asked.prompts([0, 1])
    memory = asked.memory(2**30)
    base, anchor = (
        memory.of(name, model, keys, prompts) for name, model in (("base", policy.model), ("a", moved.model))
    )
    assert not torch.allclose(base.last, anchor.last, atol=1e-3)
    assert_equal(memory.of("base", policy.model, keys, prompts), base, 0.0)


def test_nothing_is_computed_ahead_where_it_does_not_pay(asked: Asked, policy: Policy) -> None:
    keys, prompts = asked.prompts([0, 1])
    memory = FrozenPrefixes(tuple, 2**30)
    policy.meter.taken()
    memory.of("anchor", policy.model, keys, prompts)
    assert policy.meter.taken()["images"] == 2
