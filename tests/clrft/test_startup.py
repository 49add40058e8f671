"""What commands say that are refused, and what each has imported when it ends: nothing heavy before it is needed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clrft.cli.parser import LISTS
from tests.clrft.run_folders import write_run

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
SHOWN = {  # and what that may import
    "compare {sweep}": {"matplotlib", "scipy", "pandas"},
    "show stream=digits_cil method=rapo": HEAVY - {"transformers", "trl", "peft", "mlflow", "datasets", "ray"},
}
PROGRAM = """
import contextlib, io, json, sys
from clrft.cli.main import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, " ".join(said.getvalue().split()), *sys.modules]))
"""
Ended = dict[str, tuple[int, str, set[str]]]


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
    """Exit codes and errors of commands that one process runs in turn, and what it has imported by then."""
    commands = [*TOLD, *REFUSED, *REFUSED_BY_THE_RUNS, *SHOWN]
    words = json.dumps([command.format(**folders).split() for command in commands])
    program = [sys.executable, "-c", PROGRAM, words]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=folders["empty"])
    rows = zip(commands, map(json.loads, done.stdout.splitlines()), strict=True)
    return {command: (code, said, HEAVY & set(imported)) for command, (code, said, *imported) in rows}


@pytest.mark.parametrize("command", TOLD)
def test_what_tells_of_the_suite_or_how_a_sweep_stands_needs_nothing_heavy(command: str, ended: Ended) -> None:
    code, _, imported = ended[command]
    assert (code, imported) == (0, set())


@pytest.mark.parametrize(("command", "reason"), {**REFUSED, **REFUSED_BY_THE_RUNS}.items())
def test_a_name_key_or_value_is_refused_before_anything_heavy(
    command: str, reason: str, ended: Ended, folders: dict[str, Path]
) -> None:
    code, said, imported = ended[command]
    assert code == 2 and reason.format(**folders) in said
    assert imported <= ({"scipy"} if command in REFUSED_BY_THE_RUNS else set())


@pytest.mark.parametrize("command", SHOWN)
def test_a_comparison_and_a_run_s_settings_need_nothing_that_trains(command: str, ended: Ended) -> None:
    code, _, imported = ended[command]
    assert code == 0
    assert imported <= SHOWN[command]
