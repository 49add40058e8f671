"""Shapers that look into models: on states made by hand, and on what the embedded model says."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from methods import METHODS
from methods.base import Rollouts, TaskContext
from methods.model.policy import Policy
from methods.parts.adaptive_weight import AdaptiveWeight, AdaptiveWeightConfig, gradient_agreement
from methods.parts.gradient_features import gradient_features, token_gradients
from methods.parts.gradient_novelty import GradientNovelty, GradientNoveltyConfig, novelty
from methods.parts.implicit_process import ImplicitProcess, ImplicitProcessConfig
from methods.parts.information_gain import InformationGain, InformationGainConfig
from methods.parts.latent_retention import LatentRetention, LatentRetentionConfig
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, build_trainer
from methods.training.targets import completion_logits, target_inputs
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.prompt_style import prompt_style
from task_streams.types import TaskStream
from tests.methods.hand_made import HandMade, reply, rollouts
from tests.methods.two_tasks import fresh_policy


def pair(drifts: tuple[float, float] = (0.0, 0.1), task: int = 2) -> tuple[Rollouts, dict[str, float]]:
    """Two rollouts of one token, the first one right; both states are (1, 0), tokens 0 and 1.

    p = softmax(1, 0) = (0.731059, 0.268941), so g = (0.268941, -0.268941) and (-0.731059, 0.731059).
    """
    made, logged = rollouts({"accuracy": [1.0, 0.0]}, group_size=2, drifts=list(drifts), task=task)
    states = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    return replace(made, views=HandMade(torch.tensor([[0], [1]]), states, states)), logged


def test_a_feature_is_the_gradient_at_the_output_head() -> None:
    expected = torch.tensor([[0.268941, -0.268941], [-0.731059, 0.731059]])
    assert torch.allclose(gradient_features(pair()[0]), expected, atol=1e-6)


def test_latent_retention_rewards_states_that_stay() -> None:
    made, logged = pair()
    anchor = torch.tensor([[[2.0, 0.0]], [[3.0, 4.0]]])  # cosines 1 and 0.6, distances 0 and 0.4
    made = replace(made, views=replace(made.views, anchor=anchor))  # type: ignore[type-var]
    method = LatentRetention(LatentRetentionConfig(sharpness=5.0))
    expected = [1.5, 0.5 * math.exp(-2)]
    assert method.shape_rewards(made.task_reward, made).tolist() == pytest.approx(expected, abs=1e-6)
    assert logged["latent_drift"] == pytest.approx(0.2)
    first = replace(made, task_index=1)
    assert method.shape_rewards(first.task_reward, first).tolist() == [1.0, 0.0]


def test_information_gain_is_the_rise_in_probability() -> None:
    answers = [reply("three"), reply("three"), "no thought"]
    made, _ = rollouts({"accuracy": [1.0, 1.0, 0.0]}, group_size=3, answers=answers)
    made = replace(made, views=HandMade(torch.zeros(3, 1), torch.zeros(3, 1, 2), after=(0.75, 0.05, 0.9)))
    shaped = InformationGain(InformationGainConfig()).shape_rewards(made.task_reward, made)
    # 0.25 without a thought: gains 0.5 and -0.2, none where there is no thought; half of each
    assert shaped.tolist() == pytest.approx([1.25, 0.9, 0.0], abs=1e-6)


def test_information_gain_needs_prompts_that_ask_for_a_thought(policy: Policy, stream: TaskStream) -> None:
    context = TaskContext(replace(stream.tasks[0], style=prompt_style("suite", think=False)), policy, None, seed=3)
    with pytest.raises(UserError, match=r"stream\.think=true"):
        InformationGain(InformationGainConfig()).before_task(context)


def test_novelty_is_what_the_others_do_not_explain() -> None:
    features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    # the first two point the same way; the weights of two others with equal rewards are a half each
    assert novelty(features, torch.zeros(3), 3).tolist() == pytest.approx([0.5, 0.5, 1.0])
    # repeating the rewarded one counts more: weight e / (e + 1) = 0.731059
    assert novelty(features, torch.tensor([1.0, 0.0, 0.0]), 3).tolist() == pytest.approx([0.5, 0.268941, 1.0], abs=1e-6)


def test_gradient_novelty_is_a_bounded_factor() -> None:
    made, _ = pair()
    # g of the second is -2.7 times that of the first: cosine -1, novelty 0, the least factor, 1 - 0.2
    method = GradientNovelty(GradientNoveltyConfig())
    assert method.shape_rewards(made.task_reward, made).tolist() == pytest.approx([0.8, 0.0])


@pytest.mark.parametrize(
    ("drifts", "initial", "expected"),
    [((0.0, 0.1), 0.5, 0.55), ((0.1, 0.0), 0.5, 0.45), ((0.1, 0.1), 0.5, 0.5), ((0.1, 0.0), 0.02, 0.0)],
)
def test_the_weight_follows_the_agreement_of_the_gradients_within_its_bounds(
    drifts: tuple[float, float], initial: float, expected: float
) -> None:
    made, _ = pair(drifts)
    method, again = (AdaptiveWeight(AdaptiveWeightConfig(initial=initial)) for _ in range(2))
    shaped = method.shape_rewards(made.task_reward, made)
    # this step is shaped with the weight before it: 0.5 exp(-20 D)
    assert shaped[0].item() == pytest.approx(1 + initial * math.exp(-20 * drifts[0]), abs=1e-6)
    assert method.weight == pytest.approx(expected)
    again.load_state_dict(method.state_dict())
    assert again.weight == method.weight


def test_groups_without_a_difference_agree_on_nothing() -> None:
    assert gradient_agreement(torch.ones(2, 2), torch.ones(2), torch.tensor([1.0, 0.0]), 2) == 0.0


def test_the_process_model_moves_good_and_bad_rollouts_apart() -> None:
    made, _ = pair()
    method, again = (ImplicitProcess(ImplicitProcessConfig(weight=1.0)) for _ in range(2))
    shaped = method.shape_rewards(made.task_reward, made)
    # features g h^T have only their first column; their difference is (1, -1), of square 2; the DPO step from M = 0
    # is 0.5 * 0.5 (1, -1) / 2 = (0.125, -0.125): rewards 0.125 * 0.537883 and -0.125 * 1.462117, 0.25 apart
    assert shaped.tolist() == pytest.approx([1.067235, -0.182765], abs=1e-6)
    again.load_state_dict(method.state_dict())
    expected, found = (one.shape_rewards(made.task_reward, made) for one in (method, again))
    assert torch.equal(expected, found)
    assert found[0] - found[1] > shaped[0] - shaped[1]  # a second step moves them further


def test_a_first_batch_without_good_and_bad_rollouts_teaches_the_process_model_nothing() -> None:
    made, _ = pair()
    equal = replace(made, components={"accuracy": torch.ones(2)})
    method = ImplicitProcess(ImplicitProcessConfig())
    assert method.shape_rewards(equal.task_reward, equal).tolist() == [1.0, 1.0]
    assert method.state_dict() == {}


def step_of(policy: Policy, stream: TaskStream, folder: Path, accumulation: int = 1) -> Rollouts:
    """The rollouts that a step hands to the hooks."""
    method = METHODS["rapo"](METHODS["rapo"].Config(kl=0.0))
    kept: list[Rollouts] = []
    shape = method.shape_rewards
    method.shape_rewards = lambda rewards, step: kept.append(step) or shape(rewards, step)  # type: ignore
    context = TaskContext(stream.tasks[1], policy, policy.snapshot(), seed=3)
    train = TrainConfig(updates=1, prompts_per_update=4, accumulation=accumulation)
    trainer: Any = build_trainer(method, context, None, FitSettings(train, folder), [])
    trainer.current_gradient_accumulation_steps = accumulation
    trainer.model.train()
    torch.manual_seed(5)
    trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    return kept[0]


@pytest.fixture(scope="module")
def seen(stream: TaskStream, tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Rollouts]:
    """A policy, which is not trained, and one step of it."""
    policy = fresh_policy()
    return policy, step_of(policy, stream, tmp_path_factory.mktemp("seen"))


@pytest.mark.parametrize(("adapter", "accumulation"), [("none", 1), ("none", 2), ("lora", 1), ("lora", 2)])
def test_hidden_states_are_those_that_predict_the_tokens(
    adapter: str, accumulation: int, seen: tuple[Policy, Rollouts], stream: TaskStream, tmp_path: Path
) -> None:
    own = (adapter, accumulation) == ("none", 1)
    step = seen[1] if own else step_of(fresh_policy(adapter), stream, tmp_path, accumulation)
    views: Any = step.views
    logits = views.hidden("policy") @ views.head.T
    logps = logits.log_softmax(dim=-1).gather(2, views.tokens[:, :, None]).squeeze(2) * step.mask
    assert torch.allclose(logps, step.actor_logps * step.mask, atol=1e-5)  # type: ignore[operator]
    assert torch.allclose(views.hidden("policy"), views.hidden("anchor"), atol=1e-5)  # the anchor is the policy here


def test_a_feature_is_what_autograd_finds(seen: tuple[Policy, Rollouts]) -> None:
    _, step = seen
    views: Any = step.views
    states = views.hidden("policy")[3, : int(step.mask[3].sum())].clone().requires_grad_()
    tokens = views.tokens[3, : len(states)]
    (states @ views.head.T).log_softmax(dim=-1).gather(1, tokens[:, None]).sum().backward()
    found = list(token_gradients(step))[3][0]
    assert torch.allclose(found, states.grad, atol=1e-5)  # type: ignore[arg-type]


def test_the_likelihood_of_a_text_is_that_of_a_pass_of_its_own(
    seen: tuple[Policy, Rollouts], stream: TaskStream
) -> None:
    policy, step = seen
    text = "<think>it looks like three</think><answer>three</answer>"
    found = step.views.continuation_logps([""] * len(step.keys), [text] * len(step.keys))  # type: ignore[union-attr]
    examples = {example.key: example for example in stream.tasks[1].train}
    policy.model.eval()
    for row in (0, 9):
        asked = request(examples[step.keys[row]], step.labels)
        logits, labels = completion_logits(policy.model, target_inputs(policy, [asked], [text]))
        logps = logits.log_softmax(dim=-1).gather(1, labels[:, None])[:-1]  # without the end of sequence
        assert found[row].item() == pytest.approx(logps.mean().item(), abs=1e-4)
    policy.model.train()


def test_a_prefix_is_not_counted_but_conditions(seen: tuple[Policy, Rollouts]) -> None:
    views: Any = seen[1].views
    rows, prefix, rest = len(views.tokens), "<think>I see", " three here</think>"
    whole = views.continuation_logps([""] * rows, [prefix + rest] * rows)
    first = views.continuation_logps([""] * rows, [prefix] * rows)
    second = views.continuation_logps([prefix] * rows, [rest] * rows)
    lengths = [len(views.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (prefix, rest)]
    together = (first * lengths[0] + second * lengths[1]) / sum(lengths)
    assert torch.allclose(whole, together, atol=1e-4)
