"""The policy's own answers: RAFT learns the right ones, sampled anew; RIF leaves out examples that have none."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eval.score import score
from methods import METHODS, build_method
from methods.algorithms.raft import Raft, RaftConfig
from methods.base import Method, TaskContext
from methods.compose import Composite
from methods.model.policy import Policy
from methods.parts.rif import Rif, RifConfig, correct_answers
from methods.settings import TrainConfig
from methods.training.dataset import target_dataset
from methods.training.fit import FitSettings, fit
from task_streams.errors import UserError
from task_streams.prompt import target_text
from task_streams.types import Example, TaskStream


@pytest.fixture
def context(policy: Policy, stream: TaskStream) -> TaskContext:
    """Task 2 with its first six examples."""
    task = stream.tasks[1]
    return TaskContext(replace(task, train=task.train[:6]), policy, None, seed=3, prompts_per_update=4)


def test_every_kept_answer_is_right_and_the_policys_own(context: TaskContext) -> None:
    config = RaftConfig(answers=4, temperature=2.0)
    kept = Raft(config).targets(context)
    targets = {example.key: example.target for example in context.task.train}
    assert kept.keys() <= targets.keys()
    for key, texts in kept.items():
        assert 1 <= len(texts) <= 4
        assert all(score(text, targets[key], context.task.trained).reward == 2.0 for text in texts)
    assert 0 < sum(map(len, kept.values())) < 4 * 6  # at this temperature some are wrong
    assert Raft(config).targets(context) == kept


def test_rows_are_the_kept_answers_and_follow_what_is_kept_later(context: TaskContext) -> None:
    first, second = (example.key for example in context.task.train[:2])
    kept = {second: ["one", "two"], first: ["three"]}
    rows = target_dataset(context.task, "{label}", targets=kept)

    def texts() -> list[str]:
        return [rows[i]["completion"][0]["content"][0]["text"] for i in range(len(rows))]

    assert texts() == ["three", "one", "two"]  # in the order of the examples
    kept.clear()
    kept[second] = ["four"]
    assert texts() == ["four", "four", "four"]  # as many rows as there were
    with pytest.raises(UserError, match="no completion to train towards"):
        target_dataset(context.task, "{label}", targets={})


def test_without_a_right_answer_the_remedy_is_named_or_labels_are_learned(context: TaskContext) -> None:
    with torch.no_grad():  # a policy that knows nothing
        for weight in context.policy.model.parameters():
            weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    context = replace(context, task=replace(context.task, train=context.task.train[:2]))
    with pytest.raises(UserError, match=r"none of 1 answers to each of 2 examples.*method.unsolved=target"):
        Raft(RaftConfig(answers=1)).targets(context)
    kept = Raft(RaftConfig(answers=1, unsolved="target")).targets(context)
    assert kept == {example.key: [target_text(example.target)] for example in context.task.train}


def test_answers_are_sampled_anew_after_so_many_updates_until_the_task_is_over(context: TaskContext) -> None:
    def changes(method: Raft, steps: Sequence[int]) -> list[bool]:
        """Whether the mapping that the training reads changes at each of these updates."""
        found = []
        for step in steps:
            before = dict(kept)
            method.after_step(2, step)
            found.append(kept != before)
        return found

    method = Raft(RaftConfig(answers=2, temperature=2.0, refresh=3))
    kept = method.targets(context)
    assert changes(method, (1, 2, 3)) == [False, False, True]
    method.after_task(context)
    assert changes(method, [6]) == [False]
    # the default is once per pass over the kept answers, four prompts per update; 0 is once per task
    default = Raft(RaftConfig(answers=3))
    rows = sum(map(len, default.targets(context).values()))
    assert default.every == -(-rows // 4)
    once = Raft(RaftConfig(answers=3, refresh=0))
    kept = once.targets(context)
    assert not any(changes(once, range(1, 8)))


# RIF.


@pytest.fixture
def first_task(policy: Policy, stream: TaskStream) -> TaskContext:
    return TaskContext(stream.tasks[0], policy, None, seed=3)


def impossible(example: Example) -> Example:
    return Example(f"{example.key}/impossible", "a class that no prompt lists", example.media, example.content)


def test_examples_without_one_right_answer_are_left_out_in_order(first_task: TaskContext) -> None:
    given = first_task.task.train
    examples = [*given[:3], *map(impossible, given[:3]), *given[3:6]]
    method = Rif(RifConfig(rollouts=4))
    chosen = method.choose_examples(first_task, examples)
    counts = correct_answers(first_task, examples[:8], 4, 3) + correct_answers(first_task, examples[8:], 4, 3 + 8)
    assert list(chosen) == [one for one, right in zip(examples, counts, strict=True) if right]
    assert counts[3:6] == [0, 0, 0] and 0 < len(chosen) <= 6
    assert method.kept == len(chosen) / 9


def test_the_choice_is_the_same_every_time_leaves_the_random_state_and_may_not_be_empty(
    first_task: TaskContext,
) -> None:
    given, state = first_task.task.train, torch.get_rng_state()
    first, again = (Rif(RifConfig(rollouts=2)).choose_examples(first_task, given) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state()) and first == again
    with pytest.raises(UserError, match=r"none of the 2 training examples .* raise method.parts.rif.rollouts"):
        Rif(RifConfig(rollouts=2)).choose_examples(first_task, [impossible(one) for one in given[:2]])


class TwoOnly(Method):
    """Learns from two examples."""

    name = "two_only"
    family = "part"
    Config = RifConfig

    def choose_examples(self, context, examples):  # type: ignore
        return examples[:2]


def test_the_trainer_sees_the_chosen_examples_alone(first_task: TaskContext, tmp_path: Path) -> None:
    seen: set[str] = set()

    class Watching(METHODS["grpo"]):  # type: ignore
        def shape_rewards(self, rewards, rollouts):  # type: ignore
            seen.update(rollouts.keys)
            return rewards

    method = Composite(Watching(METHODS["grpo"].Config(kl=0.0)), [TwoOnly(RifConfig())])
    few, many = (FitSettings(TrainConfig(updates=2, prompts_per_update=count), tmp_path) for count in (2, 4))
    fit(method, first_task, None, few)
    assert seen == {one.key for one in first_task.task.train[:2]}
    with pytest.raises(UserError, match=r"chose 2 of the 16 .* at least train.prompts_per_update, 4"):
        fit(method, first_task, None, many)


def test_it_joins_reinforcement_and_logs_what_it_kept(first_task: TaskContext, tmp_path: Path) -> None:
    method = build_method("grpo", METHODS["grpo"].Config(kl=0.0), [("rif", RifConfig(rollouts=2))])
    result = fit(method, first_task, None, FitSettings(TrainConfig(updates=1, prompts_per_update=2), tmp_path))
    assert 0 < result.steps[0]["rif_kept"] <= 1
    with pytest.raises(UserError, match="joins reinforcement"):
        build_method("sft", METHODS["sft"].Config(), [("rif", RifConfig())])
