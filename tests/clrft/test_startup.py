"""What each command has imported when it ends: nothing heavy before a command needs it."""

import json
import shutil
import subprocess
import sys

import pytest

from clrft.cli.main import LISTS
from tests.clrft.run_folders import write_run

HEAVY = {
    *("torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "mlflow", "ray"),
    *("matplotlib", "pandas", "scipy", "sklearn", "pyarrow", "av", "pycocotools"),
}
RUN = ("run", "stream=digits_cil", "method=rapo")
TOLD = [("--help",), ("--version",), ("sweep", "--help"), *(("list", what) for what in LISTS)]
REFUSED = [
    ("run", "stream=digit_cil", "method=rapo"),
    ("run", "stream=digits_cil", "method=rappo"),
    (*RUN, "model=tinny"),
    (*RUN, "method.strenght=1"),
    (*RUN, "train.updates=-1"),
    (*RUN, "stream.shots=many"),
    (*RUN, "--plugin", "gone.py"),
    ("run", "stream=digits_cil", "method=sft+ewc+ewc"),
    ("run", "--resume", "runs/gone"),
    ("run", "--resume", "{run}", "train.updates=none"),
    ("run", "--from", "runs/gone@task1", "method=rapo"),
    ("run", "--from", "{run}", "method=rapo"),
    ("run", "--from", "{run}@task1", "method=rappo"),
    ("run", "--from", "{run}@task7", "method=rapo"),
    ("run", "--from", "{run}@task1", "--resume", "{run}"),
    ("fork", "{run}@task1", "method=rapo", "evaluate.drift_prompts=many"),
    ("sweep", "quickstrat"),
    ("sweep", "quickstart", "train.updates=none"),
    ("sweep", "quickstart", "--jobs", "0"),
    ("sweep", "quickstart", "--threads", "-1"),
    ("sweep", "quickstart", "--on", "rai"),
    ("plan", "quickstart", "train.updates=none"),
    ("plan", "quickstart", "--hardware", "h1000"),
    ("plan", "quickstart", "--jobs", "0"),
    ("status", "quickstrat"),
    ("compare", "runs/gone"),
    ("compare", "{run}", "--metrics", "coinn"),
    ("compare", "{sweep}", "--baseline", "grpo"),
    ("report", "runs/gone"),
    ("report", "{sweep}", "--mix", "train.updats"),
    *(("analyze", what, "runs/gone") for what in ("rewards", "kinds", "costs", "drift", "ledger")),
    ("sync", "runs/gone"),
    ("list", "rewards"),
    ("show", "quickstrat"),
    ("data", "check", "digit_cil"),
    ("data", "check", "gone.jsonl"),
    ("data", "show", "digits_cil", "--per-class", "0"),
    ("data", "unpack", "gone.tar", "gone"),
    ("method", "new", "my-method"),
    ("method", "new", "mine", "--kind", "parts"),
    ("method", "check", "gone.py"),
    ("ui", "--output", "gone"),
    ("base", "check"),
]
PROGRAM = """
import json, sys
from clrft.cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    print("ended:", json.dumps([code, *sys.modules]), flush=True)
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[int, set[str]]]:
    """Exit codes of commands that one process runs in turn, and the heavy packages that it has imported by then."""
    sweep = tmp_path_factory.mktemp("runs") / "s"
    rows = [[90, None], [80, 70]]
    for method in ("sft", "rapo"):
        for seed in (1, 2):
            write_run(sweep, method, seed, rows)
    run = write_run(sweep.parent / "f", "rapo", 1, rows, manifest={"tasks": [{}, {}]})
    shutil.copytree(run / "task_01", run / "task_00")  # now it can be forked after task 1, as far as files tell
    (run / "task_01" / "weights").mkdir()
    (run / "task_01" / "method_state.json").write_text("{}")
    commands = [*TOLD, ("status", "{sweep}"), *REFUSED, ("compare", "{sweep}"), ("show", *RUN[1:])]
    words = [[word.format(run=run, sweep=sweep) for word in command] for command in commands]
    program = [sys.executable, "-c", PROGRAM, json.dumps(words)]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=sweep)
    lines = [json.loads(line.partition(":")[2]) for line in done.stdout.splitlines() if line.startswith("ended:")]
    return {command: (code, HEAVY & set(names)) for command, (code, *names) in zip(commands, lines, strict=True)}


Ended = dict[tuple[str, ...], tuple[int, set[str]]]


@pytest.mark.parametrize("words", TOLD, ids=" ".join)
def test_what_tells_of_the_suite_alone_needs_nothing(words: tuple[str, ...], ended: Ended) -> None:
    assert ended[words] == (0, set())


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_a_name_key_or_value_is_refused_before_anything_heavy(words: tuple[str, ...], ended: Ended) -> None:
    code, imported = ended[words]
    assert code == 2 and imported <= {"scipy"}  # by which runs are compared


def test_a_sweep_s_status_a_comparison_and_a_run_s_settings_need_nothing_that_trains(ended: Ended) -> None:
    assert ended["status", "{sweep}"] == (0, set())
    code, imported = ended["compare", "{sweep}"]
    assert code == 0 and imported <= {"matplotlib", "scipy", "pandas"}
    code, imported = ended["show", *RUN[1:]]
    assert code == 0 and not imported & {"trl", "peft", "mlflow", "datasets", "ray"}
