"""Methods of plugin files and installed packages, loaded by name only; impossible files and settings are refused."""

import hashlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from methods import METHODS
from methods.registry import known_methods, load_plugin, load_plugins, method_class, plugin_digests
from task_streams.config import typed_section
from task_streams.errors import UserError

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
    ],
)
def test_a_file_without_a_usable_method_is_refused_and_nothing_of_it_stays(
    text: str, reason: str, tmp_path: Path
) -> None:
    before, path = known_methods(), tmp_path / "bad.py"
    path.write_text(text)
    for _ in range(2):  # not taken for loaded the second time
        with pytest.raises(UserError) as caught:
            load_plugin(path)
        assert reason in str(caught.value) and str(path) in str(caught.value)
    assert known_methods() == before


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
    for made in (partial(config, **settings), partial(typed_section, "x", config, settings)):
        with pytest.raises(UserError) as caught:
            made()
        told = {problem.partition(": got ")[0].removeprefix("x.") for problem in caught.value.problems}
        assert told == set(settings)


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
