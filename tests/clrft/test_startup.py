"""What each command has imported when it ends: nothing heavy before a command needs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.clrft.run_folders import write_run

HEAVY = {
    *("torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "mlflow", "ray"),
    *("matplotlib", "pandas", "scipy", "sklearn", "pyarrow", "av", "pycocotools"),
}
RUN = ("run", "stream=digits_cil", "method=rapo")
PROGRAM = """
import sys
from clrft.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("imported:", *sys.modules)
sys.exit(code)
"""


def imported(*words: str, code: int = 0) -> set[str]:
    """Heavy packages that a command has imported when it ends."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("imported:")]
    return HEAVY & set(line.split())


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("sweep", "--help"), ("list", "metrics")])
def test_what_tells_of_the_suite_alone_needs_nothing(words: tuple[str, ...]) -> None:
    assert imported(*words) == set()


@pytest.mark.parametrize(
    "what", ["streams", "methods", "shapers", "models", "sweeps", "prompts", "seeds", "configs", "metrics"]
)
def test_lists_need_nothing_heavy(what: str) -> None:
    assert imported("list", what) == set()


@pytest.mark.parametrize(
    "words",
    [
        ("run", "stream=digit_cil", "method=rapo"),
        ("run", "stream=digits_cil", "method=rappo"),
        ("sweep", "quickstrat"),
        (*RUN, "model=tinny"),
        (*RUN, "method.strenght=1"),
        (*RUN, "train.updates=-1"),
        (*RUN, "stream.shots=many"),
        ("run", "stream=digits_cil", "method=sft+ewc+ewc"),
        ("plan", "quickstart", "train.updates=none"),
        ("data", "check", "digit_cil"),
    ],
)
def test_a_name_key_or_value_is_refused_before_anything_heavy(words: tuple[str, ...]) -> None:
    assert imported(*words, code=2) == set()


def test_how_a_sweep_stands_needs_nothing_heavy(tmp_path: Path) -> None:
    write_run(tmp_path / "s", "rapo", 1, [[90, None], [80, 70]])
    assert imported("status", str(tmp_path / "s")) == set()


def test_a_comparison_needs_nothing_that_trains(tmp_path: Path) -> None:
    for method in ("sft", "rapo"):
        for seed in (1, 2):
            write_run(tmp_path / "s", method, seed, [[90, None], [80, 70]])
    assert imported("compare", str(tmp_path / "s")) <= {"matplotlib", "scipy", "pandas"}


def test_a_run_is_shown_without_what_trains() -> None:
    assert not imported("show", "stream=digits_cil", "method=rapo") & {"trl", "peft", "mlflow", "datasets", "ray"}
