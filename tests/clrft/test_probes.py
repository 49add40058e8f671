"""Probe sets in real runs: asked beside the built-in probe, kept item by item, compared on going on."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from clrft.cli.main import main
from clrft.config.run_config import RunConfig, build_config
from clrft.runner.prepare import prepare
from clrft.runner.probes import read_probes
from clrft.runner.run import run
from clrft.runs.read import read_run
from clrft.utils.progress import Silent
from task_streams.errors import UserError
from tests.task_streams.probe_files import ROWS, write_probes

SMALL = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 4, "test_per_class": 2},
    "train": {"updates": 1, "prompts_per_update": 2},
    "evaluate": {"probe": 2, "probe_tokens": 6, "final_list": False, "drift_prompts": 0},
}


def config_with(files: Sequence[Path], output: Path) -> RunConfig:
    """Of a run that asks these sets."""
    own = {"run": {"output": str(output), "mlflow": False}, "evaluate": {"probes": [str(file) for file in files]}}
    return build_config("digits_cil", "sft", "tiny", 1993, SMALL, own)


def test_a_run_asks_every_set_before_and_after_and_notices_a_change(tmp_path: Path) -> None:
    files = [write_probes(tmp_path / "set"), write_probes(tmp_path / "text", ROWS[2:3], "text_only.jsonl")]
    config = config_with(files, tmp_path)
    folder = run(config, Silent())
    for stage in range(3):
        record = json.loads((folder / f"task_{stage:02d}" / "metrics.json").read_text())
        assert set(record["probe"]) == {"printed_glyphs", "general", "text_only"}
        rows = [json.loads(line) for line in (folder / f"task_{stage:02d}" / "probe_general.jsonl").open()]
        asked = [("c1", "choice"), ("7", "yes_no"), ("1000", "instruction"), ("o1", "open")]
        assert [(row["key"], row["style"], row["stage"]) for row in rows] == [(*one, stage) for one in asked]
        assert record["probe"]["general"] == sum(row["correct"] for row in rows) / 4
    read = read_run(folder)
    assert {"general_delta/general", "general_delta/text_only", "general_delta/printed_glyphs"} <= set(read.metrics)
    assert read.manifest["probes"] == {one.name: one.fingerprint for one in read_probes(list(map(str, files)))}
    for name in ("metrics.json", "matrix.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "task_02")
    write_probes(tmp_path / "set", [{**ROWS[0], "answer": "A"}, *ROWS[1:]])
    with pytest.raises(UserError, match=r"probe sets are not those this run began with .*general\)"):
        run(config, Silent())


def test_sets_that_cannot_work_are_refused_together_before_any_work(tmp_path: Path) -> None:
    files = [write_probes(tmp_path / name) for name in ("a", "b")]
    files += [write_probes(tmp_path, ["{"], "broken.jsonl"), write_probes(tmp_path, name="printed_glyphs.jsonl")]
    with pytest.raises(UserError) as refused:
        prepare(config_with(files, tmp_path / "runs"), Silent())
    twice, broken, built_in, *_ = refused.value.problems
    assert "another probe is named 'general'" in twice
    assert broken.startswith("broken.jsonl, line 1: no JSON")
    assert "another probe is named 'printed_glyphs'" in built_in


def test_data_check_reads_a_probe_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(write_probes(tmp_path))]) == 0
    assert "general: 1 choice, 1 yes_no, 1 instruction, 1 open; SHA-256" in capsys.readouterr().out
    assert main(["data", "check", str(write_probes(tmp_path, ["[]"]))]) == 2
    assert "general.jsonl, line 1: expected an object, found list" in capsys.readouterr().err
