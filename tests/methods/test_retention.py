"""Expected numbers are derived by hand from RaPO's equations 2 and 3 (arXiv 2605.09640)."""

import math

import pytest
import torch

from methods.drift.log_ratio import drift, retention_reward


def test_drift_is_the_mean_log_ratio_over_generated_tokens() -> None:
    actor = torch.tensor([[-1.0, -1.0, -3.0, -7.0]])
    anchor = torch.tensor([[-1.5, -1.2, -2.9, -1.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    # ratios 0.5, 0.2, -0.1; the last column is padding: (0.5 + 0.2 - 0.1) / 3 = 0.2
    drifts = drift(actor, anchor, mask)
    assert drifts.tolist() == pytest.approx([0.2])
    # exp(-20 * 0.2) = exp(-4) = 0.018316
    assert retention_reward(drifts, 20.0).tolist() == pytest.approx([0.018316], abs=1e-6)


def test_the_clamp_comes_after_the_mean() -> None:
    # ratios 0.4 and -0.2: mean 0.1. Clamping each token first would give 0.2.
    drifts = drift(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.4, -1.8]]), torch.ones(1, 2))
    assert drifts.tolist() == pytest.approx([0.1])


def test_a_less_confident_policy_has_no_drift_and_full_retention() -> None:
    drifts = drift(torch.tensor([[-3.0, -2.0]]), torch.tensor([[-1.0, -1.0]]), torch.ones(1, 2))
    assert drifts.tolist() == [0.0]
    assert retention_reward(drifts, 20.0).tolist() == [1.0]


def test_padding_may_hold_anything() -> None:
    actor = torch.tensor([[-1.0, math.nan]])
    anchor = torch.tensor([[-1.3, -math.inf]])
    assert drift(actor, anchor, torch.tensor([[1, 0]])).tolist() == pytest.approx([0.3])


def test_no_gradient_flows_through_the_retention_reward() -> None:
    actor = torch.tensor([[-1.0]], requires_grad=True)
    assert not retention_reward(drift(actor, torch.tensor([[-2.0]]), torch.ones(1, 1)), 20.0).requires_grad


def test_a_completion_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        drift(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
