"""Methods together: order, sums, states of their own; what cannot go together is refused."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from methods import METHODS, build_method
from methods.base import AnchorRule, LossContext, Method, Rollouts
from methods.compose import Composite, composition_problems
from methods.guard import made_method
from methods.parts.l2 import L2, L2Config
from task_streams.errors import UserError


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


def rollouts() -> Rollouts:
    return Rollouts(1, 2, {"a": torch.tensor([0.0, 1.0])}, torch.ones(2, 1), None, None, ("x", "x"), lambda n, v: None)


def test_rewards_go_through_the_shapers_in_the_order_of_the_list() -> None:
    # affine then other: 10 (2 r + 1) + 1; other then affine: 2 (10 r + 1) + 1
    shaped = composite(Affine, Other).shape_rewards(torch.tensor([0.0, 1.0]), rollouts())
    assert shaped.tolist() == [11.0, 31.0]
    shaped = composite(Other, Affine).shape_rewards(torch.tensor([0.0, 1.0]), rollouts())
    assert shaped.tolist() == [3.0, 23.0]


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
