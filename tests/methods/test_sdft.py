"""Self-distillation: the divergence by hand, what the teacher is shown, its average, and two tasks."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from methods.algorithms.sdft import Sdft, SdftConfig, reverse_divergence, with_text
from methods.base import LossContext, Rollouts, TaskContext
from methods.model.policy import Policy
from methods.settings import TrainConfig
from task_streams.prompt import request, target_text
from task_streams.types import TaskStream
from tests.methods.test_targets import plain_logps
from tests.methods.two_tasks import assert_other_weights, fresh_policy, made, never_stopped, two_tasks


def test_the_divergence_is_taken_under_the_student() -> None:
    logits, goal = torch.tensor([[0.0, math.log(3)]]), torch.zeros(1, 2)
    # student [1/4, 3/4], teacher [1/2, 1/2]: 1/4 ln(1/2) + 3/4 ln(3/2) = 0.130812
    assert reverse_divergence(logits, goal).tolist() == pytest.approx([0.130812], abs=1e-6)


def started(policy: Policy, stream: TaskStream, **settings: float) -> tuple[Sdft, TaskContext]:
    method, context = Sdft(SdftConfig(**settings)), TaskContext(stream.tasks[0], policy, None, seed=1)  # type: ignore[arg-type]
    method.before_task(context)
    method.targets(context)
    return method, context


def test_rewards_teach_nothing_and_each_micro_batch_has_its_own_replies(policy: Policy, stream: TaskStream) -> None:
    method, context = started(policy, stream)
    keys = tuple(example.key for example in context.task.train[:2] for _ in range(2))
    texts = tuple(target_text(label) for label in ("one", "two", "three", "four"))
    rewards = torch.tensor([2.0, 1.0, 0.0, 1.0])
    rollouts = Rollouts(1, 2, {"accuracy": rewards}, torch.ones(4, 1), None, None, keys, print, completions=texts)
    assert method.normalize_advantages(rewards, rollouts).tolist() == [0.0] * 4

    def terms(*rollouts: int) -> float:
        inputs = {"rollout": torch.tensor(rollouts)}
        return method.loss_terms(LossContext(policy.model, inputs, 1, None, print))["sdft_loss"].item()  # type: ignore[arg-type]

    whole = terms(0, 1, 2, 3)
    for _ in range(2):  # a batch may be learned from again
        assert (terms(3, 0) + terms(1, 2)) / 2 == pytest.approx(whole, rel=1e-4)
    assert terms(0, 1) != pytest.approx(terms(2, 3), rel=1e-3)


def test_the_teacher_sees_the_right_reply_and_the_student_does_not(policy: Policy, stream: TaskStream) -> None:
    method, context = started(policy, stream)
    example, text = context.task.train[0], target_text("two")
    hidden = method._inputs([example], [text], shown=False)
    shown = method._inputs([example], [text], shown=True)
    decode = policy.processor.tokenizer.decode
    right = target_text(example.target)
    assert decode(hidden["input_ids"][0]).count(right) == 0
    assert decode(shown["input_ids"][0]).count(right) == 1
    asked = request(example, context.task.trained)
    behind = with_text(asked, " more")
    *media, words = behind.messages[0]["content"]
    assert (media, behind.media) == (asked.messages[0]["content"][:-1], asked.media)
    assert words["text"] == asked.messages[0]["content"][-1]["text"] + " more"
    learned = [one["labels"][one["labels"] != -100].tolist() for one in (hidden, shown)]
    assert learned[0] == learned[1]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_teacher_follows_by_the_average_and_is_not_trained(adapter: str, stream: TaskStream) -> None:
    policy = fresh_policy(adapter)
    before = {name: w.detach().clone() for name, w in policy.model.named_parameters() if w.requires_grad}
    method, _ = started(policy, stream, average=0.25)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
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
    rollouts = Rollouts(
        1, 2, {"a": torch.zeros(1)}, torch.ones(1, 1), None, None, (example.key,), print, completions=(text,)
    )
    method.normalize_advantages(torch.zeros(1), rollouts)
    inputs = {"rollout": torch.tensor([0])}
    loss = method.loss_terms(LossContext(policy.model, inputs, 1, None, print))["sdft_loss"]  # type: ignore[arg-type]
    loss.backward()
    with torch.no_grad():
        student = plain_logps(policy, asked, text)
        for weight in policy.model.parameters():
            if weight.grad is not None:
                weight.sub_(0.05 * weight.grad / (1 + weight.grad.norm()))
    method.normalize_advantages(torch.zeros(1), rollouts)
    after = method.loss_terms(LossContext(policy.model, inputs, 1, None, print))["sdft_loss"]  # type: ignore[arg-type]
    assert 0 <= after.item() < loss.item()
    assert not torch.equal(plain_logps(policy, asked, text), student)


def test_stopped_between_two_tasks_is_never_stopped(stream: TaskStream, tmp_path: Path) -> None:
    whole = never_stopped(made("sdft"), stream, tmp_path)
    assert_other_weights(whole, replace(whole, policy=fresh_policy()))
    assert all(value is not None and value > 0 for value in whole.logged(2, "sdft_loss"))


def test_it_replays_and_works_with_an_adapter(stream: TaskStream, tmp_path: Path) -> None:
    train = TrainConfig(updates=1, prompts_per_update=4, warmup=0, accumulation=2)
    run = two_tasks(made("sdft", "replay", items=4), stream, tmp_path / "run", adapter="lora", train=train)
    assert all(".default." in name for name in run.weights())
