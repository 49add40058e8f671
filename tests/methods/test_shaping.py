"""The report of shaped rewards, with values derived by hand."""

import pytest
import torch
from torch import Tensor

from methods import METHODS
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.base import Rollouts
from methods.compose import Composite, reranked_share, shaped_rewards
from methods.parts.par import Par, ParConfig
from methods.parts.retention import RetentionConfig, RetentionShaper
from tests.methods.hand_made import rollouts


def test_pairs_that_change_places_are_counted_inside_groups() -> None:
    before, after = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 1.0]), torch.tensor([2.0, 1.0, 3.0, 0.0, 0.5, 2.0])
    # first group: one of three pairs swaps; second: one of three pairs is no tie any more
    assert reranked_share(before, after, 3) == pytest.approx(2 / 6)
    assert reranked_share(before, before + 7.3, 3) == 0.0  # a shift of all


def test_every_shaper_of_a_method_is_reported_by_its_name() -> None:
    grpo = METHODS["grpo"](METHODS["grpo"].Config())
    method = Composite(grpo, [RetentionShaper(RetentionConfig()), Par(ParConfig())])
    made, logged = rollouts({"accuracy": [1.0, 1.0]}, group_size=2, drifts=[0.0, 0.1])
    shaped_rewards(method, made)
    # retention: 0.5 and 0.5 e^-2 = 0.067668, mean 0.283834, and it breaks the one tie; par makes a mean of 0.5 out of
    # a mean of 1.283834 and keeps the order; grpo shapes nothing and is not reported
    assert logged["retention_added"] == pytest.approx(0.283834, abs=1e-6)
    assert logged["retention_reranked"] == 1.0
    assert logged["par_added"] == pytest.approx(0.5 - 1.283834, abs=1e-6)
    assert logged["par_reranked"] == 0.0
    assert not any(name.startswith("grpo") for name in logged)
    # a learner's own shaping is reported too
    made, logged = rollouts({"accuracy": [1.0, 1.0]}, group_size=2, drifts=[0.0, 0.0])
    assert shaped_rewards(Rapo(RapoConfig()), made).tolist() == [1.5, 1.5]
    assert logged["rapo_added"] == 0.5 and logged["rapo_reranked"] == 0.0


def test_unusable_rewards_are_refused_with_the_methods_name() -> None:
    class Broken(Par):
        name = "broken"

        def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
            return rewards / 0 * 0

    made, _ = rollouts({"accuracy": [1.0, 1.0]}, group_size=2)
    with pytest.raises(ValueError, match=r"broken\.shape_rewards returned values that are not finite"):
        shaped_rewards(Broken(ParConfig()), made)
