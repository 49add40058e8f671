"""DER++: distances by hand, logits as they were when they were stored, and two tasks."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.base import LossContext, TaskContext
from methods.model.policy import Policy
from methods.parts.derpp import Derpp, DerppConfig, Stored, endless, logit_distance
from methods.training.replay_memory import remembered
from task_streams.prompt import request, target_text
from task_streams.types import TaskStream
from tests.methods.test_targets import plain_logps
from tests.methods.two_tasks import TRAIN, assert_other_weights, made, never_stopped, two_tasks, without_part

ITEMS = 3


def test_the_distance_is_the_mean_square_over_the_stored_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 7.0, 0.0]])
    first = Stored((), torch.tensor([[5.0, 1.0]]), torch.tensor([[3, 0]]))
    second = Stored((), torch.tensor([[7.0, 3.0]]), torch.tensor([[2, 1]]))
    # ((4 - 5)^2 + (1 - 1)^2) / 2 and ((7 - 7)^2 + (0 - 3)^2) / 2
    assert logit_distance(logits, [first, second]).tolist() == [0.5, 4.5]


def context_of(policy: Policy, stream: TaskStream, task: int) -> TaskContext:
    memory = remembered(stream.tasks[: task - 1], ITEMS, 5) if task > 1 else ()
    return TaskContext(stream.tasks[task - 1], policy, None, seed=task, memory=memory)


def second_task(policy: Policy, stream: TaskStream, **settings: Any) -> Derpp:
    """At the start of task 2."""
    method = Derpp(DerppConfig(items=ITEMS, **settings))
    method.before_task(context_of(policy, stream, 1))
    method.after_task(context_of(policy, stream, 1))
    method.before_task(context_of(policy, stream, 2))
    return method


def terms_of(method: Derpp, policy: Policy, rows: int = ITEMS) -> dict[str, Tensor]:
    labels = {"labels": torch.zeros(rows, 1)}
    return method.loss_terms(LossContext(policy.model, labels, 2, None, lambda name, value: None))


def shaken(policy: Policy) -> None:
    """Other weights."""
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))


def test_an_unmoved_policy_is_at_no_distance_and_a_moved_one_is(policy: Policy, stream: TaskStream) -> None:
    method = second_task(policy, stream)
    assert terms_of(method, policy)["derpp_logits"].item() == pytest.approx(0.0, abs=1e-7)
    shaken(policy)
    found = terms_of(method, policy)["derpp_logits"]
    assert found.item() > 1e-3
    found.backward()
    assert any(w.grad is not None and w.grad.abs().max() > 0 for w in policy.model.parameters())


def test_the_labels_cost_their_cross_entropy_with_todays_list_of_classes(policy: Policy, stream: TaskStream) -> None:
    method = second_task(policy, stream, label_weight=2.0)
    # one pass over a memory of three draws each of them once
    task = stream.tasks[1]
    memory = remembered(stream.tasks[:1], ITEMS, 5)
    rows = [plain_logps(policy, request(e, task.seen), target_text(e.target)).mean().item() for e in memory]
    assert terms_of(method, policy)["derpp_labels"].item() == pytest.approx(-2 * sum(rows) / ITEMS, rel=1e-4)


def test_logits_stay_as_they_were_when_their_example_was_remembered(policy: Policy, stream: TaskStream) -> None:
    method = second_task(policy, stream)
    old = dict(method.stored)
    assert {one.listed for one in old.values()} == {stream.tasks[0].trained}
    method.after_task(context_of(policy, stream, 2))
    shaken(policy)
    method.before_task(context_of(policy, stream, 3))
    first = {example.key for example in stream.tasks[0].train}
    second = {example.key for example in stream.tasks[1].train}
    assert len(method.stored.keys() & first) == 2 and len(method.stored.keys() & second) == 1
    for key in method.stored.keys() & first:
        assert method.stored[key] is old[key]
    fresh = next(one for key, one in method.stored.items() if key in second)
    assert fresh.listed == stream.tasks[1].trained
    assert fresh.values.shape == fresh.tokens.shape and fresh.values.shape[1] == 64


def test_a_new_object_has_the_same_logits(policy: Policy, stream: TaskStream) -> None:
    method = second_task(policy, stream)
    method.after_task(context_of(policy, stream, 2))
    state = method.state_dict()
    assert state["values"].shape == state["tokens"].shape
    other = Derpp(DerppConfig(items=ITEMS))
    other.load_state_dict(state)
    assert other.listed == stream.tasks[1].trained and other.stored.keys() == method.stored.keys()
    for key, one in method.stored.items():
        again = other.stored[key]
        assert again.listed == one.listed
        assert torch.equal(again.values, one.values) and torch.equal(again.tokens, one.tokens)


def test_only_remembered_examples_are_asked_about(stream: TaskStream) -> None:
    memory = remembered(stream.tasks[:1], ITEMS, 5)
    drawn = [example.key for example in islice(endless(memory, 1, "logits"), 3 * ITEMS)]
    assert sorted(drawn) == sorted([example.key for example in memory] * 3)
    assert drawn != [example.key for example in islice(endless(memory, 2, "logits"), 3 * ITEMS)]
    assert list(endless((), 1, "logits")) == []


def test_the_first_task_has_no_terms_and_a_weight_of_zero_no_pass(policy: Policy, stream: TaskStream) -> None:
    method = Derpp(DerppConfig(items=ITEMS))
    method.before_task(context_of(policy, stream, 1))
    assert terms_of(method, policy) == {}
    off = second_task(policy, stream, logit_weight=0.0)
    assert terms_of(off, policy).keys() == {"derpp_labels"}


def test_stopped_between_two_tasks_is_never_stopped_and_accumulation_changes_nothing(
    stream: TaskStream, tmp_path: Path
) -> None:
    make = made("sft", "derpp", items=4)
    whole = never_stopped(make, stream, tmp_path)
    assert_other_weights(whole, without_part("sft", stream, tmp_path))
    assert whole.logged(1, "derpp_logits") == [None, None]
    split = two_tasks(make, stream, tmp_path / "split", train=replace(TRAIN, accumulation=2))
    for name in ("derpp_logits", "derpp_labels"):
        assert split.logged(2, name)[1] == pytest.approx(whole.logged(2, name)[1], rel=2e-2, abs=1e-6)


def test_it_works_with_an_adapter(stream: TaskStream, tmp_path: Path) -> None:
    run = two_tasks(made("sft", "derpp", items=4), stream, tmp_path / "run", adapter="lora")
    second = run.logged(2, "derpp_logits")[1]
    assert second is not None and second > 0
