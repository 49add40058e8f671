"""RaPO's hooks on hand-made rollouts."""

import dataclasses
import json
import math
import statistics

import pytest
import torch

from clrft.config.run_config import build_config
from methods.advantage import centred, group_advantages
from methods.algorithms.rapo import Rapo, RapoConfig, RapoRetention, RapoRetentionConfig, RapoScale, RapoScaleConfig
from methods.base import AnchorRule, Method, Rollouts
from task_streams.errors import UserError
from tests.methods import hand_made

G = 2


def rollouts(task: int, rewards: list[float], drift: float | None = None) -> tuple[Rollouts, dict[str, float]]:
    """One rollout step whose completions have one token and one drift each."""
    drifts = None if drift is None else [drift] * len(rewards)
    components = {"accuracy": rewards, "format": [1.0] * len(rewards)}
    return hand_made.rollouts(components, group_size=G, task=task, drifts=drifts)


def step(method: Method, task: int, rewards: list[float], drift: float | None = None) -> torch.Tensor:
    made, _ = rollouts(task, rewards, drift)
    return method.normalize_advantages(method.shape_rewards(made.task_reward, made), made)


def test_the_weighted_retention_reward_is_added_from_the_second_task_on_and_needs_an_anchor() -> None:
    made, logged = rollouts(1, [1.0, 0.0], drift=0.1)
    assert Rapo(RapoConfig()).shape_rewards(made.task_reward, made).tolist() == [2.0, 1.0]
    assert "drift" not in logged
    made, logged = rollouts(2, [1.0, 0.0], drift=0.1)
    bonus = 0.5 * math.exp(-20 * 0.1)  # lambda exp(-alpha D)
    shaped = Rapo(RapoConfig()).shape_rewards(made.task_reward, made)
    assert shaped.tolist() == pytest.approx([2 + bonus, 1 + bonus], abs=1e-6)
    assert logged == pytest.approx({"drift": 0.1, "retention_reward": math.exp(-2)}, abs=1e-6)
    made, _ = rollouts(2, [1.0, 0.0])
    with pytest.raises(RuntimeError, match="no anchor"):
        Rapo(RapoConfig()).shape_rewards(made.task_reward, made)


def test_the_scale_is_carried_over_the_boundary_and_through_saved_state() -> None:
    first = Rapo(RapoConfig(retention=False))
    step(first, 1, [1.0, 0.0, 1.0, 0.0])
    # deviation of [2, 1, 2, 1] with n - 1: sqrt(4 * 0.25 / 3) = 0.57735
    assert first.ctan.scale.value == pytest.approx(0.57735, abs=1e-5)
    second = Rapo(RapoConfig(retention=False))
    second.load_state_dict(first.state_dict())
    advantages = step(second, 2, [1.0, 1.0, 1.0, 0.0])
    # deviation of [2, 2, 2, 1] is 0.5; 0.999 * 0.57735 + 0.001 * 0.5 = 0.577273; half over it
    assert second.ctan.scale.value == pytest.approx(0.577273, abs=1e-6)
    assert advantages.tolist() == pytest.approx([0.0, 0.0, 0.5 / 0.577273, -0.5 / 0.577273], abs=1e-5)


def test_a_warm_start_goes_on_after_a_restart_in_its_middle() -> None:
    config = RapoConfig(retention=False, scale_init_batches=3, scale_momentum=0.9)
    first = Rapo(config)
    step(first, 1, [1.0, 0.0, 1.0, 0.0])  # deviation sqrt(1/3) = 0.57735
    step(first, 1, [1.0, 1.0, 1.0, 0.0])  # deviation 0.5
    assert first.ctan.scale.value == pytest.approx((0.57735 + 0.5) / 2, abs=1e-5)
    second = Rapo(config)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for method in (first, second):
        step(method, 2, [1.0, 1.0, 1.0, 0.0])
        assert method.ctan.scale.value == pytest.approx((0.57735 + 0.5 + 0.5) / 3, abs=1e-5)
        step(method, 2, [1.0, 1.0, 1.0, 1.0])  # deviation 0, and the warm start is over: 0.9 * 0.525783
        assert method.ctan.scale.value == pytest.approx(0.473205, abs=1e-5)
    assert second.state_dict() == first.state_dict()


def test_the_anchor_follows_the_settings() -> None:
    assert Rapo(RapoConfig()).anchor_rule == AnchorRule("previous")
    assert str(RapoRetention(RapoRetentionConfig(anchor="first")).anchor_rule) == "first"
    rule = Rapo(RapoConfig(anchor="average", anchor_momentum=0.9)).anchor_rule
    assert (rule.kind, rule.momentum) == ("average", 0.9)
    assert Rapo(RapoConfig(anchor="base")).describe()["anchor"] == "base"
    assert "anchor" not in RapoScale(RapoScaleConfig(anchor="base")).describe()  # it needs none


def test_until_the_scale_is_initialised_groups_use_their_own_deviation() -> None:
    method = Rapo(RapoConfig(retention=False, scale_init_above=10.0))
    advantages = step(method, 1, [1.0, 0.0, 1.0, 1.0])
    assert method.ctan.scale.value is None
    assert torch.equal(advantages, group_advantages(torch.tensor([2.0, 1.0, 2.0, 2.0]), G))


def test_released_code_starts_the_scale_in_task_two_from_the_last_batch() -> None:
    method = Rapo(RapoConfig(preset="released_code", retention=False))
    advantages = step(method, 1, [1.0, 0.0, 1.0, 0.0])
    assert torch.equal(advantages, group_advantages(torch.tensor([2.0, 1.0, 2.0, 1.0]), G, 1e-6))
    step(method, 1, [1.0, 1.0, 1.0, 0.0])  # deviation 0.5
    method.before_task(None)  # type: ignore[arg-type]
    assert method.ctan.scale.value == pytest.approx(0.5)
    step(method, 2, [1.0, 0.0, 1.0, 0.0])
    # the first step of a task has momentum 0.9: 0.9 * 0.5 + 0.1 * 0.57735 = 0.507735
    assert method.ctan.scale.value == pytest.approx(0.507735, abs=1e-6)
    step(method, 2, [1.0, 1.0, 1.0, 0.0])
    # the second 0.9495: 0.9495 * 0.507735 + 0.0505 * 0.5 = 0.507344
    assert method.ctan.scale.value == pytest.approx(0.507344, abs=1e-6)
    step(method, 2, [1.0, 0.0, 1.0, 0.0])
    # from the third on 0.999: 0.999 * 0.507344 + 0.001 * 0.57735 = 0.507414
    assert method.ctan.scale.value == pytest.approx(0.507414, abs=1e-6)


def released_advantages(tasks: list[list[list[float]]], group: int) -> list[list[float]]:
    """What the released code's normaliser makes of the rewards of every step of every task, written down from it.

    The first task's groups are divided by their own deviation, and each batch's deviation is remembered. A later task
    begins with the last batch's deviation as the scale, moved with momenta 0.9, 0.9495 and then 0.999; a scale below
    1e-3 counts as 1e-3, and a group with an advantage beyond 5 is divided by its own deviation.
    """
    found, last, scale = [], 0.0, 0.0
    for task, steps in enumerate(tasks, start=1):
        scale = last
        for count, rewards in enumerate(steps):
            last = statistics.stdev(rewards)
            momentum = 0.9 + (0.999 - 0.9) * count / 2 if count < 2 else 0.999
            scale = max(momentum * scale + (1 - momentum) * last, 1e-3)
            advantages = []
            for at in range(0, len(rewards), group):
                own = rewards[at : at + group]
                apart = [reward - statistics.fmean(own) for reward in own]
                by_group = [one / (statistics.stdev(own) + 1e-6) for one in apart]
                by_scale = [one / (scale + 1e-6) for one in apart]
                calm = task > 1 and max(map(abs, by_scale)) <= 5
                advantages += by_scale if calm else by_group
            found.append(advantages)
    return found


def test_the_preset_of_the_released_code_is_its_normaliser_on_random_streams() -> None:
    generator, wild = torch.Generator().manual_seed(3), 0
    for number in range(60):
        method, group = Rapo(RapoConfig(preset="released_code", retention=False)), 4
        spread = (0.0, 0.02, 1.0)[number % 3]  # rewards that are equal, nearly so, and anything
        tasks = []
        for _ in range(4):
            shape = (int(torch.randint(1, 6, (), generator=generator)), 3 * group)
            drawn = torch.randint(0, 3, shape, generator=generator) * (torch.rand(shape, generator=generator) * spread)
            drawn[torch.rand(shape[0], generator=generator) < 0.2] = 0.5  # batches of one reward
            tasks.append(drawn.tolist())
        expected = iter(released_advantages(tasks, group))
        for index, steps in enumerate(tasks, start=1):
            method.before_task(None)  # type: ignore[arg-type]
            for rewards in steps:
                made, _ = rollouts(index, [0.0] * len(rewards))
                made = dataclasses.replace(made, group_size=group)
                found = method.normalize_advantages(torch.tensor(rewards, dtype=torch.float64), made)
                assert found.tolist() == pytest.approx(next(expected), abs=1e-6), (number, index)
                apart = centred(torch.tensor(rewards), group).abs().max().item()
                wild += index > 1 and apart / method.ctan.scale.value > 5
    assert wild > 6  # the guard was asked for


def test_a_state_of_another_momentum_is_refused() -> None:
    first = Rapo(RapoConfig(scale_momentum=0.9))
    step(first, 1, [1.0, 0.0])
    with pytest.raises(ValueError, match=r"made with scale_momentum=0.9, expected 0.999"):
        Rapo(RapoConfig()).load_state_dict(first.state_dict())
    before = {name: value for name, value in first.state_dict().items() if name != "scale_momentum"}
    later = Rapo(RapoConfig())
    later.load_state_dict(before)  # a version that did not write it
    assert later.ctan.scale.value == first.ctan.scale.value


def test_the_released_code_has_a_token_mean_and_a_dual_clip() -> None:
    assert Rapo(RapoConfig()).loss_arguments == {"loss_type": "grpo"}
    released = Rapo(RapoConfig(preset="released_code"))
    assert released.loss_arguments == {"loss_type": "dapo", "epsilon_high": 0.3, "delta": 3.0}
    named = Rapo(RapoConfig(preset="released_code", token_mean=False, clip_high=0.0, dual_clip=0.0))
    assert named.loss_arguments == {"loss_type": "grpo"}


def test_what_rapo_has_cannot_join_it_again() -> None:
    with pytest.raises(UserError, match="part 'retention' is in 'rapo' already"):
        build_config("digits_cil", "rapo+retention")
    with pytest.raises(UserError, match="part 'ctan' is in 'rapo_ctan' already"):
        build_config("digits_cil", "rapo_ctan+ctan")


def test_a_named_value_wins_over_the_preset() -> None:
    assert RapoConfig(preset="released_code", guard=0.0).resolved()["guard"] == 0.0
    assert RapoConfig(preset="released_code").resolved()["guard"] == 5.0


def test_the_single_components_are_rapo_with_the_other_off() -> None:
    retention, scale = RapoRetention(RapoRetentionConfig()), RapoScale(RapoScaleConfig())
    assert retention.needs == {"anchor", "reference"}
    assert scale.needs == {"reference"}
    assert torch.equal(step(retention, 1, [1.0, 0.0]), group_advantages(torch.tensor([2.0, 1.0]), G))
    made, _ = rollouts(2, [1.0, 0.0])
    assert scale.shape_rewards(made.task_reward, made).tolist() == [2.0, 1.0]
