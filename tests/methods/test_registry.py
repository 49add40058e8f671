"""Methods of plugin files and installed packages: loaded by name only, and refused in sentences."""

import hashlib
import sys
from pathlib import Path

import pytest

from methods.registry import known_methods, load_plugin, load_plugins, method_class, plugin_digests
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


def written(path: Path, name: str) -> Path:
    path.write_text(FILE.format(name=name, family="part", config="Config"))
    return path


def test_a_plugins_method_is_known_by_its_name_and_by_the_bytes_that_were_loaded(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.py", "registry_mine")
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
        (FILE.format(name="a+b", family="part", config="Config"), "One.name is 'a+b', expected small letters"),
        (FILE.format(name="bad", family="parts", config="Config"), "One.family is 'parts', expected one of frozen"),
        (FILE.format(name="bad", family="part", config="dict"), "expected a frozen dataclass"),
        (FILE.format(name="sft", family="part", config="Config"), "has that name; rename it"),
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
    written(tmp_path / "registry_package.py", "registry_installed")
    info = tmp_path / "registry_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: registry_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clrft.methods]\nregistry_installed = registry_package:One\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "registry_package" not in sys.modules
    assert method_class("registry_installed").name == "registry_installed"
    with pytest.raises(UserError, match="Did you mean 'registry_installed'"):
        method_class("registry_instaled")
