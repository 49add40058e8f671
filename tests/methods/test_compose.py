"""Methods together: order, sums, own states, the report of shaped rewards; what cannot go together is refused."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from methods import METHODS, build_method
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.base import AnchorRule, LossContext, Method, Rollouts
from methods.compose import Composite, composition_problems, reranked_share, shaped_rewards
from methods.guard import made_method
from methods.parts.l2 import L2, L2Config
from methods.parts.par import Par, ParConfig
from task_streams.errors import UserError
from tests.methods.hand_made import rollouts


def made(*names: str) -> Method:
    first, *parts = names
    return build_method(first, METHODS[first].Config(), [(name, METHODS[name].Config()) for name in parts])


class Affine(Method):
    """Rewards times ``factor``, plus one."""

    name = "affine"
    family = "part"
    Config = L2Config
    factor: ClassVar[float] = 2.0

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        return self.factor * rewards + 1

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        return {"affine": torch.tensor(1.0)}

    def state_dict(self) -> dict[str, Any]:
        return {"x.y": 1}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loaded = dict(state)


class Other(Affine):
    name = "other"
    factor = 10.0


def composite(*kinds: type[Method]) -> Composite:
    return Composite(made("grpo"), [made_method(kind, kind.Config()) for kind in kinds])


@pytest.mark.parametrize(
    ("kinds", "expected"),  # 10 (2 r + 1) + 1, and 2 (10 r + 1) + 1
    [((Affine, Other), [11.0, 31.0]), ((Other, Affine), [3.0, 23.0])],
)
def test_rewards_go_through_the_shapers_in_the_order_of_the_list(
    kinds: tuple[type[Method], ...], expected: list[float]
) -> None:
    made, _ = rollouts({"accuracy": [0.0, 1.0]}, group_size=2)
    assert composite(*kinds).shape_rewards(made.task_reward, made).tolist() == expected


def test_the_needs_are_those_of_all_and_the_family_is_the_learners() -> None:
    together = made("grpo", "ewc", "replay")
    assert together.needs == {"reference", "fisher", "replay"}
    assert (together.name, together.family) == ("grpo+ewc+replay", "reinforcement")
    assert together.replay == METHODS["replay"](METHODS["replay"].Config()).replay


def test_each_gets_its_own_state_back_and_a_strange_one_is_refused() -> None:
    together = composite(Affine, Other)
    assert together.state_dict() == {"affine.x.y": 1, "other.x.y": 1}
    together.load_state_dict({"affine.x.y": 5, "other.x.y": 6})
    assert [part.inner.loaded for part in together.parts] == [{"x.y": 5}, {"x.y": 6}]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"no state nobody\.x"):
        together.load_state_dict({"nobody.x": 1})


def test_two_terms_of_one_name_are_refused_with_the_file() -> None:
    context = LossContext(torch.nn.Linear(1, 1), {}, 1, None, log=lambda name, value: None)
    with pytest.raises(UserError, match=r"method 'other' \(.*test_compose.*\), loss_terms: its term 'affine'"):
        composite(Affine, Other).loss_terms(context)


@pytest.mark.parametrize(
    ("learner", "parts", "reason"),
    [
        ("ewc", ["l2"], "'ewc' is a part"),
        ("grpo", ["sft"], "'sft' learns by itself"),
        ("zero_shot", ["ewc"], "'zero_shot' is frozen"),
        ("sft", ["par"], "part 'par' joins reinforcement methods; 'sft' is supervised"),
        ("grpo", ["ewc", "ewc"], "'ewc' is listed more than once"),
        ("grpo", ["derpp"], "part 'derpp' joins supervised methods; 'grpo' is reinforcement."),
        ("grpo", ["lwf"], "part 'lwf' joins supervised methods; 'grpo' is reinforcement."),
        ("sft", ["replay", "derpp"], "replay and derpp both keep a memory; expected one of them."),
    ],
)
def test_what_cannot_go_together_is_refused(learner: str, parts: list[str], reason: str) -> None:
    (problem,) = composition_problems(METHODS[learner], [METHODS[part] for part in parts])
    assert reason in problem


def with_anchor(name: str, rule: AnchorRule) -> type[Method]:
    needs = property(lambda self: frozenset({"anchor"}))
    made = {"name": name, "family": "part", "Config": L2Config, "needs": needs, "anchor_rule": property(lambda _: rule)}
    return type(name.title(), (Method,), made)


def test_members_that_need_an_anchor_agree_on_which() -> None:
    average, other = (with_anchor(name, AnchorRule("average", 0.5)) for name in ("one", "two"))
    assert composite(average, other).anchor_rule == AnchorRule("average", 0.5)
    assert composite(L2).anchor_rule == AnchorRule()
    slower = with_anchor("slower", AnchorRule("average", 0.9))
    with pytest.raises(UserError, match=r"'one' average \(momentum 0.5\) and 'slower' average \(momentum 0.9\)"):
        composite(average, slower)
    rapo = build_method("rapo", METHODS["rapo"].Config(anchor="first"))
    with pytest.raises(UserError, match="the anchor of 'rapo' first and 'gated_retention' previous; expected the same"):
        Composite(rapo, [build_method("gated_retention", METHODS["gated_retention"].Config())])
    kl = made("anchored_kl")  # its KL term holds to the same anchor
    with pytest.raises(UserError, match="'anchored_kl' previous and 'one' average"):
        Composite(kl, [made_method(average, L2Config())])


def test_a_rule_that_no_runner_knows_is_refused_with_the_file() -> None:
    wrong = with_anchor("wrong", "first")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"'wrong' \(.*\), anchor_rule: got 'first', expected an AnchorRule"):
        made_method(wrong, L2Config())
    with pytest.raises(ValueError, match=r"unknown anchor 'frist'\. Did you mean 'first'"):
        AnchorRule("frist")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"momentum: got 1\.0"):
        AnchorRule("average", 1.0)


def test_parts_that_look_back_cannot_join_a_joint_method() -> None:
    with pytest.raises(UserError, match="part 'ewc' needs fisher of earlier tasks; 'joint_sft' learns all tasks"):
        made("joint_sft", "ewc")
    assert isinstance(Composite(made("joint_grpo"), [L2(L2Config())]), Method)


def test_pairs_that_change_places_are_counted_inside_groups() -> None:
    before, after = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 1.0]), torch.tensor([2.0, 1.0, 3.0, 0.0, 0.5, 2.0])
    # first group: one of three pairs swaps; second: one of three pairs is no tie any more
    assert reranked_share(before, after, 3) == pytest.approx(2 / 6)
    assert reranked_share(before, before + 7.3, 3) == 0.0  # a shift of all


def test_every_shaper_of_a_method_is_reported_by_its_name() -> None:
    step, logged = rollouts({"accuracy": [1.0, 1.0]}, group_size=2, drifts=[0.0, 0.1])
    shaped_rewards(made("grpo", "retention", "par"), step)
    # retention: 0.5 and 0.5 e^-2 = 0.067668, mean 0.283834, and it breaks the one tie; par makes a mean of 0.5 out of
    # a mean of 1.283834 and keeps the order; grpo shapes nothing and is not reported
    report = {name: value for name, value in logged.items() if name.endswith(("_added", "_reranked"))}
    expected = {"retention_added": 0.283834, "retention_reranked": 1, "par_added": 0.5 - 1.283834, "par_reranked": 0}
    assert report == pytest.approx(expected, abs=1e-6)
    # a learner's own shaping is reported too
    step, logged = rollouts({"accuracy": [1.0, 1.0]}, group_size=2, drifts=[0.0, 0.0])
    assert shaped_rewards(Rapo(RapoConfig()), step).tolist() == [1.5, 1.5]
    assert logged["rapo_added"] == 0.5 and logged["rapo_reranked"] == 0.0


def test_unusable_rewards_are_refused_with_the_methods_name() -> None:
    class Broken(Par):
        name = "broken"

        def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
            return rewards / 0 * 0

    step, _ = rollouts({"accuracy": [1.0, 1.0]}, group_size=2)
    with pytest.raises(ValueError, match=r"broken\.shape_rewards returned values that are not finite"):
        shaped_rewards(Broken(ParConfig()), step)
