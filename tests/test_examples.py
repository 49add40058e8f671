"""The examples run as their pages say, in short."""

import json
import runpy
from pathlib import Path

import pytest

from clrft.cli.main import main
from tests.task_streams.streams import write_tree

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SHORT = ["train.updates=1", "stream.tasks=2", "stream.shots=8", "stream.test_per_class=4"]
PLAIN = ["run.mlflow=false", "evaluate.probe=0", "evaluate.drift_prompts=0"]


def test_the_method_has_at_most_forty_lines_and_holds_weights_from_the_second_task_on(tmp_path: Path) -> None:
    file = EXAMPLES / "root_ewc.py"
    assert len(file.read_text().splitlines()) <= 40
    words = ["run", "stream=digits_cil", "method=sft+root_ewc", *SHORT, *PLAIN, f"run.output={tmp_path}"]
    assert main([*words, "--plugin", str(file)]) == 0
    folder = tmp_path / "single" / "digits_cil-sft+root_ewc-1993"
    steps = [json.loads((folder / f"task_0{task}" / "steps.jsonl").read_text()) for task in (1, 2)]
    assert ["root_ewc" in step for step in steps] == [False, True]


def test_two_methods_are_run_and_compared_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(EXAMPLES / "compare_two.py"))
    script["main"]([*SHORT, *PLAIN[1:], f"run.output={tmp_path}"])
    said = capsys.readouterr().out
    assert "grpo − sft" in said and said.count("after task") == 2


def test_the_streams_are_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(EXAMPLES / "unequal_tasks.yaml"), f"run.output={tmp_path}"]) == 0
    write_tree(tmp_path / "photos", ("ant", "bee", "cat", "dog", "emu", "fox"), 15)
    words = [f"stream.root={tmp_path / 'photos'}", f"run.output={tmp_path}"]
    assert main(["data", "check", str(EXAMPLES / "photos.yaml"), *words]) == 0
    said = capsys.readouterr().out
    assert "unequal_tasks: no problems found" in said and "photos: no problems found" in said
