"""RaPO: advantages and the running scale by hand (equations 5 and 6 of arXiv 2605.09640), its hooks, and its parts."""

import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clrft.config.run_config import build_config
from methods import METHODS, build_method
from methods.advantage import RunningScale, centred, group_advantages, guarded, scaled_advantages, zero_variance_share
from methods.algorithms.rapo import Rapo, RapoConfig, RapoRetention, RapoRetentionConfig, RapoScale, RapoScaleConfig
from methods.base import AnchorRule, Method, Rollouts
from task_streams.types import TaskStream
from tests.methods import hand_made
from tests.methods.two_tasks import TwoTasks, assert_other_weights, assert_same_weights, two_tasks

G = 2


def test_the_running_scale_moves_by_one_thousandth() -> None:
    scale = RunningScale().observed(0.5, 0.999)
    assert scale.value == 0.5  # the first batch initialises it
    assert scale.observed(1.0, 0.999).value == pytest.approx(0.5005, abs=1e-12)  # 0.999 * 0.5 + 0.001 * 1.0
    # carried over: 0.999 * 0.5005 = 0.4999995
    assert RunningScale().at(0.5005).observed(0.0, 0.999).value == pytest.approx(0.4999995, abs=1e-12)
    # the floor bounds it from below
    assert RunningScale(0.001, floor=0.001).observed(0.0, 0.5).value == 0.001
    # a batch of equal rewards does not initialise it
    scale = RunningScale(init_above=0.01).observed(0.0, 0.999).observed(0.01, 0.999)
    assert scale.value is None
    assert scale.observed(0.02, 0.999).value == 0.02


def test_a_warm_start_is_the_plain_mean_of_the_first_batches_that_vary() -> None:
    scale = RunningScale(init_batches=3)
    for deviation, expected in (
        (0.6, 0.6),
        (0.2, 0.4),  # (0.6 + 0.2) / 2
        (0.01, 0.4),  # not above 0.01: not one of the three
        (0.1, 0.3),  # (0.6 + 0.2 + 0.1) / 3
        (0.0, 0.27),  # the momentum has taken over: 0.9 * 0.3
        (0.5, 0.293),  # 0.9 * 0.27 + 0.1 * 0.5
    ):
        scale = scale.observed(deviation, 0.9)
        assert scale.value == pytest.approx(expected, abs=1e-12)
    # one of one batch is that batch to the bit
    scale = RunningScale(init_batches=1).observed(0.1, 0.999)
    assert scale.value == 0.1
    assert scale.observed(0.3, 0.999).value == 0.999 * 0.1 + (1 - 0.999) * 0.3
    # a value that was set ends it: 0.9 * 0.5 + 0.1 * 1.0
    assert RunningScale(init_batches=4).observed(0.2, 0.9).at(0.5).observed(1.0, 0.9).value == pytest.approx(0.55)


def test_advantages_are_centred_in_their_group_and_divided_by_the_scale_or_the_sample_deviation() -> None:
    # mean 1.5: +0.5, +0.5, -0.5, -0.5 over 0.5
    assert scaled_advantages(torch.tensor([2.0, 2.0, 1.0, 1.0]), 4, 0.5, 0.0).tolist() == [1.0, 1.0, -1.0, -1.0]
    assert centred(torch.tensor([2.0, 0.0, 5.0, 7.0]), 2).tolist() == [1.0, -1.0, -1.0, 1.0]
    # [2, 0]: mean 1, sample deviation sqrt(((1)^2 + (-1)^2) / 1) = sqrt 2
    expected = 1 / (2**0.5 + 1e-4)
    assert group_advantages(torch.tensor([2.0, 0.0]), 2).tolist() == pytest.approx([expected, -expected])
    equal = torch.full((4,), 1.25)
    assert group_advantages(equal, 4).tolist() == scaled_advantages(equal, 4, 0.5, 0.0).tolist() == [0.0] * 4
    assert zero_variance_share(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2) == 0.5  # of two groups


def test_the_guard_replaces_only_the_wild_group() -> None:
    rewards = torch.tensor([2.0, 0.0, 1.1, 1.0])
    calm = guarded(torch.tensor([100.0, -100.0, 5.0, -5.0]), rewards, 2, 5.0, 1e-6)
    assert calm.tolist() == [*group_advantages(rewards[:2], 2, 1e-6).tolist(), 5.0, -5.0]


def rollouts(task: int, rewards: list[float], drift: float | None = None) -> tuple[Rollouts, dict[str, float]]:
    """One rollout step whose completions have one token and one drift each."""
    drifts = None if drift is None else [drift] * len(rewards)
    components = {"accuracy": rewards, "format": [1.0] * len(rewards)}
    return hand_made.rollouts(components, group_size=G, task=task, drifts=drifts)


def step(method: Method, task: int, rewards: list[float], drift: float | None = None) -> torch.Tensor:
    made, _ = rollouts(task, rewards, drift)
    return method.normalize_advantages(method.shape_rewards(made.task_reward, made), made)


def test_the_scale_is_carried_over_the_boundary_and_through_saved_state() -> None:
    first, second = (Rapo(RapoConfig(retention=False)) for _ in range(2))
    step(first, 1, [1.0, 0.0, 1.0, 0.0])
    # deviation of [2, 1, 2, 1] with n - 1: sqrt(4 * 0.25 / 3) = 0.57735
    assert first.scale.value == pytest.approx(0.57735, abs=1e-5)
    second.load_state_dict(first.state_dict())
    advantages = step(second, 2, [1.0, 1.0, 1.0, 0.0])
    # deviation of [2, 2, 2, 1] is 0.5; 0.999 * 0.57735 + 0.001 * 0.5 = 0.577273; half over it
    assert second.scale.value == pytest.approx(0.577273, abs=1e-6)
    assert advantages.tolist() == pytest.approx([0.0, 0.0, 0.5 / 0.577273, -0.5 / 0.577273], abs=1e-5)


def test_a_warm_start_goes_on_after_a_restart_in_its_middle() -> None:
    first, second = (Rapo(RapoConfig(retention=False, scale_init_batches=3, scale_momentum=0.9)) for _ in range(2))
    step(first, 1, [1.0, 0.0, 1.0, 0.0])  # deviation sqrt(1/3) = 0.57735
    step(first, 1, [1.0, 1.0, 1.0, 0.0])  # deviation 0.5
    assert first.scale.value == pytest.approx((0.57735 + 0.5) / 2, abs=1e-5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for method in (first, second):
        step(method, 2, [1.0, 1.0, 1.0, 0.0])
        assert method.scale.value == pytest.approx((0.57735 + 0.5 + 0.5) / 3, abs=1e-5)
        step(method, 2, [1.0, 1.0, 1.0, 1.0])  # deviation 0, and the warm start is over: 0.9 * 0.525783
        assert method.scale.value == pytest.approx(0.473205, abs=1e-5)
    assert second.state_dict() == first.state_dict()


def test_until_the_scale_is_initialised_groups_use_their_own_deviation() -> None:
    method = Rapo(RapoConfig(retention=False, scale_init_above=10.0))
    advantages = step(method, 1, [1.0, 0.0, 1.0, 1.0])
    assert method.scale.value is None
    assert torch.equal(advantages, group_advantages(torch.tensor([2.0, 1.0, 2.0, 2.0]), G))


def test_a_state_of_another_momentum_is_refused() -> None:
    first = Rapo(RapoConfig(scale_momentum=0.9))
    step(first, 1, [1.0, 0.0])
    with pytest.raises(ValueError, match=r"made with scale_momentum=0.9, expected 0.999"):
        Rapo(RapoConfig()).load_state_dict(first.state_dict())
    before = {name: value for name, value in first.state_dict().items() if name != "scale_momentum"}
    later = Rapo(RapoConfig())
    later.load_state_dict(before)  # a version that did not write it
    assert later.scale.value == first.scale.value


def test_the_anchor_follows_the_settings() -> None:
    assert Rapo(RapoConfig()).anchor_rule == AnchorRule("previous")
    assert str(RapoRetention(RapoRetentionConfig(anchor="first")).anchor_rule) == "first"
    rule = Rapo(RapoConfig(anchor="average", anchor_momentum=0.9)).anchor_rule
    assert (rule.kind, rule.momentum) == ("average", 0.9)
    assert Rapo(RapoConfig(anchor="base")).describe()["anchor"] == "base"
    assert "anchor" not in RapoScale(RapoScaleConfig(anchor="base")).describe()  # it needs none


def test_released_code_starts_the_scale_in_task_two_from_the_last_batch() -> None:
    method = Rapo(RapoConfig(preset="released_code", retention=False))
    advantages = step(method, 1, [1.0, 0.0, 1.0, 0.0])
    assert torch.equal(advantages, group_advantages(torch.tensor([2.0, 1.0, 2.0, 1.0]), G, 1e-6))
    step(method, 1, [1.0, 1.0, 1.0, 0.0])  # deviation 0.5
    method.before_task(None)  # type: ignore[arg-type]
    assert method.scale.value == pytest.approx(0.5)
    for rewards, expected in (
        ([1.0, 0.0, 1.0, 0.0], 0.507735),  # a task's first step has momentum 0.9: 0.9 * 0.5 + 0.1 * 0.57735
        ([1.0, 1.0, 1.0, 0.0], 0.507344),  # the second 0.9495: 0.9495 * 0.507735 + 0.0505 * 0.5
        ([1.0, 0.0, 1.0, 0.0], 0.507414),  # from the third on 0.999: 0.999 * 0.507344 + 0.001 * 0.57735
    ):
        step(method, 2, rewards)
        assert method.scale.value == pytest.approx(expected, abs=1e-6)


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


def test_the_preset_of_the_released_code_is_its_normaliser_on_200_random_streams() -> None:
    generator, wild = torch.Generator().manual_seed(3), 0
    for number in range(200):
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
                wild += index > 1 and apart / method.scale.value > 5
    assert wild > 20  # the guard was asked for


def test_the_released_code_has_a_token_mean_and_a_dual_clip_and_a_named_value_wins_over_the_preset() -> None:
    released = {"preset": "released_code"}
    for settings, expected in (
        ({}, {"loss_type": "grpo"}),
        (released, {"loss_type": "dapo", "epsilon_high": 0.3, "delta": 3.0}),
        ({**released, "token_mean": False, "clip_high": 0.0, "dual_clip": 0.0}, {"loss_type": "grpo"}),
    ):
        assert Rapo(RapoConfig(**settings)).loss_arguments == expected  # type: ignore[arg-type]
    assert Rapo(RapoConfig(preset="released_code", guard=0.0)).rule["guard"] == 0.0
    assert Rapo(RapoConfig(preset="released_code")).rule["guard"] == 5.0


def test_the_single_components_are_rapo_with_the_other_off() -> None:
    retention, scale = RapoRetention(RapoRetentionConfig()), RapoScale(RapoScaleConfig())
    assert (retention.needs, scale.needs) == ({"anchor", "reference"}, {"reference"})
    assert torch.equal(step(retention, 1, [1.0, 0.0]), group_advantages(torch.tensor([2.0, 1.0]), G))
    made, _ = rollouts(2, [1.0, 0.0])
    assert scale.shape_rewards(made.task_reward, made).tolist() == [2.0, 1.0]


# The parts: ``rapo`` is ``grpo+retention+ctan`` to the last bit, and they join other group-rollout learners.


_runs: dict[tuple[str, int], TwoTasks] = {}


def maker(words: str, updates_per_batch: int = 1) -> Callable[[], Method]:
    def make() -> Method:
        learner, *parts = words.split("+")
        config = METHODS[learner].Config(group_size=4, updates_per_batch=updates_per_batch)
        return build_method(learner, config, [(part, METHODS[part].Config()) for part in parts])

    return make


def learned(words: str, stream: TaskStream, folder: Path, updates_per_batch: int = 1) -> TwoTasks:
    """A run, which several tests look at."""
    key = words, updates_per_batch
    if key not in _runs:
        _runs[key] = two_tasks(maker(*key), stream, folder / words)
    return _runs[key]


@pytest.mark.parametrize(
    ("name", "parts"), [("rapo", "grpo+retention+ctan"), ("rapo_rr", "grpo+retention"), ("rapo_ctan", "grpo+ctan")]
)
def test_rapo_is_grpo_with_its_parts_to_the_last_bit(name: str, parts: str, stream: TaskStream, tmp_path: Path) -> None:
    whole, composed = learned(name, stream, tmp_path), learned(parts, stream, tmp_path)
    assert_same_weights(whole, composed)
    for figure in ("drift", "retention_reward", "running_scale"):
        for task in (1, 2):
            assert whole.logged(task, figure) == composed.logged(task, figure)
    assert (whole.logged(2, "drift")[0] is None) == ("retention" not in parts)


def test_a_composition_goes_on_from_files_with_its_scale(stream: TaskStream, tmp_path: Path) -> None:
    words = "grpo+retention+ctan"
    whole = learned(words, stream, tmp_path)
    assert_same_weights(whole, two_tasks(maker(words), stream, tmp_path / "parts", stop=True))
    assert whole.method.state_dict()["ctan.scale"] > 0


@pytest.mark.parametrize("words", ["sapo+retention+ctan", "gspo+cpo+retention", "dapo+ctan"])
def test_the_parts_join_other_learners(words: str, stream: TaskStream, tmp_path: Path) -> None:
    """Two updates on a batch, so that ratios leave 1 and each learner's own loss acts."""
    run = learned(words, stream, tmp_path, updates_per_batch=2)
    assert_other_weights(run, learned(words.partition("+")[0], stream, tmp_path, updates_per_batch=2))
    assert ("retention" in words) == (run.logged(2, "retention_reward")[0] is not None)
    assert ("ctan" in words) == (run.logged(2, "running_scale")[0] is not None)


def test_table_10_is_one_word() -> None:
    config = build_config("digits_cil", "sapo+retention+ctan")
    assert (config.method_name, [name for name, _ in config.parts]) == ("sapo", ["retention", "ctan"])
    assert config.cell == "digits_cil-sapo+retention+ctan-1993"
