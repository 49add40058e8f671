"""Skeletons of new methods: they are short, they run, and their own tests pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from clrft.cli.main import main
from clrft.method_check.new import KINDS, name_problems, write_method
from task_streams.errors import UserError


def test_skeletons_have_at_most_forty_lines_and_their_tests_pass(tmp_path: Path) -> None:
    tests = []
    for kind in KINDS:
        method, test = write_method(f"fresh_{kind}", kind, tmp_path)
        tests.append(test.name)
        assert len(method.read_text().splitlines()) <= 40
        assert "@" not in method.read_text().replace("@dataclass", "")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"{2 * len(KINDS)} passed" in done.stdout, done.stdout + done.stderr


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_method("fresh", "part", tmp_path)
    (tmp_path / "fresh.py").write_text("mine\n")
    with pytest.raises(UserError) as caught:
        write_method("fresh", "part", tmp_path)
    assert len(caught.value.problems) == 2  # the method and its test
    assert (tmp_path / "fresh.py").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ewc", "exists already"),
        ("sft", "exists already"),
        ("random", "is a Python module"),
        ("torch", "is a Python module"),
        ("Fresh", "can't name a method"),
        ("a+b", "can't name a method"),
        ("../up", "can't name a method"),
        ("lambda", "can't name a method"),
    ],
)
def test_names_that_cannot_be_are_refused(name: str, reason: str) -> None:
    (problem,) = name_problems(name)
    assert reason in problem


def test_all_mistakes_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["method", "new", "Bad", "--kind", "prt", "-o", str(tmp_path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'Bad' can't name a method" in said and "Did you mean 'part'?" in said
    assert list(tmp_path.iterdir()) == []
