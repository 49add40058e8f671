"""The command line as a user types it: every mistake ends in code 2 and a sentence, before any work or heavy import."""

import argparse
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from clrft.cli.main import LISTS, build_parser, main
from tests.clrft.run_folders import write_run
from tests.task_streams.streams import write_tree

HEAVY = {
    *("torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "mlflow", "ray"),
    *("matplotlib", "pandas", "scipy", "sklearn", "pyarrow", "av", "pycocotools"),
}
RUN = "run stream=digits_cil method=rapo"
TOLD = ["--help", "--version", "sweep --help", *(f"list {what}" for what in LISTS), "status {sweep}"]
REFUSED = {
    "run method=rapo": "stream: a value is needed",
    "run stream=digits_cli method=rapo": "unknown stream 'digits_cli'. Did you mean 'digits_cil'?",
    "run stream=digits_cil method=rappo": "unknown method 'rappo'. Did you mean 'rapo'?",
    "run stream=digits_cil method=sft+ewc+ewc": "'ewc' is named more than once",
    f"{RUN} model=tinny": "unknown model 'tinny'. Did you mean 'tiny'?",
    f"{RUN} seed=-1": "seed: got -1",
    f"{RUN} train.learningrate=1": "Did you mean 'train.learning_rate'?",
    f"{RUN} train.learning_rate=-0.1": "train.learning_rate: got -0.1, expected a number above 0",
    f"{RUN} method.group_size=1": "method.group_size: got 1, expected a whole number from 2",
    f"{RUN} stream.shots=many": "stream.shots: got 'many'",
    f"{RUN} evaluate.metrics=[forgeting]": "Did you mean 'forgetting'?",
    f"{RUN} --plugin gone.py": "gone.py' is no Python file",
    "run --resume gone": "--resume: 'gone' holds no run",
    "run --resume {run} train.updates=none": "train.updates: got 'none'",
    "run --resume {run} --from {run}@task1": "expected one of them",
    "run --from gone@task1 method=rapo": "fork: 'gone' holds no run",
    "run --from {run} method=rapo": "is a run; expected it with a task",
    "run --from {run}@task7 method=rapo": "fork: got task 7, but",
    "run --from {run}@task1 method=rappo": "unknown method 'rappo'. Did you mean 'rapo'?",
    "fork {run}@task1 method=rapo train.updates=none": "clrft fork is now clrft run --from. error train.updates: got",
    "sweep quickstrt": "unknown sweep 'quickstrt'. Did you mean 'quickstart'?",
    "sweep quickstart seed=1": "unknown section 'seed'",
    "sweep quickstart train.updates=none": "train.updates: got 'none'",
    "sweep quickstart --jobs 0": "--jobs: got 0",
    "sweep quickstart --threads -1": "--threads: got -1",
    "sweep quickstart --on rai": "--on",  # no address, or Ray is not installed
    "plan quickstrt": "unknown sweep 'quickstrt'. Did you mean 'quickstart'?",
    "plan quickstart train.updates=none": "train.updates: got 'none'",
    "plan quickstart --hardware h1000": "unknown hardware 'h1000'. Did you mean 'h100'?",
    "plan quickstart --jobs 0": "--jobs: got 0",
    "status": "status: got no name, expected a sweep of clrft list sweeps or a folder of runs.",
    "status quickstrt": "unknown sweep 'quickstrt'. Did you mean 'quickstart'?",
    "status {empty}": "holds no run; expected a sweep's folder, a run's folder, or a sweep's name.",
    "status {empty} train.updates=2": "is a folder: it takes no train.updates=2",
    "sync gone": "no folder gone",
    "list rewards": "invalid choice: 'rewards'",
    "show digits_dill": "Did you mean 'digits_dil'?",
    "data check digit_cil": "unknown stream 'digit_cil'. Did you mean 'digits_cil'?",
    "data check gone.jsonl": "gone.jsonl: expected a readable text file",
    "data show digits_cil --per-class 0": "--per-class: got 0",
    "data unpack gone.tar gone": "can't read gone.tar",
    "method new my-method": "'my-method' can't name a method",
    "method new mine --kind parts": "--kind: unknown kind 'parts'. Did you mean 'part'?",
    "method check gone.py": "gone.py' is no Python file",
    "ui --output gone": "no MLflow store in 'gone'",
    "base check": "run: python -m scripts.base_model check",
    "compare {runs}/ss": "no folder {runs}/ss. Did you mean '{runs}/s'?",
    "compare {empty}": "{empty} holds no run",
    "compare {run} --metrics coinn": "unknown community 'coinn'. Did you mean 'coin'?",
    "report gone": "no folder gone",
    **{f"analyze {what} gone": "no folder gone" for what in ("rewards", "kinds", "costs", "drift", "ledger")},
}
REFUSED_BY_THE_RUNS = {
    "compare {sweep} --baseline grpo": "unknown baseline 'grpo'",
    "report {sweep} --mix train.updats": "--mix: unknown setting 'train.updats'",
}
SHOWN = {
    "compare {sweep}": "rapo",
    **{f"show {name}": name for name in ("rapo", "digits_dil", "qwen2_vl_2b", "quickstart")},
    "show stream=digits_cil stream.shots=7 method=rapo method.kl=0.5 seed=3": "method.kl",
}
PROGRAM = """
import contextlib, io, json, sys
from clrft.cli.main import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, " ".join(said.getvalue().split()), out.getvalue(), *sys.modules]))
"""
Ended = dict[str, tuple[int, str, str, set[str]]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by the names that commands have for them: of a sweep, of a run that can be forked, and an empty one."""
    runs = tmp_path_factory.mktemp("runs")
    rows = [[90, None], [80, 70]]
    for method in ("sft", "rapo"):
        for seed in (1, 2):
            write_run(runs / "s", method, seed, rows)
    run = write_run(runs / "f", "rapo", 1, rows, manifest={"tasks": [{}, {}]})
    shutil.copytree(run / "task_01", run / "task_00")
    (run / "task_01" / "weights").mkdir()
    (run / "task_01" / "method_state.json").write_text("{}")
    (runs / "empty").mkdir()
    return {"runs": runs, "sweep": runs / "s", "run": run, "empty": runs / "empty"}


@pytest.fixture(scope="module")
def ended(folders: dict[str, Path]) -> Ended:
    """Exit codes, errors and output of commands that one process runs in turn, and what it has imported by then."""
    commands = [*TOLD, *REFUSED, *REFUSED_BY_THE_RUNS, *SHOWN]
    words = json.dumps([command.format(**folders).split() for command in commands])
    program = [sys.executable, "-c", PROGRAM, words]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=folders["empty"])
    rows = zip(commands, map(json.loads, done.stdout.splitlines()), strict=True)
    return {command: (code, said, out, HEAVY & set(imported)) for command, (code, said, out, *imported) in rows}


@pytest.mark.parametrize("command", TOLD)
def test_what_tells_of_the_suite_or_how_a_sweep_stands_needs_nothing_heavy(command: str, ended: Ended) -> None:
    code, _, out, imported = ended[command]
    assert (code, imported) == (0, set())
    assert not command.startswith("list") or len(out.splitlines()) > 4


@pytest.mark.parametrize(("command", "sentence"), [*REFUSED.items(), *REFUSED_BY_THE_RUNS.items()])
def test_a_name_key_or_value_is_refused_before_anything_heavy(
    command: str, sentence: str, ended: Ended, folders: dict[str, Path]
) -> None:
    code, said, _, imported = ended[command]
    assert code == 2
    assert sentence.format(**folders) in said
    assert imported <= ({"scipy"} if command in REFUSED_BY_THE_RUNS else set())


@pytest.mark.parametrize("command", SHOWN)
def test_a_comparison_and_configs_of_every_kind_are_shown_without_what_trains(command: str, ended: Ended) -> None:
    code, _, out, imported = ended[command]
    assert code == 0 and SHOWN[command] in out
    assert not imported & {"trl", "peft", "mlflow", "datasets", "ray"}
    assert "torch" not in imported or command.startswith("show")
    rows = [line.split() for line in out.splitlines()]
    shown = {row[1]: row[3] for row in rows if len(row) > 3 and row[0] == "│"}
    assert "method.kl=0.5" not in command or (shown["stream.shots"], shown["method.kl"]) == ("7", "0.5")


def test_a_run_finds_damage_and_a_folder_it_cannot_write_to_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "images", ("cat", "dog"), 8)
    broken = tmp_path / "images" / "dog" / "003.png"
    broken.write_bytes(broken.read_bytes()[:40])
    words = [f"stream.root={tmp_path / 'images'}", "stream.tasks=2", "stream.classes_per_task=1", "run.mlflow=false"]
    for output, told in (("runs", ("dog/003.png", "skip")), ("images/cat/000.png", ("can't write to the folder",))):
        assert main(["run", "stream=folder_cil", "method=sft", *words, f"run.output={tmp_path / output}"]) == 2
        said = capsys.readouterr().err
        assert all(part in " ".join(said.split()) for part in told)


def test_rewards_of_runs_that_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "s", "sft", 1, [[90, None], [60, 80]], steps=[{"step": 1, "loss": 0.5}])
    assert main(["rewards", str(tmp_path / "s"), "-o", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "digits_cil: sft has no rewards: it learned from targets." in said
    assert "Expected a run of a method that learns from rewards, e.g. grpo or rapo." in said
    assert not (tmp_path / "out").exists()


def test_a_method_of_ones_own_that_says_nothing_of_itself_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "silent.py"
    file.write_text(
        "from methods.base import Method\nfrom methods.algorithms.sft import SftConfig\n\n\n"
        'class Silent(Method):\n    name, family, Config = "says_nothing", "part", SftConfig\n'
    )
    assert main(["list", "methods", "--plugin", str(file)]) == 0
    assert "says_nothing" in capsys.readouterr().out


def commands_of(parser: argparse.ArgumentParser) -> Iterator[Callable[..., int]]:
    """The commands of a parser and of those under it."""
    if command := parser.get_default("command"):
        yield command
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from commands_of(one)


def test_every_command_is_there_when_it_is_called() -> None:
    cells = [inspect.getclosurevars(command).nonlocals for command in commands_of(build_parser())]
    assert len(cells) > 20
    for cell in cells:
        assert callable(getattr(import_module(f"clrft.cli.{cell['module']}"), cell["name"]))
