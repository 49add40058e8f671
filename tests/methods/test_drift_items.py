"""Figures of a drift probe, with values derived by hand, and exact KL against torch's distributions."""

import math

import pytest
import torch

from methods.drift.items import Against, Probe, drawn_items, exact_kl, group_rows, summary
from methods.drift.log_ratio import drift, retention_reward
from task_streams.types import Example, TaskStream


def test_kl_is_that_of_torchs_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 7, generator=generator).log_softmax(-1) for _ in range(2))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=first), torch.distributions.Categorical(logits=second)
    )
    assert torch.allclose(exact_kl(first, second), expected, atol=1e-6)
    assert exact_kl(first, first).tolist() == [0.0] * 5
    # by hand, where a token is impossible: p = (1/2, 1/2, 0), q = (1/4, 1/2, 1/4): 1/2 log 2 + 1/2 log 1 + 0
    first, second = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.5, 0.25]).log()
    assert exact_kl(first, second).item() == pytest.approx(0.5 * math.log(2))


def probe() -> Probe:
    """Three groups of eight: all right, all wrong in the same way, and mixed."""
    rewards = torch.tensor([[2.0] * 8, [1.0] * 8, [2.0] * 4 + [1.0] * 4]).flatten()
    # drift in the groups: half 0.1 and half 0.3; half 0 and half 0.4; anything
    drifts = torch.tensor([[0.1] * 4 + [0.3] * 4, [0.0] * 4 + [0.4] * 4, [0.0] * 8]).flatten()
    tokens = torch.tensor([0.2, 0.4])
    return Probe(("a", "b", "c"), rewards, 2.0, {"prev": Against(drifts, tokens, 2 * tokens)})


def test_figures_by_hand() -> None:
    figures = summary(probe(), {"base": "not asked here"})
    assert figures["kl_prev_reverse"] == pytest.approx(0.3)
    assert figures["kl_prev_forward"] == pytest.approx(0.6)
    # (0.8 + 2.4/2 ... ) sums: 4*0.1 + 4*0.3 + 4*0.4 = 3.2 over 24 rollouts
    assert figures["drift_prev"] == pytest.approx(3.2 / 24)
    # e^-2, e^-6, 1, e^-8 four times each, and 1 eight times
    expected = 4 * (math.exp(-2) + math.exp(-6) + 1 + math.exp(-8)) + 8
    assert figures["retention_prev"] == pytest.approx(expected / 24)
    # standard deviations (n - 1 = 7) of halves at a distance d: sqrt(8 (d/2)^2 / 7) = d sqrt(2/7): d = 0.2 and 0.4
    assert figures["spread_prev"] == pytest.approx(0.3 * math.sqrt(2 / 7))
    assert figures["spread_prev_correct"] == pytest.approx(0.2 * math.sqrt(2 / 7))
    assert (figures["spread_prev_groups"], figures["spread_prev_correct_groups"]) == (2, 1)
    assert figures["reward"] == pytest.approx((16 + 8 + 12) / 24)
    assert (figures["prompts"], figures["rollouts"], figures["sharpness"]) == (3, 8, 20.0)


def test_what_is_undefined_is_none_with_its_reason() -> None:
    figures = summary(probe(), {"base": "not asked here"})
    missing = {name for name, value in figures.items() if value is None}
    assert missing == {"kl_base_reverse", "kl_base_forward", "drift_base", "retention_base"}
    assert figures["undefined"] == dict.fromkeys(sorted(missing), "not asked here")
    alone = summary(Probe(("a",), torch.ones(8), 2.0, {}), {"base": "no base", "prev": "first task"})
    assert alone["spread_prev"] is None and alone["spread_prev_groups"] is None
    assert alone["undefined"]["spread_prev_correct"] == "first task"
    wrong = Probe(("a",), torch.ones(8), 2.0, {"prev": Against(torch.zeros(8), torch.zeros(2), torch.zeros(2))})
    found = summary(wrong, {"base": "no base"})
    assert (found["spread_prev"], found["spread_prev_correct"], found["spread_prev_correct_groups"]) == (0.0, None, 0)
    assert "right" in found["undefined"]["spread_prev_correct"]


def test_rows_hold_every_rollout() -> None:
    rows = group_rows(probe())
    assert [row["key"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["rewards"] == [2.0] * 8
    assert rows[1]["drift_prev"] == pytest.approx([0.0] * 4 + [0.4] * 4)
    assert all(row["drift_base"] is None for row in rows)


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
