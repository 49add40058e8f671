"""Expected numbers are derived by hand from RaPO's equations 5 and 6 (arXiv 2605.09640)."""

import pytest
import torch

from methods.advantage import RunningScale, centred, group_advantages, guarded, scaled_advantages, zero_variance_share


def test_the_running_scale_moves_by_one_thousandth() -> None:
    scale = RunningScale().observed(0.5, 0.999)
    assert scale.value == 0.5  # the first batch initialises it
    scale = scale.observed(1.0, 0.999)
    assert scale.value == pytest.approx(0.5005, abs=1e-12)  # 0.999 * 0.5 + 0.001 * 1.0
    carried = RunningScale().at(0.5005)
    # 0.999 * 0.5005 = 0.4999995
    assert carried.observed(0.0, 0.999).value == pytest.approx(0.4999995, abs=1e-12)


def test_a_batch_of_equal_rewards_does_not_initialise_the_scale() -> None:
    scale = RunningScale(init_above=0.01).observed(0.0, 0.999).observed(0.01, 0.999)
    assert scale.value is None
    assert scale.observed(0.02, 0.999).value == 0.02


def test_a_warm_start_is_the_plain_mean_of_the_first_batches_that_vary() -> None:
    scale = RunningScale(init_batches=3).observed(0.6, 0.9)
    assert scale.value == 0.6
    scale = scale.observed(0.2, 0.9)
    assert scale.value == pytest.approx(0.4, abs=1e-12)  # (0.6 + 0.2) / 2
    scale = scale.observed(0.01, 0.9)
    assert scale.value == pytest.approx(0.4, abs=1e-12)  # not above 0.01: not one of the three
    scale = scale.observed(0.1, 0.9)
    assert scale.value == pytest.approx(0.3, abs=1e-12)  # (0.6 + 0.2 + 0.1) / 3
    scale = scale.observed(0.0, 0.9)
    assert scale.value == pytest.approx(0.27, abs=1e-12)  # the momentum has taken over: 0.9 * 0.3
    assert scale.observed(0.5, 0.9).value == pytest.approx(0.293, abs=1e-12)  # 0.9 * 0.27 + 0.1 * 0.5
    # one of one batch is that batch to the bit
    scale = RunningScale(init_batches=1).observed(0.1, 0.999)
    assert scale.value == 0.1
    assert scale.observed(0.3, 0.999).value == 0.999 * 0.1 + (1 - 0.999) * 0.3
    # a value that was set ends it: 0.9 * 0.5 + 0.1 * 1.0
    assert RunningScale(init_batches=4).observed(0.2, 0.9).at(0.5).observed(1.0, 0.9).value == pytest.approx(0.55)


def test_the_floor_bounds_the_scale_from_below() -> None:
    scale = RunningScale(0.001, floor=0.001).observed(0.0, 0.5)
    assert scale.value == 0.001


def test_scaled_advantages_divide_the_centred_rewards() -> None:
    # mean 1.5: +0.5, +0.5, -0.5, -0.5 over 0.5
    rewards = torch.tensor([2.0, 2.0, 1.0, 1.0])
    assert scaled_advantages(rewards, 4, 0.5, 0.0).tolist() == [1.0, 1.0, -1.0, -1.0]
    # groups are centred on their own mean
    rewards = torch.tensor([2.0, 0.0, 5.0, 7.0])
    assert centred(rewards, 2).tolist() == [1.0, -1.0, -1.0, 1.0]


def test_group_advantages_use_the_sample_deviation() -> None:
    # [2, 0]: mean 1, sample deviation sqrt(((1)^2 + (-1)^2) / 1) = sqrt 2
    expected = 1 / (2**0.5 + 1e-4)
    assert group_advantages(torch.tensor([2.0, 0.0]), 2).tolist() == pytest.approx([expected, -expected])
    rewards = torch.full((4,), 1.25)  # equal ones give zeros
    assert group_advantages(rewards, 4).tolist() == [0.0] * 4
    assert scaled_advantages(rewards, 4, 0.5, 0.0).tolist() == [0.0] * 4


def test_the_guard_replaces_only_the_wild_group() -> None:
    rewards = torch.tensor([2.0, 0.0, 1.1, 1.0])
    advantages = torch.tensor([100.0, -100.0, 5.0, -5.0])
    calm = guarded(advantages, rewards, 2, 5.0, 1e-6)
    assert calm[:2].tolist() == group_advantages(rewards[:2], 2, 1e-6).tolist()
    assert calm[2:].tolist() == [5.0, -5.0]


def test_zero_variance_share_counts_groups() -> None:
    assert zero_variance_share(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2) == 0.5
