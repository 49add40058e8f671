"""The command line as a user types it: every mistake ends in code 2 and a sentence, before any work."""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from clrft.cli.main import main
from clrft.cli.parser import LISTS, build_parser
from tests.clrft.run_folders import write_run
from tests.task_streams.streams import cut, write_tree


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    return " ".join(capsys.readouterr().err.split())


RUN = ["run", "stream=digits_cil", "method=rapo", "run.mlflow=false"]


def test_a_section_may_be_chosen_by_name_and_changed_in_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "stream=digits_cil", "stream.shots=7", "method=rapo", "method.kl=0.5", "seed=3"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = {row[1]: row[3] for row in rows if len(row) > 3 and row[0] == "│"}
    assert (shown["stream.shots"], shown["method.kl"]) == ("7", "0.5")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["stream.tasks=11", "stream.classes_per_task=1"], "11 classes asked"),
        (["train.max_prompt_tokens=10"], "train.max_prompt_tokens: got 10"),
        (["run.output={here}/file"], "can't write to the folder"),
        (["model.path={here}/model"], "has no processor"),
        (
            ["stream=folder_cil", "stream.root={here}/images", "stream.tasks=2", "stream.classes_per_task=1"],
            "1 items cannot be decoded; repair or remove them, or set on_damaged=skip error dog/003.png",
        ),
    ],
)
def test_what_a_run_finds_before_any_work(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write_tree(tmp_path / "images", ("cat", "dog"), 8)
    cut(tmp_path / "images" / "dog" / "003.png")
    words = [word.format(here=tmp_path) for word in words]
    assert sentence in refused([*RUN, f"run.output={tmp_path / 'runs'}", *words], capsys)


def test_rewards_of_runs_that_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "s", "sft", 1, [[90, None], [60, 80]], steps=[{"step": 1, "loss": 0.5}])
    said = refused(["rewards", str(tmp_path / "s"), "-o", str(tmp_path / "out")], capsys)
    assert "digits_cil: sft has no rewards: it learned from targets." in said
    assert "Expected a run of a method that learns from rewards, e.g. grpo or rapo." in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", LISTS)
def test_every_list_names_something(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 4


@pytest.mark.parametrize("name", ["rapo", "digits_dil", "qwen2_vl_2b", "quickstart"])
def test_show_resolves_configs_of_every_kind(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    assert name in capsys.readouterr().out


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


def commands_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """The commands of a parser and of those under it: module and function."""
    if command := parser.get_default("command"):
        yield command
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from commands_of(one)


def test_every_command_is_there_when_it_is_called() -> None:
    commands = list(commands_of(build_parser()))
    assert len(commands) > 20
    for module, name in commands:
        assert callable(getattr(import_module(f"clrft.cli.{module}"), name))


def test_output_that_nobody_reads_any_more_is_told_and_ends_the_command() -> None:
    words = [sys.executable, "-m", "clrft", "list", "streams"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # as head does
        said = process.stderr.read()
    assert process.returncode == 1
    assert said.startswith("failed stdout was closed before all was written, as by head.") and "Traceback" not in said


def test_a_command_that_is_started_with_a_closed_output_works() -> None:
    words = "import os, sys; os.close(1); sys.stdout = None; from clrft.cli.main import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", words, "list", "streams"], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_and_processes_that_are_left_behind_are_told_and_keep_no_command_from_its_end() -> None:
    program = """
import multiprocessing, subprocess, sys, threading, time
from clrft.utils import process_end
process_end.GRACE_SECONDS = 0.1
print("done", end="")
threading.Thread(target=time.sleep, args=(600,), name="poll").start()
multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
subprocess.Popen(["sleep", "600"])  # which has the output open
process_end.end_in_time(3)
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "done")  # what was printed is written
    told = [line.partition("not waited for: ")[2].split()[0] for line in done.stderr.splitlines()]
    assert sorted(told) == ["process", "process", "thread"] and "(sleep), which code of a method" in done.stderr
