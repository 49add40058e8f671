"""Methods by name and together: plugin files, settings, order, sums, states; what is impossible is refused."""

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from clrft.utils import interrupt
from methods import METHODS, build_method
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.base import AnchorRule, LossContext, Method, Rollouts
from methods.compose import Composite, composition_problems, reranked_share, shaped_rewards
from methods.guard import made_method, members_of
from methods.parts.l2 import L2, L2Config
from methods.registry import known_methods, load_plugin, load_plugins, method_class, plugin_digests
from task_streams.config import typed_section
from task_streams.errors import UserError
from tests.methods.hand_made import rollouts

FILE = """
from dataclasses import dataclass
from methods.base import Method

@dataclass(frozen=True)
class Config:
    pass

class One(Method):
    name = "{name}"
    family = "{family}"
    Config = {config}
"""


def file_of(name: str, family: str = "part", config: str = "Config") -> str:
    return FILE.format(name=name, family=family, config=config)


def test_a_plugins_method_is_known_by_its_name_and_by_the_bytes_that_were_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(file_of("registry_mine"))
    (kind,) = load_plugin(path)
    loaded = hashlib.sha256(path.read_bytes()).hexdigest()
    assert method_class("registry_mine") is kind
    path.write_text("# edited while a sweep runs the old code\n")
    assert plugin_digests([kind]) == {str(path): loaded}
    assert load_plugin(path) == [kind]  # once
    assert [one.name for one in tmp_path.iterdir()] == ["mine.py"]  # nothing is written beside it


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (file_of("a+b"), "One.name is 'a+b', expected small letters"),
        (file_of("bad", family="parts"), "One.family is 'parts', expected one of frozen"),
        (file_of("bad", config="dict"), "expected a frozen dataclass"),
        (file_of("sft"), "has that name; rename it"),
        ("x = 1\n", "holds no method"),
        ("from methods.base import Method\nclass Slip(Method):\n    pass\n", "Slip has no name"),
        ("def f(:\n", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "line 2, fails when it is loaded: SystemExit"),
        ("import no_such_module\n", "line 1, fails when it is loaded: ModuleNotFoundError"),
        ("\nraise KeyboardInterrupt\n", "line 2, fails when it is loaded: KeyboardInterrupt"),
        ("raise GeneratorExit\n", "line 1, fails when it is loaded: GeneratorExit"),
    ],
)
def test_a_file_without_a_usable_method_is_refused_and_nothing_of_it_stays(
    text: str, reason: str, tmp_path: Path
) -> None:
    interrupt.watch()  # Ctrl-C is known by its own
    before, path = known_methods(), tmp_path / "bad.py"
    path.write_text(text)
    for _ in range(2):  # not taken for loaded the second time
        with pytest.raises(UserError) as caught:
            load_plugin(path)
        assert reason in str(caught.value) and str(path) in str(caught.value)
    assert known_methods() == before


def test_what_a_file_changes_of_the_process_as_it_is_loaded_is_put_back_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, path = os.getcwd(), tmp_path / "moves.py"
    path.write_text(f"import os\nos.chdir({str(tmp_path)!r})\n" + file_of("registry_moves").lstrip())
    load_plugin(path)
    assert os.getcwd() == here
    assert f"warning: --plugin: {path} changed the working folder as it was loaded" in capsys.readouterr().err


def test_what_a_run_leaves_in_a_files_module_is_not_there_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "counts.py"
    plain = "from threading import Lock\nSEEN, COUNT, LOCKS = [], 0, [Lock()]\n"  # a lock cannot be copied
    text = file_of("registry_counts").replace("@dataclass", f"{plain}@dataclass", 1)
    hook = """
    def after_step(self, task_index, step):
        global COUNT
        COUNT += 1
        SEEN.append(step)
        self.found = (COUNT, list(SEEN))
"""
    path.write_text(text + hook)
    (kind,) = load_plugin(path)
    for _ in range(2):
        method = made_method(kind, kind.Config())
        method.after_step(1, 7)
        assert method.inner.found == (1, [7])  # type: ignore[attr-defined]


def test_problems_of_several_files_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_plugins([str(tmp_path / "none.py"), str(tmp_path / "neither.py")])
    assert len(caught.value.problems) == 2


def test_an_installed_packages_method_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registry_package.py").write_text(file_of("registry_installed"))
    info = tmp_path / "registry_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: registry_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clrft.methods]\nregistry_installed = registry_package:One\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "registry_package" not in sys.modules
    assert method_class("registry_installed").name == "registry_installed"
    with pytest.raises(UserError, match="Did you mean 'registry_installed'"):
        method_class("registry_instaled")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cpo", {"strength": -1.0, "share": 0.0}),
        ("derpp", {"items": 0, "logit_weight": -1.0, "label_weight": -1.0, "top": 0}),
        ("drift_threshold", {"keep": "middle"}),
        ("ewc", {"strength": -1.0, "decay": 1.5, "fisher_items": 0}),
        ("l2", {"strength": -1}),
        ("latent_retention", {"weight": -1.0, "sharpness": 0.0}),
        ("lwf", {"strength": -1.0, "temperature": 0.0}),
        ("olora", {"strength": -0.1, "rank": 0}),
        ("raft", {"answers": 0, "temperature": 0.0, "top_p": 0.0, "refresh": -1}),
        ("raft", {"unsolved": "guess", "sampled_together": 0}),
        ("rapo", {"preset": "papr", "scale_momentum": 1.0, "retention_weight": -1.0}),
        ("rapo", {"anchor": "frist", "anchor_momentum": 1.0, "scale_init_batches": 0}),
        ("replay", {"share": 0.0}),
        ("replay", {"share": 1.0}),
        ("sdft", {"average": 1.5, "thought": "x", "demonstration": "y"}),
        ("wise", {"share": 1.5}),
    ],
)
def test_every_impossible_setting_is_named_at_once(name: str, settings: dict[str, Any]) -> None:
    config = METHODS[name].Config
    for made, prefix in ((partial(config, **settings), ""), (partial(typed_section, "x", config, settings), "x.")):
        with pytest.raises(UserError) as caught:
            made()
        assert {problem.partition(": got ")[0] for problem in caught.value.problems} == {prefix + n for n in settings}


def test_an_impossible_setting_is_told_with_what_is_expected() -> None:
    for name, settings, told in (
        ("drift_threshold", {"keep": "middle"}, "keep: got 'middle', expected low or high"),
        ("rapo", {"group_size": 1}, "group_size: got 1, expected a whole number from 2"),
        (
            "rif",
            {"rollouts": 2, "least_correct": 3},
            "least_correct: got 3, expected a whole number from 1 to rollouts",
        ),
    ):
        with pytest.raises(UserError, match=told):
            METHODS[name].Config(**settings)


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
        ("rapo", ["retention"], "part 'retention' is in 'rapo' already"),
        ("rapo_ctan", ["ctan"], "part 'ctan' is in 'rapo_ctan' already"),
        ("sft", ["replay", "derpp"], "replay and derpp both keep a memory; expected one of them."),
    ],
)
def test_what_cannot_go_together_is_refused(learner: str, parts: list[str], reason: str) -> None:
    problem, *others = composition_problems(METHODS[learner], [METHODS[part] for part in parts])
    assert reason in problem and len(others) == (parts == ["ctan"])  # which also scales advantages a second time


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


def test_what_a_learner_decides_is_refused_in_a_part() -> None:
    part = type("Own", (L2,), {"name": "own", "targets": lambda self, context: {}})
    (problem,) = composition_problems(METHODS["sft"], [part])
    assert problem == "part 'own' has targets, which 'sft' as the learner decides; expected none of it in a part."


def test_settings_that_a_methods_own_code_refuses_are_a_sentence() -> None:
    @dataclass(frozen=True)
    class Own:
        weight: float = 1.0

        def __post_init__(self) -> None:
            raise ValueError("the weight is odd")

    with pytest.raises(
        UserError, match=r"method.parts.own: these settings are refused \(ValueError: the weight is odd"
    ):
        typed_section("method.parts.own", Own, {"weight": 2.0})


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
    shaped_rewards(members_of(made("grpo", "retention", "par")), step.task_reward, step)
    # retention: 0.5 and 0.5 e^-2 = 0.067668, mean 0.283834, and it breaks the one tie; par makes a mean of 0.5 out of
    # a mean of 1.283834 and keeps the order; grpo shapes nothing and is not reported
    report = {name: value for name, value in logged.items() if name.endswith(("_added", "_reranked"))}
    expected = {"retention_added": 0.283834, "retention_reranked": 1, "par_added": 0.5 - 1.283834, "par_reranked": 0}
    assert report == pytest.approx(expected, abs=1e-6)
    # a learner's own shaping is reported too
    step, logged = rollouts({"accuracy": [1.0, 1.0]}, group_size=2, drifts=[0.0, 0.0])
    assert shaped_rewards([Rapo(RapoConfig())], step.task_reward, step).tolist() == [1.5, 1.5]
    assert logged["rapo_added"] == 0.5 and logged["rapo_reranked"] == 0.0
