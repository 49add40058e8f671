"""Examples that are never answered right are left out, on the embedded model."""

from pathlib import Path

import pytest
import torch

from methods import METHODS, build_method
from methods.base import Method, TaskContext
from methods.compose import Composite
from methods.model.policy import Policy
from methods.parts.rif import Rif, RifConfig, correct_answers
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, fit
from task_streams.errors import UserError
from task_streams.types import Example, TaskStream


def context_of(policy: Policy, stream: TaskStream) -> TaskContext:
    return TaskContext(stream.tasks[0], policy, None, seed=3)


def impossible(example: Example) -> Example:
    return Example(f"{example.key}/impossible", "a class that no prompt lists", example.media, example.content)


def test_examples_without_one_right_answer_are_left_out_in_order(policy: Policy, stream: TaskStream) -> None:
    context = context_of(policy, stream)
    examples = [*context.task.train[:3], *map(impossible, context.task.train[:3]), *context.task.train[3:6]]
    method = Rif(RifConfig(rollouts=4))
    chosen = method.choose_examples(context, examples)
    counts = correct_answers(context, examples[:8], 4, 3) + correct_answers(context, examples[8:], 4, 3 + 8)
    assert list(chosen) == [one for one, right in zip(examples, counts, strict=True) if right]
    assert counts[3:6] == [0, 0, 0] and 0 < len(chosen) <= 6
    assert method.kept == len(chosen) / 9


def test_the_choice_is_the_same_every_time_leaves_the_random_state_and_may_not_be_empty(
    policy: Policy, stream: TaskStream
) -> None:
    context = context_of(policy, stream)
    state = torch.get_rng_state()
    first = Rif(RifConfig(rollouts=2)).choose_examples(context, context.task.train)
    assert torch.equal(state, torch.get_rng_state())
    assert first == Rif(RifConfig(rollouts=2)).choose_examples(context, context.task.train)
    with pytest.raises(UserError, match=r"none of the 2 training examples .* raise method.parts.rif.rollouts"):
        Rif(RifConfig(rollouts=2)).choose_examples(context, [impossible(one) for one in context.task.train[:2]])


class TwoOnly(Method):
    """Learns from two examples."""

    name = "two_only"
    family = "part"
    Config = RifConfig

    def choose_examples(self, context, examples):  # type: ignore
        return examples[:2]


def test_the_trainer_sees_the_chosen_examples_alone(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    seen: set[str] = set()

    class Watching(METHODS["grpo"]):  # type: ignore
        def shape_rewards(self, rewards, rollouts):  # type: ignore
            seen.update(rollouts.keys)
            return rewards

    method = Composite(Watching(METHODS["grpo"].Config(kl=0.0)), [TwoOnly(RifConfig())])
    context = context_of(policy, stream)
    fit(method, context, None, FitSettings(TrainConfig(updates=2, prompts_per_update=2), tmp_path))
    assert seen == {one.key for one in context.task.train[:2]}
    with pytest.raises(UserError, match=r"chose 2 of the 16 .* at least train.prompts_per_update, 4"):
        fit(method, context, None, FitSettings(TrainConfig(updates=2, prompts_per_update=4), tmp_path))


def test_it_joins_reinforcement_and_logs_what_it_kept(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    method = build_method("grpo", METHODS["grpo"].Config(kl=0.0), [("rif", RifConfig(rollouts=2))])
    train = TrainConfig(updates=1, prompts_per_update=2)
    result = fit(method, context_of(policy, stream), None, FitSettings(train, tmp_path))
    assert 0 < result.steps[0]["rif_kept"] <= 1
    with pytest.raises(UserError, match="joins reinforcement"):
        build_method("sft", METHODS["sft"].Config(), [("rif", RifConfig())])
