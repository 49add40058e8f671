"""Iterated self-SFT: only right answers are learned, they are sampled anew, and what happens without any."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eval.score import score
from methods.algorithms.raft import Raft, RaftConfig
from methods.base import TaskContext
from methods.model.policy import Policy
from methods.settings import TrainConfig
from methods.training.dataset import target_dataset
from task_streams.errors import UserError
from task_streams.prompt import target_text
from task_streams.types import TaskStream
from tests.methods.two_tasks import assert_other_weights, made, never_stopped, two_tasks


def context_of(policy: Policy, stream: TaskStream, examples: int = 6) -> TaskContext:
    """Task 2 with its first examples."""
    task = stream.tasks[1]
    return TaskContext(replace(task, train=task.train[:examples]), policy, None, seed=3, prompts_per_update=4)


def untrained(policy: Policy) -> None:
    """A policy that knows nothing."""
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))


def test_every_kept_answer_is_right_and_the_policys_own(policy: Policy, stream: TaskStream) -> None:
    context, method = context_of(policy, stream), Raft(RaftConfig(answers=4, temperature=2.0))
    kept = method.targets(context)
    targets = {example.key: example.target for example in context.task.train}
    assert kept.keys() <= targets.keys()
    for key, texts in kept.items():
        assert 1 <= len(texts) <= 4
        assert all(score(text, targets[key], context.task.trained).reward == 2.0 for text in texts)
    total = sum(len(texts) for texts in kept.values())
    assert 0 < total < 4 * 6  # at this temperature some are wrong
    assert Raft(RaftConfig(answers=4, temperature=2.0)).targets(context) == kept


def test_rows_are_the_kept_answers_and_follow_what_is_kept_later(policy: Policy, stream: TaskStream) -> None:
    task = context_of(policy, stream).task
    first, second = task.train[0].key, task.train[1].key
    kept = {second: ["one", "two"], first: ["three"]}
    rows = target_dataset(task, "{label}", targets=kept)

    def texts() -> list[str]:
        return [rows[i]["completion"][0]["content"][0]["text"] for i in range(len(rows))]

    assert texts() == ["three", "one", "two"]  # in the order of the examples
    kept.clear()
    kept[second] = ["four"]
    assert texts() == ["four", "four", "four"]  # as many rows as there were
    with pytest.raises(UserError, match="no completion to train towards"):
        target_dataset(task, "{label}", targets={})


def test_without_a_right_answer_the_remedy_is_named_or_labels_are_learned(policy: Policy, stream: TaskStream) -> None:
    untrained(policy)
    context = context_of(policy, stream, examples=2)
    with pytest.raises(UserError, match=r"none of 1 answers to each of 2 examples.*method.unsolved=target"):
        Raft(RaftConfig(answers=1)).targets(context)
    kept = Raft(RaftConfig(answers=1, unsolved="target")).targets(context)
    assert kept == {example.key: [target_text(example.target)] for example in context.task.train}


def test_answers_are_sampled_anew_after_so_many_updates_until_the_task_is_over(
    policy: Policy, stream: TaskStream
) -> None:
    context, method = context_of(policy, stream), Raft(RaftConfig(answers=2, temperature=2.0, refresh=3))
    kept = method.targets(context)  # the mapping that the training reads
    first = dict(kept)
    method.after_step(2, 1)
    method.after_step(2, 2)
    assert kept == first
    method.after_step(2, 3)
    assert kept != first
    method.after_task(context)
    second = dict(kept)
    method.after_step(2, 6)
    assert kept == second
    # the default is once per pass over the kept answers, four prompts per update; 0 is once per task
    default = Raft(RaftConfig(answers=3))
    rows = sum(len(texts) for texts in default.targets(context).values())
    assert default.every == -(-rows // 4)
    once = Raft(RaftConfig(answers=3, refresh=0))
    kept = once.targets(context)
    before = dict(kept)
    for step in range(1, 8):
        once.after_step(2, step)
    assert kept == before


def test_stopped_between_two_tasks_is_never_stopped(stream: TaskStream, tmp_path: Path) -> None:
    train = TrainConfig(updates=3, prompts_per_update=4, warmup=0)  # the third batch is read after the first update
    make = made("raft", learner_settings={"answers": 1, "temperature": 2.0, "refresh": 1})
    whole = never_stopped(make, stream, tmp_path, train=train)
    once = made("raft", learner_settings={"answers": 1, "temperature": 2.0, "refresh": 0})
    assert_other_weights(whole, two_tasks(once, stream, tmp_path / "once", train=train))


def test_it_replays_and_works_with_an_adapter(stream: TaskStream, tmp_path: Path) -> None:
    make = made("raft", "replay", {"answers": 1, "refresh": 0}, items=4)
    run = two_tasks(make, stream, tmp_path / "run", adapter="lora")
    assert len(run.results[1].steps) == 2
    kept = run.method.learner.inner.kept  # type: ignore[attr-defined]
    assert kept.keys() & {example.key for example in stream.tasks[0].train}  # answers to replayed examples
