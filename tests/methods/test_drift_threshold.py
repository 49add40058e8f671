"""The pilot study's hard thresholds on small groups, by hand, and as named methods."""

import pytest

from clrft.config.run_config import build_config
from methods.parts.drift_threshold import DriftThreshold, DriftThresholdConfig
from tests.methods.hand_made import rollouts
from tests.methods.test_shapers import shaped

# All right with drifts 0, 0.1, 0.1, 0.4 (mean 0.15); one wrong; all wrong alike. Full reward is 2.
PARTS = {
    "accuracy": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "format": [1.0] * 12,
}
DRIFTS = [0.0, 0.1, 0.1, 0.4, 0.0, 0.1, 0.1, 0.4, 0.0, 0.1, 0.1, 0.4]
REST = [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("keep", "group"), [("low", [2.0, 2.0, 2.0, 0.0]), ("high", [0.0, 0.0, 0.0, 2.0])])
def test_the_reward_of_one_side_of_the_mean_is_zeroed_in_groups_that_are_all_right(
    keep: str, group: list[float]
) -> None:
    made, logged = rollouts(PARTS, group_size=4, drifts=DRIFTS)
    assert shaped(DriftThreshold(DriftThresholdConfig(keep=keep)), made) == [*group, *REST]
    assert logged["right_groups"] == pytest.approx(1 / 3)
    assert logged["drift"] == pytest.approx(0.15)


RIGHT = {"accuracy": [1.0, 1.0], "format": [1.0, 1.0]}


@pytest.mark.parametrize("keep", ["low", "high"])
def test_equal_drifts_and_the_first_task_leave_the_rewards_and_an_anchor_is_needed(keep: str) -> None:
    method = DriftThreshold(DriftThresholdConfig(keep=keep))
    assert shaped(method, rollouts(RIGHT, group_size=2, drifts=[0.25, 0.25])[0]) == [2.0, 2.0]
    assert shaped(method, rollouts(RIGHT, group_size=2, task=1)[0]) == [2.0, 2.0]
    with pytest.raises(RuntimeError, match="no anchor"):
        shaped(method, rollouts(RIGHT, group_size=2, task=2)[0])


def test_kl_below_zero_is_told_apart_too_and_a_later_task_may_be_the_first_one() -> None:
    # mean log-ratios -1/2 and 0, their mean -1/4; clamped at zero, both would be the same
    made, logged = rollouts(RIGHT, group_size=2, drifts=[-0.5, 0.0])
    assert shaped(DriftThreshold(DriftThresholdConfig(keep="high")), made) == [0.0, 2.0]
    assert logged["drift"] == 0.0  # RaPO's is clamped
    method = DriftThreshold(DriftThresholdConfig(from_task=4))
    assert shaped(method, rollouts(RIGHT, group_size=2, task=3, drifts=[0.1, 0.3])[0]) == [2.0, 2.0]
    assert shaped(method, rollouts(RIGHT, group_size=2, task=4, drifts=[0.1, 0.3])[0]) == [2.0, 0.0]


@pytest.mark.parametrize("keep", ["low", "high"])
def test_both_variants_are_named_methods(keep: str) -> None:
    config = build_config("digits_cil", f"grpo_keep_{keep}_drift")
    assert config.method_name == "grpo"
    assert config.parts == (("drift_threshold", DriftThresholdConfig(keep=keep)),)
    assert config.cell == f"digits_cil-grpo_keep_{keep}_drift-1993"
