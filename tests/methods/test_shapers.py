"""Every reward shaper on small groups, by hand; those that look into models also on what the embedded model says."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clrft.config.run_config import build_config
from methods import METHODS, build_method
from methods.base import Method, Rollouts, TaskContext
from methods.model.policy import Policy
from methods.parts.gradient_features import gradient_features, token_gradients
from methods.parts.gradient_novelty import novelty
from methods.parts.likeness import item_likeness, whole_likeness
from methods.training.targets import completion_logits, target_inputs
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.prompt_style import prompt_style
from task_streams.types import Box, Question, TaskStream
from tests.methods.hand_made import HandMade, reply, rollouts
from tests.methods.trainers import scored, trainer_of
from tests.methods.two_tasks import fresh_policy

SHAPERS = [one for one in METHODS.values() if one.family == "part" and one.shape_rewards is not Method.shape_rewards]


def part(name: str, **settings: Any) -> Any:
    return METHODS[name](METHODS[name].Config(**settings))


def shaped(method: Method, made: Rollouts) -> list[float]:
    return method.shape_rewards(made.task_reward, made).tolist()


# One right answer of two, both in the format; both right.
MIXED, RIGHT = ({"accuracy": [1.0, right], "format": [1.0, 1.0]} for right in (0.0, 1.0))


def test_retention_adds_what_rapo_adds() -> None:
    # R + lambda exp(-alpha D) = R + 0.5 exp(-20 D): 2 + 0.5 e^-2 = 2.067668, and 1 + 0.5
    for method in (part("retention"), part("rapo")):
        made, logged = rollouts(MIXED, group_size=2, drifts=[0.1, 0.0])
        assert shaped(method, made) == pytest.approx([2.067668, 1.5], abs=1e-6)
        assert logged == pytest.approx({"drift": 0.05, "retention_reward": (math.exp(-2) + 1) / 2}, abs=1e-6)


def test_gated_retention_counts_only_above_the_threshold() -> None:
    parts = {"accuracy": [1.0, 0.0, 1.0], "format": [1.0, 1.0, 0.0]}
    made, logged = rollouts(parts, group_size=3, drifts=[0.0, 0.0, 0.0])
    # means of the components: 1, 0.5, 0.5; only the first passes 0.75
    assert shaped(part("gated_retention"), made) == [2.5, 1.0, 1.0]
    assert logged["gate_open"] == pytest.approx(1 / 3)
    assert shaped(part("gated_retention", threshold=0.5), made) == [2.5, 1.5, 1.5]


@pytest.mark.parametrize("name", ["retention", "gated_retention", "drift_threshold", "rapo"])
def test_the_first_task_is_left_as_it_is_and_a_missing_anchor_is_an_error(name: str) -> None:
    method = part(name)
    made, logged = rollouts(MIXED, group_size=2, task=1, drifts=[0.1, 0.1])
    assert shaped(method, made) == [2.0, 1.0] and "drift" not in logged
    with pytest.raises(RuntimeError, match="no anchor"):
        shaped(method, rollouts(MIXED, group_size=2, task=2)[0])


@pytest.mark.parametrize("keep", ["low", "high"])
def test_a_hard_threshold_zeroes_one_side_of_the_mean_drift_in_groups_that_are_all_right(keep: str) -> None:
    # All right with drifts 0, 0.1, 0.1, 0.4 (mean 0.15); one wrong; all wrong alike. Full reward is 2.
    parts, drifts = {"accuracy": [1.0] * 7 + [0.0] * 5, "format": [1.0] * 12}, [0.0, 0.1, 0.1, 0.4] * 3
    made, logged = rollouts(parts, group_size=4, drifts=drifts)
    group = {"low": [2.0, 2.0, 2.0, 0.0], "high": [0.0, 0.0, 0.0, 2.0]}[keep]
    method = part("drift_threshold", keep=keep)
    assert shaped(method, made) == [*group, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert logged == pytest.approx({"right_groups": 1 / 3, "drift": 0.15})
    assert shaped(method, rollouts(RIGHT, group_size=2, drifts=[0.25, 0.25])[0]) == [2.0, 2.0]  # equal drifts
    # both sides are named methods
    config = build_config("digits_cil", f"grpo_keep_{keep}_drift")
    assert (config.method_name, config.parts) == ("grpo", (("drift_threshold", method.config),))
    assert config.cell == f"digits_cil-grpo_keep_{keep}_drift-1993"


def test_drift_below_zero_is_told_apart_by_a_threshold_and_a_later_task_may_be_its_first_one() -> None:
    # mean log-ratios -1/2 and 0, their mean -1/4; clamped at zero, both would be the same
    made, logged = rollouts(RIGHT, group_size=2, drifts=[-0.5, 0.0])
    assert shaped(part("drift_threshold", keep="high"), made) == [0.0, 2.0]
    assert logged["drift"] == 0.0  # RaPO's is clamped
    method = part("drift_threshold", from_task=4)
    for task, expected in ((3, [2.0, 2.0]), (4, [2.0, 0.0])):
        assert shaped(method, rollouts(RIGHT, group_size=2, task=task, drifts=[0.1, 0.3])[0]) == expected


def test_par_is_the_mean_preference_over_the_other_rollouts() -> None:
    made, _ = rollouts({"accuracy": [1.0, 0.0, 0.0]}, group_size=3)
    # sigmoid(1) = 0.731059 over both others; sigmoid(-1) = 0.268941 and sigmoid(0) = 0.5, mean 0.384471
    assert shaped(part("par"), made) == pytest.approx([0.731059, 0.384471, 0.384471], abs=1e-6)
    # within groups only, and bounded
    made, _ = rollouts({"accuracy": [100.0, 0.0, 5.0, 5.0]}, group_size=2)
    assert shaped(part("par"), made) == pytest.approx([1.0, 0.0, 0.5, 0.5])


def test_multiplicative_takes_format_and_drift_as_factors() -> None:
    parts = {"accuracy": [1.0, 1.0, 0.0], "format": [1.0, 0.0, 1.0]}
    made, _ = rollouts(parts, group_size=3, task=1)
    assert shaped(part("multiplicative"), made) == [1.0, 0.5, 0.0]
    # and drift from task 2 on
    made, _ = rollouts({**RIGHT, "format": [1.0, 0.5]}, group_size=2, drifts=[0.0, 0.1])
    # 1 * 1 * 1; and 1 * (0.5 + 0.5 * 0.5) * (0.5 + 0.5 e^-2) = 0.75 * 0.567668
    assert shaped(part("multiplicative"), made) == pytest.approx([1.0, 0.425751], abs=1e-6)
    without = part("multiplicative", drift_factor=1.0)
    assert not without.needs and shaped(without, made) == pytest.approx([1.0, 0.75])


def test_sweet_spot_amplifies_the_inner_tiers() -> None:
    answers = [reply("three"), reply("thre"), reply("tea"), "no reply"]
    made, _ = rollouts({"accuracy": [1.0, 0.0, 0.0, 0.0]}, group_size=4, answers=answers)
    # likeness to "three": 1; one edit of 5 letters, 0.8; h and r deleted and e replaced, 3 of 5, 0.4; none
    # tiers of four: 4, 3, 1, 0; credit 0.5 (k / 4)^2
    assert shaped(part("sweet_spot"), made) == pytest.approx([1.5, 0.28125, 0.03125, 0.0])
    assert shaped(part("sweet_spot", tiers=1), made) == [1.5, 0.0, 0.0, 0.0]


def test_edits_are_the_least_and_a_questions_best_accepted_answer_counts() -> None:
    # three edits of seven letters, three of five, three of three, none
    pairs = [("kitten", "sitting"), ("three", "tea"), ("", "abc"), ("same", "same")]
    assert [whole_likeness(*pair, ()) for pair in pairs] == pytest.approx([4 / 7, 2 / 5, 0, 1])
    asked = Question("How many?", ("twelve", "12"))
    assert whole_likeness("12", asked, ()) == 1.0
    assert whole_likeness("13", asked, ()) == 0.5


BOXES = (Box("cat", (0, 0, 100, 100)), Box("dog", (200, 0, 300, 100)))


def test_boxes_are_near_by_their_matched_iou_and_only_those_that_the_prompt_lists() -> None:
    answer = '[{"category": "cat", "bbox": [0, 0, 100, 50]}]'  # IoU 0.5 with the cat
    assert whole_likeness(answer, BOXES, ("cat", "dog")) == pytest.approx(0.25)  # over two boxes
    assert whole_likeness(answer, BOXES, ("cat",)) == pytest.approx(0.5)
    assert whole_likeness("nonsense", BOXES, ("cat",)) == 0.0


def test_matching_credits_a_box_for_its_category_and_its_overlap() -> None:
    # the dog is in the wrong place: half for its category; the cat overlaps by half: 0.5 + 0.25; sum over two items
    answer = '[{"category": "dog", "bbox": [0, 0, 100, 100]}, {"category": "Cat", "bbox": [0, 0, 100, 50]}]'
    assert item_likeness(answer, BOXES, ("cat", "dog")) == pytest.approx((0.5 + 0.75) / 2)
    assert item_likeness("[]", BOXES, ("cat", "dog")) == 0.0
    assert item_likeness("[]", BOXES, ("bird",)) == 1.0  # nothing to be found, nothing claimed


def test_matching_is_one_to_one_and_the_best() -> None:
    # big-dig: one edit of three; one dog matches the dog; the second dog is left over: (2/3 + 1) / 3
    assert item_likeness("dog dog dig", "big dog", ()) == pytest.approx((2 / 3 + 1) / 3)


def test_matching_adds_its_share_of_the_weight() -> None:
    made, _ = rollouts({"accuracy": [0.0]}, group_size=1, answers=[reply("golden_cat")], target="golden dog")
    # golden matches in full; cat-dog: no letter stays: (1 + 0) / 2, times 0.5
    assert shaped(part("matching"), made) == [0.25]


def test_majority_puts_agreement_in_the_place_of_the_label() -> None:
    answers = [reply("eight"), reply("Eight"), reply("three"), "none", "none", reply("three"), reply("x"), reply("x")]
    parts = {"accuracy": [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0], "format": [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]}
    made, logged = rollouts(parts, group_size=4, answers=answers)
    # majorities: eight (2 of 3 votes), x (2 of 3); reward = format + agreement, whatever the label
    assert shaped(part("majority"), made) == [2.0, 2.0, 1.0, 0.0, 0.0, 1.0, 2.0, 2.0]
    assert logged["majority_share"] == 0.5
    # a tie goes to the first answer, and no votes earn nothing
    parts = {"accuracy": [0.0] * 4, "format": [0.0] * 4}
    made, _ = rollouts(parts, group_size=2, answers=[reply("a"), reply("b"), "none", "none"])
    assert shaped(part("majority"), made) == [1.0, 0.0, 0.0, 0.0]
    # the first tasks keep their labels
    made, _ = rollouts(MIXED, group_size=2, task=1, answers=[reply("a"), reply("a")])
    assert shaped(part("majority"), made) == [2.0, 1.0]
    assert shaped(part("majority", labelled_tasks=0), made) == [2.0, 2.0]


@pytest.mark.parametrize("method", SHAPERS, ids=lambda method: method.name)
def test_every_shaper_joins_reinforcement_only_and_keeps_the_shape_and_the_given_rewards(method: type[Method]) -> None:
    build_method("grpo", METHODS["grpo"].Config(), [(method.name, method.Config())])
    with pytest.raises(UserError, match="joins reinforcement methods"):
        build_method("sft", METHODS["sft"].Config(), [(method.name, method.Config())])
    answers = [reply("three"), reply("eight"), "none", reply("three")]
    parts = {"accuracy": [1.0, 0.0, 0.0, 1.0], "format": [1.0, 1.0, 0.0, 1.0]}
    made, _ = rollouts(parts, group_size=2, drifts=[0.0, 0.1, 0.2, 0.3], answers=answers)
    states = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]], [[2.0, 0.5]]])
    views = HandMade(torch.tensor([[0], [1], [1], [0]]), states, states.flip(0), after=(0.5, 0.1, 0.2, 0.3))
    made = replace(made, views=views)
    given, before = made.task_reward, made.task_reward.clone()
    after = method(method.Config()).shape_rewards(given, made)
    assert after.shape == before.shape and torch.isfinite(after).all() and torch.equal(given, before)


def test_every_file_of_a_part_is_listed() -> None:
    folder = Path(__file__).parents[2] / "methods" / "parts"
    listed = {method.__module__.rpartition(".")[2] for method in METHODS.values() if method.family == "part"}
    assert listed == {path.stem for path in folder.glob("*.py")} - {"__init__", "likeness", "gradient_features"}


# Shapers that look into models.


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
    method = part("latent_retention", sharpness=5.0)
    expected = [1.5, 0.5 * math.exp(-2)]
    assert shaped(method, made) == pytest.approx(expected, abs=1e-6)
    assert logged["latent_drift"] == pytest.approx(0.2)
    assert shaped(method, replace(made, task_index=1)) == [1.0, 0.0]


def test_information_gain_is_the_rise_in_probability() -> None:
    answers = [reply("three"), reply("three"), "no thought"]
    made, _ = rollouts({"accuracy": [1.0, 1.0, 0.0]}, group_size=3, answers=answers)
    made = replace(made, views=HandMade(torch.zeros(3, 1), torch.zeros(3, 1, 2), after=(0.75, 0.05, 0.9)))
    # 0.25 without a thought: gains 0.5 and -0.2, none where there is no thought; half of each
    assert shaped(part("information_gain"), made) == pytest.approx([1.25, 0.9, 0.0], abs=1e-6)


def test_information_gain_needs_prompts_that_ask_for_a_thought(policy: Policy, stream: TaskStream) -> None:
    context = TaskContext(replace(stream.tasks[0], style=prompt_style("suite", think=False)), policy, None, seed=3)
    with pytest.raises(UserError, match=r"stream\.think=true"):
        part("information_gain").before_task(context)


def test_novelty_is_what_the_others_do_not_explain() -> None:
    features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    # the first two point the same way; the weights of two others with equal rewards are a half each
    assert novelty(features, torch.zeros(3), 3).tolist() == pytest.approx([0.5, 0.5, 1.0])
    # repeating the rewarded one counts more: weight e / (e + 1) = 0.731059
    assert novelty(features, torch.tensor([1.0, 0.0, 0.0]), 3).tolist() == pytest.approx([0.5, 0.268941, 1.0], abs=1e-6)


def test_gradient_novelty_is_a_bounded_factor() -> None:
    made, _ = pair()
    # g of the second is -2.7 times that of the first: cosine -1, novelty 0, the least factor, 1 - 0.2
    assert shaped(part("gradient_novelty"), made) == pytest.approx([0.8, 0.0])


@pytest.mark.parametrize(
    ("drifts", "initial", "expected"),
    # equal drifts have no gradient to agree with
    [((0.0, 0.1), 0.5, 0.55), ((0.1, 0.0), 0.5, 0.45), ((0.1, 0.1), 0.5, 0.5), ((0.1, 0.0), 0.02, 0.0)],
)
def test_the_weight_follows_the_agreement_of_the_gradients_within_its_bounds(
    drifts: tuple[float, float], initial: float, expected: float
) -> None:
    made, _ = pair(drifts)
    method, again = (part("adaptive_weight", initial=initial) for _ in range(2))
    # this step is shaped with the weight before it: 0.5 exp(-20 D)
    assert shaped(method, made)[0] == pytest.approx(1 + initial * math.exp(-20 * drifts[0]), abs=1e-6)
    assert method.weight == pytest.approx(expected)
    again.load_state_dict(method.state_dict())
    assert again.weight == method.weight


def test_the_process_model_moves_good_and_bad_rollouts_apart() -> None:
    made, _ = pair()
    method, again = (part("implicit_process", weight=1.0) for _ in range(2))
    first = shaped(method, made)
    # features g h^T have only their first column; their difference is (1, -1), of square 2; the DPO step from M = 0
    # is 0.5 * 0.5 (1, -1) / 2 = (0.125, -0.125): rewards 0.125 * 0.537883 and -0.125 * 1.462117, 0.25 apart
    assert first == pytest.approx([1.067235, -0.182765], abs=1e-6)
    again.load_state_dict(method.state_dict())
    second = shaped(again, made)
    assert second == shaped(method, made)
    assert second[0] - second[1] > first[0] - first[1]  # a second step moves them further


def test_a_first_batch_without_good_and_bad_rollouts_teaches_the_process_model_nothing() -> None:
    made, _ = pair()
    method = part("implicit_process")
    assert shaped(method, replace(made, components={"accuracy": torch.ones(2)})) == [1.0, 1.0]
    assert method.state_dict() == {}


def step_of(policy: Policy, stream: TaskStream, folder: Path, accumulation: int = 1) -> Rollouts:
    """The rollouts that a step hands to the hooks."""
    method = METHODS["rapo"](METHODS["rapo"].Config(kl=0.0))
    kept: list[Rollouts] = []
    shape = method.shape_rewards
    method.shape_rewards = lambda rewards, step: kept.append(step) or shape(rewards, step)  # type: ignore
    scored(trainer_of(method, policy, stream.tasks[1], folder, policy.snapshot(), accumulation=accumulation))
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
