"""Distances to logits of an earlier policy (LwF, DER++) or of a teacher that was told more (SDFT), by hand and real."""

import math
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.algorithms.sdft import Sdft, SdftConfig, reverse_divergence, with_text
from methods.base import LossContext, Rollouts, TaskContext
from methods.model.policy import Policy
from methods.parts.derpp import Derpp, DerppConfig, Stored, endless, logit_distance
from methods.parts.lwf import Lwf, LwfConfig, softened_distance
from methods.training.replay_memory import remembered
from methods.training.targets import IGNORED
from task_streams.prompt import request, target_text
from task_streams.types import TaskStream
from tests.methods.test_targets import plain_logps
from tests.methods.two_tasks import fresh_policy, inputs_of, shaken

ITEMS = 3  # that DER++ remembers


def test_lwfs_distance_is_the_softened_divergence_times_the_temperature_squared_and_so_is_its_gradient() -> None:
    taught, logits = torch.tensor([[0.0, 2 * math.log(3)]]), torch.zeros(1, 2, requires_grad=True)
    # T = 2: teacher softmax([0, ln 3]) = [1/4, 3/4], student [1/2, 1/2]
    # KL = 1/4 ln(1/2) + 3/4 ln(3/2) = 0.130812; times 4
    distance = softened_distance(logits, taught, 2.0)
    assert distance.tolist() == pytest.approx([0.523248], abs=1e-6)
    distance.sum().backward()
    # d/dz T^2 KL = T (softmax(z / T) - softmax(z_teacher / T)) = 2 ([1/2, 1/2] - [1/4, 3/4])
    assert logits.grad is not None
    assert logits.grad.tolist() == [pytest.approx([0.5, -0.5])]


def test_derpps_distance_is_the_mean_square_over_the_stored_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 7.0, 0.0]])
    first = Stored((), torch.tensor([[5.0, 1.0]]), torch.tensor([[3, 0]]))
    second = Stored((), torch.tensor([[7.0, 3.0]]), torch.tensor([[2, 1]]))
    # ((4 - 5)^2 + (1 - 1)^2) / 2 and ((7 - 7)^2 + (0 - 3)^2) / 2
    assert logit_distance(logits, [first, second]).tolist() == [0.5, 4.5]


def test_sdfts_divergence_is_taken_under_the_student() -> None:
    # student [1/4, 3/4], teacher [1/2, 1/2]: 1/4 ln(1/2) + 3/4 ln(3/2) = 0.130812
    logits, goal = torch.tensor([[0.0, math.log(3)]]), torch.zeros(1, 2)
    assert reverse_divergence(logits, goal).tolist() == pytest.approx([0.130812], abs=1e-6)


# Learning without forgetting.


def penalty(policy: Policy, anchor: object, inputs: dict[str, Tensor], task: int = 2) -> dict[str, Tensor]:
    context = LossContext(policy.model, inputs, task, anchor, lambda name, value: None)  # type: ignore[arg-type]
    return Lwf(LwfConfig(strength=3.0)).loss_terms(context)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_lwf_compares_the_policy_with_its_anchor_on_the_completions_only(adapter: str, stream: TaskStream) -> None:
    policy = fresh_policy(adapter)
    inputs, anchor = inputs_of(policy, stream), policy.snapshot()
    given = {name: value for name, value in inputs.items() if name != "labels"}
    taught = policy.model(**given).logits.detach()
    assert penalty(policy, anchor, inputs)["lwf_penalty"].item() == pytest.approx(0.0, abs=1e-6)
    shaken(policy, 0.02)
    # by rows, in probabilities, with torch's own divergence
    rows = []
    for own, goal, labels in zip(policy.model(**given).logits, taught, inputs["labels"], strict=True):
        learned = (labels != IGNORED).nonzero().squeeze(1)
        p, q = (goal[learned - 1] / 2).softmax(-1), (own[learned - 1] / 2).softmax(-1)
        rows.append(4 * torch.nn.functional.kl_div(q.log(), p, reduction="batchmean"))
    expected = 3 * torch.stack(rows).mean()
    found = penalty(policy, anchor, inputs)["lwf_penalty"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    weights = [weight for weight in policy.model.parameters() if weight.requires_grad]
    ours, theirs = (torch.autograd.grad(loss, weights, allow_unused=True) for loss in (found, expected))
    assert [mine is None for mine in ours] == [other is None for other in theirs]
    pairs = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if mine is not None]
    assert max(mine.abs().max().item() for mine, _ in pairs) > 1e-3
    assert all(torch.allclose(mine, other, rtol=1e-2, atol=1e-5) for mine, other in pairs)


def test_lwf_has_no_penalty_in_the_first_task_and_a_missing_anchor_is_an_error(
    policy: Policy, stream: TaskStream
) -> None:
    inputs = inputs_of(policy, stream)
    assert penalty(policy, None, inputs, task=1) == {}
    with pytest.raises(RuntimeError, match="no anchor"):
        penalty(policy, None, inputs)


# DER++: logits stay as they were when they were stored.


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


def terms_of(method: Derpp, policy: Policy) -> dict[str, Tensor]:
    labels = {"labels": torch.zeros(ITEMS, 1)}
    return method.loss_terms(LossContext(policy.model, labels, 2, None, lambda name, value: None))


def test_an_unmoved_policy_is_at_no_distance_and_a_moved_one_is(policy: Policy, stream: TaskStream) -> None:
    method = second_task(policy, stream)
    assert terms_of(method, policy)["derpp_logits"].item() == pytest.approx(0.0, abs=1e-7)
    shaken(policy, 0.01)
    found = terms_of(method, policy)["derpp_logits"]
    assert found.item() > 1e-3
    found.backward()
    assert any(w.grad is not None and w.grad.abs().max() > 0 for w in policy.model.parameters())


def test_the_labels_cost_their_cross_entropy_with_todays_list_of_classes(policy: Policy, stream: TaskStream) -> None:
    method = second_task(policy, stream, label_weight=2.0)
    # one pass over a memory of three draws each of them once
    task, memory = stream.tasks[1], remembered(stream.tasks[:1], ITEMS, 5)
    rows = [plain_logps(policy, request(e, task.seen), target_text(e.target)).mean().item() for e in memory]
    assert terms_of(method, policy)["derpp_labels"].item() == pytest.approx(-2 * sum(rows) / ITEMS, rel=1e-4)


def test_logits_stay_as_they_were_when_their_example_was_remembered(policy: Policy, stream: TaskStream) -> None:
    method = second_task(policy, stream)
    old = dict(method.stored)
    assert {one.listed for one in old.values()} == {stream.tasks[0].trained}
    method.after_task(context_of(policy, stream, 2))
    shaken(policy, 0.01)
    method.before_task(context_of(policy, stream, 3))
    first, second = ({e.key for e in task.train} & method.stored.keys() for task in stream.tasks[:2])
    assert len(first) == 2 and len(second) == 1
    assert all(method.stored[key] is old[key] for key in first)
    fresh = method.stored[second.pop()]
    assert fresh.listed == stream.tasks[1].trained
    assert fresh.values.shape == fresh.tokens.shape and fresh.values.shape[1] == 64


def test_a_new_object_has_the_same_logits(policy: Policy, stream: TaskStream) -> None:
    method, other = second_task(policy, stream), Derpp(DerppConfig(items=ITEMS))
    method.after_task(context_of(policy, stream, 2))
    state = method.state_dict()
    assert state["values"].shape == state["tokens"].shape
    other.load_state_dict(state)
    assert other.listed == stream.tasks[1].trained and other.stored.keys() == method.stored.keys()
    for key, one in method.stored.items():
        again = other.stored[key]
        assert again.listed == one.listed
        assert torch.equal(again.values, one.values) and torch.equal(again.tokens, one.tokens)


def test_only_remembered_examples_are_asked_about(stream: TaskStream) -> None:
    memory = remembered(stream.tasks[:1], ITEMS, 5)
    drawn, otherwise = (
        [example.key for example in islice(endless(memory, seed, "logits"), 3 * ITEMS)] for seed in (1, 2)
    )
    assert sorted(drawn) == sorted([example.key for example in memory] * 3)
    assert drawn != otherwise
    assert list(endless((), 1, "logits")) == []


def test_derpp_has_no_terms_in_the_first_task_and_a_weight_of_zero_no_pass(policy: Policy, stream: TaskStream) -> None:
    method = Derpp(DerppConfig(items=ITEMS))
    method.before_task(context_of(policy, stream, 1))
    assert terms_of(method, policy) == {}
    off = second_task(policy, stream, logit_weight=0.0)
    assert terms_of(off, policy).keys() == {"derpp_labels"}


# Self-distillation: what the teacher is shown, and its average.


def started(policy: Policy, stream: TaskStream, **settings: float) -> tuple[Sdft, TaskContext]:
    method, context = Sdft(SdftConfig(**settings)), TaskContext(stream.tasks[0], policy, None, seed=1)  # type: ignore[arg-type]
    method.before_task(context)
    method.targets(context)
    return method, context


def rolled_out(method: Sdft, keys: tuple[str, ...], texts: tuple[str, ...], rewards: list[float]) -> list[float]:
    """The advantages of completions, which the method has seen then."""
    step = Rollouts(
        1, 2, {"accuracy": torch.tensor(rewards)}, torch.ones(len(keys), 1), None, None, keys, print, completions=texts
    )
    return method.normalize_advantages(step.task_reward, step).tolist()


def sdft_loss(method: Sdft, policy: Policy, *rows: int) -> Tensor:
    context = LossContext(policy.model, {"rollout": torch.tensor(rows)}, 1, None, print)  # type: ignore[arg-type]
    return method.loss_terms(context)["sdft_loss"]


def test_rewards_teach_nothing_and_each_micro_batch_has_its_own_replies(policy: Policy, stream: TaskStream) -> None:
    method, context = started(policy, stream)
    keys = tuple(example.key for example in context.task.train[:2] for _ in range(2))
    texts = tuple(target_text(label) for label in ("one", "two", "three", "four"))
    assert rolled_out(method, keys, texts, [2.0, 1.0, 0.0, 1.0]) == [0.0] * 4

    def terms(*rows: int) -> float:
        return sdft_loss(method, policy, *rows).item()

    whole = terms(0, 1, 2, 3)
    for _ in range(2):  # a batch may be learned from again
        assert (terms(3, 0) + terms(1, 2)) / 2 == pytest.approx(whole, rel=1e-4)
    assert terms(0, 1) != pytest.approx(terms(2, 3), rel=1e-3)


def test_the_teacher_sees_the_right_reply_and_the_student_does_not(policy: Policy, stream: TaskStream) -> None:
    method, context = started(policy, stream)
    example, text = context.task.train[0], target_text("two")
    hidden, shown = (method._inputs([example], [text], shown=shown) for shown in (False, True))
    decode, right = policy.processor.tokenizer.decode, target_text(example.target)
    assert [decode(one["input_ids"][0]).count(right) for one in (hidden, shown)] == [0, 1]
    asked = request(example, context.task.trained)
    behind = with_text(asked, " more")
    *media, words = behind.messages[0]["content"]
    assert (media, behind.media) == (asked.messages[0]["content"][:-1], asked.media)
    assert words["text"] == asked.messages[0]["content"][-1]["text"] + " more"
    learned = [one["labels"][one["labels"] != IGNORED].tolist() for one in (hidden, shown)]
    assert learned[0] == learned[1]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_teacher_follows_by_the_average_and_is_not_trained(adapter: str, stream: TaskStream) -> None:
    policy = fresh_policy(adapter)
    trained = {name: weight for name, weight in policy.model.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in trained.items()}
    method, _ = started(policy, stream, average=0.25)
    with torch.no_grad():
        for weight in trained.values():
            weight.add_(1.0)
    method.after_step(1, 1)
    assert method.teacher is not None
    followers = dict(method.teacher.model.named_parameters())
    for name, old in before.items():
        follower = followers[name.replace(".default.", ".teacher.")]
        assert not follower.requires_grad
        # 0.25 (w + 1) + 0.75 w
        assert torch.allclose(follower, old + 0.25, atol=1e-5), name


def test_the_loss_pulls_towards_the_teacher(policy: Policy, stream: TaskStream) -> None:
    method, context = started(policy, stream)
    example = context.task.train[0]
    asked, text = request(example, context.task.trained), target_text(example.target)
    rolled_out(method, (example.key,), (text,), [0.0])
    loss = sdft_loss(method, policy, 0)
    loss.backward()
    with torch.no_grad():
        student = plain_logps(policy, asked, text)
        for weight in policy.model.parameters():
            if weight.grad is not None:
                weight.sub_(0.05 * weight.grad / (1 + weight.grad.norm()))
    rolled_out(method, (example.key,), (text,), [0.0])
    assert 0 <= sdft_loss(method, policy, 0).item() < loss.item()
    assert not torch.equal(plain_logps(policy, asked, text), student)
