"""A drift probe: its figures by hand, and both ways of measuring it on the embedded model, which change nothing."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
import torch

from clrft.base_model import default_model_path
from eval.judgement import COMPONENTS
from methods.drift.compared_policies import base_of, held, party, saved
from methods.drift.items import Against, Other, Probe, drawn_items, exact_kl, group_rows, summary
from methods.drift.log_ratio import drift, retention_reward
from methods.drift.measure import Asked, measure
from methods.drift.rollouts import Party, SharedPasses, seen
from methods.model.policy import Policy
from methods.model.weights import trained_weights
from task_streams.prompt import request
from task_streams.types import Box, Example, Feed, Kind, Question, Task, TaskStream
from tests.methods.clip_tasks import about_clips


def test_kl_of_a_distribution_from_itself_is_zero_and_a_token_may_be_impossible() -> None:
    # p = (1/2, 1/2, 0), q = (1/4, 1/2, 1/4): 1/2 log 2 + 1/2 log 1 + 0
    first, second = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.5, 0.25]).log()
    assert exact_kl(first, second).item() == pytest.approx(0.5 * math.log(2))
    assert exact_kl(first, first).item() == 0.0


# Three groups of eight: all right, all wrong in the same way, and mixed.
REWARDS = torch.tensor([[2.0] * 8, [1.0] * 8, [2.0] * 4 + [1.0] * 4]).flatten()
# drift in the groups: half 0.1 and half 0.3; half 0 and half 0.4; anything
DRIFTS = torch.tensor([[0.1] * 4 + [0.3] * 4, [0.0] * 4 + [0.4] * 4, [0.0] * 8]).flatten()
TOKENS = torch.tensor([0.2, 0.4])
PROBE = Probe(("a", "b", "c"), REWARDS, 2.0, {"prev": Against(DRIFTS, TOKENS, 2 * TOKENS)})


def test_figures_by_hand() -> None:
    figures = summary(PROBE, {"base": "not asked here"})
    expected = {
        "kl_prev_reverse": 0.3,
        "kl_prev_forward": 0.6,
        "drift_prev": 3.2 / 24,  # 4 * 0.1 + 4 * 0.3 + 4 * 0.4 over 24 rollouts
        # e^-2, e^-6, 1, e^-8 four times each, and 1 eight times
        "retention_prev": (4 * (math.exp(-2) + math.exp(-6) + 1 + math.exp(-8)) + 8) / 24,
        # standard deviations (n - 1 = 7) of halves at a distance d: sqrt(8 (d/2)^2 / 7) = d sqrt(2/7): d = 0.2 and 0.4
        "spread_prev": 0.3 * math.sqrt(2 / 7),
        "spread_prev_correct": 0.2 * math.sqrt(2 / 7),
        **{"spread_prev_groups": 2, "spread_prev_correct_groups": 1},
        "reward": (16 + 8 + 12) / 24,
        **{"prompts": 3, "rollouts": 8, "sharpness": 20.0},
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    missing = {name for name, value in figures.items() if value is None}
    assert missing == {"kl_base_reverse", "kl_base_forward", "drift_base", "retention_base"}
    assert figures["undefined"] == dict.fromkeys(sorted(missing), "not asked here")
    rows = group_rows(PROBE)  # which hold every rollout
    assert [row["key"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["rewards"] == [2.0] * 8
    assert rows[1]["drift_prev"] == pytest.approx([0.0] * 4 + [0.4] * 4)
    assert all(row["drift_base"] is None for row in rows)


def test_what_is_undefined_is_none_with_its_reason() -> None:
    alone = summary(Probe(("a",), torch.ones(8), 2.0, {}), {"base": "no base", "prev": "first task"})
    assert alone["spread_prev"] is None and alone["spread_prev_groups"] is None
    assert alone["undefined"]["spread_prev_correct"] == "first task"
    wrong = Probe(("a",), torch.ones(8), 2.0, {"prev": Against(torch.zeros(8), torch.zeros(2), torch.zeros(2))})
    found = summary(wrong, {"base": "no base"})
    assert (found["spread_prev"], found["spread_prev_correct"], found["spread_prev_correct_groups"]) == (0.0, None, 0)
    assert "right" in found["undefined"]["spread_prev_correct"]


def test_the_draw_is_balanced_seeded_and_bounded(stream: TaskStream) -> None:
    examples = [example for task in stream.tasks for example in task.test]  # 4 of each of 10 classes
    chosen = drawn_items(examples, 15, 42)
    counts = [sum(one.label == label for one in chosen) for label in stream.labels]
    assert sorted(counts) == [1] * 5 + [2] * 5
    assert drawn_items(list(reversed(examples)), 15, 42) == chosen
    assert {one.key for one in drawn_items(examples, 15, 43)} != {one.key for one in chosen}
    assert len(drawn_items(examples, 100, 42)) == 40
    # one smaller than the classes is not of the first names
    examples = [Example(f"item/{i}", f"class {i:03d}", lambda: None, str(i)) for i in range(100)]  # type: ignore[arg-type, return-value]
    chosen = sorted(int(one.key[5:]) for one in drawn_items(examples, 8, 42))
    assert max(chosen) > 50


# Equations 2 and 3 of RaPO (arXiv 2605.09640), by hand.


def test_drift_is_the_mean_log_ratio_over_generated_tokens() -> None:
    actor = torch.tensor([[-1.0, -1.0, -3.0, -7.0]])
    anchor = torch.tensor([[-1.5, -1.2, -2.9, -1.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    # ratios 0.5, 0.2, -0.1; the last column is padding: (0.5 + 0.2 - 0.1) / 3 = 0.2
    drifts = drift(actor, anchor, mask)
    assert drifts.tolist() == pytest.approx([0.2])
    # exp(-20 * 0.2) = exp(-4) = 0.018316
    assert retention_reward(drifts, 20.0).tolist() == pytest.approx([0.018316], abs=1e-6)
    # the clamp comes after the mean: ratios 0.4 and -0.2 have the mean 0.1, clamping each token first would give 0.2
    drifts = drift(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.4, -1.8]]), torch.ones(1, 2))
    assert drifts.tolist() == pytest.approx([0.1])
    # a less confident policy has no drift and full retention
    drifts = drift(torch.tensor([[-3.0, -2.0]]), torch.tensor([[-1.0, -1.0]]), torch.ones(1, 2))
    assert (drifts.tolist(), retention_reward(drifts, 20.0).tolist()) == ([0.0], [1.0])


def test_padding_may_hold_anything_no_gradient_flows_and_a_completion_without_tokens_is_refused() -> None:
    actor, anchor = torch.tensor([[-1.0, math.nan]], requires_grad=True), torch.tensor([[-1.3, -math.inf]])
    drifts = drift(actor, anchor, torch.tensor([[1, 0]]))
    assert drifts.tolist() == pytest.approx([0.3])
    assert not retention_reward(drifts, 20.0).requires_grad
    with pytest.raises(ValueError, match="without tokens"):
        drift(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))


# On the embedded model.

Others = Mapping[Other, Callable[[], AbstractContextManager[Party]]]


def asked(task: Task, share: bool = True, items: int = 3) -> Asked:
    return Asked(drawn_items(task.test, items, 42), task.seen, task.kind, task.style, 24, 7, share)


def moved(policy: Policy, by: float = 0.02) -> Others:
    """Change what is trained; returns the policy as it was before."""
    snapshot = policy.snapshot()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in trained_weights(policy.model):
            weight += by * torch.randn(weight.shape, generator=generator)
    return {"prev": partial(held, policy, snapshot, "prev")}


def base(policy: Policy) -> Callable[[], AbstractContextManager[Party]]:
    return partial(base_of, policy, str(default_model_path()))


def assert_alike(one: Probe, other: Probe, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert one.rewards.tolist() == other.rewards.tolist()
    assert one.against.keys() == other.against.keys()
    for name, mine in one.against.items():
        for field in ("drift", "reverse", "forward"):
            found, expected = getattr(mine, field), getattr(other.against[name], field)
            assert torch.allclose(found, expected, rtol, atol), (name, field)


def test_a_policy_is_no_distance_from_itself(either: Policy, stream: TaskStream) -> None:
    others: Others = {"prev": partial(held, either, either.snapshot(), "prev"), "base": base(either)}
    for share in (True, False):
        found = measure(either, others, asked(stream.tasks[1], share, items=2))
        for one in found.against.values():
            assert one.drift.tolist() == [0.0] * 16
            assert not one.reverse.any() and not one.forward.any()
            assert torch.equal(one.reverse[:1], one.forward[:1])


def test_shared_prompts_and_plain_passes_agree(either: Policy, stream: TaskStream) -> None:
    others: Others = {**moved(either), "base": base(either)}
    shared, plain = (measure(either, others, asked(stream.tasks[2], share)) for share in (True, False))
    assert_alike(shared, plain)
    assert shared.against["prev"].reverse.mean() > 1e-5
    # the snapshot is the base here: two ways to the same policy
    assert shared.against["prev"].drift.tolist() == pytest.approx(shared.against["base"].drift.tolist(), abs=1e-6)


@pytest.mark.parametrize(("feed", "counts"), [("images", (1, 3, 2)), ("video", (4, 2))])
def test_several_images_and_clips_agree_too(
    feed: Feed, counts: tuple[int, ...], policy: Policy, stream: TaskStream
) -> None:
    task = about_clips(stream.tasks[1], feed, counts)
    others = moved(policy)
    assert_alike(measure(policy, others, asked(task)), measure(policy, others, asked(task, share=False)))


def test_numbers_are_those_of_torchs_distributions(policy: Policy, stream: TaskStream) -> None:
    task = stream.tasks[1]
    questions = [request(item, task.seen) for item in task.test[:2]]
    snapshot = policy.snapshot()
    moved(policy)
    passes = SharedPasses(policy.prompts(questions), policy.model.config, tuple(policy.ends))
    me = party(policy, policy.model, "policy")
    with torch.no_grad(), held(policy, snapshot, "prev") as other:
        completions = passes.sample(me, 6, copies=1)
        found = seen(passes, me, other, completions)
        expected, chosen = [], []
        for question, tokens in zip(questions, completions, strict=True):
            inputs, row = policy.encode([question]), torch.tensor([tokens])
            length = inputs["input_ids"].shape[1]
            tails = {"input_ids": row, "attention_mask": row * 0 + 1, "mm_token_type_ids": row * 0}
            inputs.update({name: torch.cat([inputs[name], tail], dim=1) for name, tail in tails.items()})
            both = [
                torch.distributions.Categorical(logits=model(**inputs).logits[0, length - 1 : -1])
                for model in (policy.model, snapshot.model)
            ]
            expected.append(torch.distributions.kl_divergence(*both))
            chosen.append(both[0].log_prob(row[0]))
    assert torch.allclose(found.kl, torch.cat(expected), rtol=1e-3, atol=1e-6)
    assert torch.allclose(found.maker, torch.cat(chosen), atol=1e-5)
    assert found.lengths == tuple(len(one) for one in completions)


def test_weights_on_disk_tell_the_same_as_a_snapshot_and_nothing_is_touched(
    either: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    policy = either
    moved(policy, 0.01)
    policy.save(tmp_path / "weights")
    there = moved(policy)
    policy.model.train()
    before = {name: (weight.clone(), weight.requires_grad) for name, weight in policy.model.named_parameters()}
    state = torch.random.get_rng_state()
    from_disk = measure(policy, {"prev": partial(saved, policy, tmp_path / "weights", "prev")}, asked(stream.tasks[1]))
    assert_alike(from_disk, measure(policy, there, asked(stream.tasks[1])), rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), state) and policy.model.training
    after = dict(policy.model.named_parameters())
    assert after.keys() == before.keys()
    for name, (weight, trained) in before.items():
        assert torch.equal(after[name], weight) and after[name].requires_grad == trained


@pytest.mark.parametrize("kind", ["detection", "question"])
def test_boxes_and_questions_are_asked_and_scored_by_their_own_rules(
    kind: Kind, policy: Policy, stream: TaskStream
) -> None:
    task = stream.tasks[0]
    target = (Box(task.seen[0], (0, 0, 500, 500)),) if kind == "detection" else Question("Which digit?", ("one",))
    items = tuple(dataclasses.replace(item, target=target) for item in task.test)
    other = dataclasses.replace(task, kind=kind, test=items)
    found = measure(policy, {"base": base(policy)}, asked(other, items=2))
    assert found.full == len(COMPONENTS[kind])
    assert ((found.rewards >= 0) & (found.rewards <= found.full)).all() and len(found.rewards) == 16


def test_few_tokens_at_a_time_and_a_prefix_that_cannot_be_shared_change_nothing(
    policy: Policy, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = moved(policy)
    whole = measure(policy, others, asked(stream.tasks[1]))
    vocabulary = policy.model.config.get_text_config().vocab_size
    monkeypatch.setattr("methods.drift.rollouts.LARGEST", 5 * vocabulary)
    assert_alike(measure(policy, others, asked(stream.tasks[1])), whole)
    plain = dataclasses.replace(asked(stream.tasks[1]), share=False, max_new_tokens=3)
    assert summary(measure(policy, others, plain), {"base": "not asked"})["kl_prev_reverse"] is not None
    policy.model.config.model_type = "another"  # whose prefix cannot be shared: the plain path
    monkeypatch.undo()
    assert_alike(measure(policy, others, asked(stream.tasks[1])), whole)
