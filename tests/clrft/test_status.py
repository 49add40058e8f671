"""``clrft status``: states, places and the time left, from files alone."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from clrft.cli.main import main
from clrft.runner.outcome import keep_failure
from clrft.sweep.status import duration
from clrft.utils.locks import lock_path, this_process
from tests.clrft.run_folders import write_run
from tests.processes import ended_process


def begun(sweep: Path, method: str, seed: int, seconds: Mapping[int, Mapping[str, float]], tasks: int = 3) -> Path:
    """A run folder with some finished stages, as ``clrft.runner.run`` leaves it."""
    folder = sweep / f"digits_cil-{method}-{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": {"name": method, "label": method}}))
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "tasks": [{"index": i} for i in range(tasks)]}))
    for stage, times in seconds.items():
        (folder / f"task_{stage:02d}").mkdir()
        (folder / f"task_{stage:02d}" / "metrics.json").write_text(json.dumps({"schema": 1, "seconds": times}))
    return folder


def locked(folder: Path, **differs: Any) -> None:
    lock_path(folder).write_text(json.dumps(asdict(replace(this_process(), **differs))))


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["status", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_states_and_places_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, gone = tmp_path / "mini", ended_process()
    write_run(sweep, "sft", 1, [[90, None], [60, 80]])
    locked(begun(sweep, "sft", 2, {0: {"evaluate": 1.0}}))
    stale = begun(sweep, "sft", 3, {0: {"evaluate": 1.0}, 1: {"train": 5.0, "evaluate": 2.0}})
    for step in (10, 20):
        (stale / "unfinished" / "task_02" / f"step_{step:06d}").mkdir(parents=True)
    locked(stale, process=gone)
    keep_failure(begun(sweep, "sft", 4, {}), "KeyError: 'lost'", "Traceback ...\nKeyError: 'lost'")
    (begun(sweep, "sft", 5, {0: {"evaluate": 1.0}}) / "unfinished" / "task_01" / "trained").mkdir(parents=True)
    locked(sweep / "digits_cil-sft-6")  # just begun: no folder yet
    (sweep / "comparison").mkdir()
    (sweep / ".mlflow.lock").write_text("")  # no cell's
    code, found = told([str(sweep)], capsys)
    assert code == 1  # one failed
    since = this_process().taken[:10]
    rows = {cell["cell"][-1]: (cell["state"], cell["detail"]) for cell in found["cells"]}
    assert rows["1"] == ("done", "")
    assert rows["2"][0] == "running"
    assert rows["2"][1].startswith(f"task 1 of 3, process {os.getpid()} on {socket.gethostname()} (since {since}")
    assert rows["3"] == ("stopped", f"task 2 of 3, update 20; process {gone} has ended")
    assert rows["4"] == ("failed", "KeyError: 'lost'")
    assert rows["5"] == ("stopped", "task 1 of 3, trained, to be tested")
    assert rows["6"][0] == "running"
    assert found["counts"] == {"done": 1, "running": 2, "failed": 1, "stopped": 2, "waiting": 0}
    assert found["seconds_left"] is None  # of the cell just begun nothing tells how many stages it has


def test_the_time_left_is_stages_times_median_over_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "mini"
    times = {0: {"evaluate": 2.0}, 1: {"train": 9.0, "evaluate": 1.0}, 2: {"train": 10.0, "evaluate": 2.0}}
    locked(begun(sweep, "sft", 1, times))  # a stage to come: 3
    locked(begun(sweep, "sft", 2, {0: {"evaluate": 4.0}, 1: {"train": 80.0, "evaluate": 10.0}}))  # 2 and 3
    begun(sweep, "grpo", 1, {})  # 0 to 3, nothing measured of grpo
    _, found = told([str(sweep)], capsys)
    # sft's stages took 10, 12 and 90 s: median 12; bases 2 and 4 s: median 3; grpo as all: 3 + 3 * 12.
    assert found["stages_left"] == 7
    assert found["processes"] == 2
    assert found["seconds_left"] == pytest.approx((3 * 12 + 3 + 3 * 12) / 2)
    assert main(["status", str(sweep)]) == 0
    said = capsys.readouterr().out
    assert "3 cells: 2 running, 1 stopped" in said
    assert "time left: about 38 s, by 2 processes at work" in said  # 37.5


def test_of_a_sweep_nothing_of_which_was_measured_the_time_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quickstart", "seeds=[1990]", "methods=[sft,joint_sft]", f"run.output={tmp_path / 'runs'}"]
    code, found = told(words, capsys)
    assert code == 0
    assert [(cell["state"], cell["stages"]) for cell in found["cells"]] == [("waiting", 6), ("waiting", 2)]
    assert found["seconds_left"] is None and found["stages_left"] == 8
    assert main(["status", *words]) == 0
    assert "time left: unknown: nothing like it was measured yet (none is at work)" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()  # looking makes nothing


def test_a_folder_of_other_settings_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "quickstart", "sft", 1990, [[90, None], [60, 80]])
    code, found = told(["quickstart", "seeds=[1990]", "methods=[sft]", f"run.output={tmp_path}"], capsys)
    assert code == 1
    assert "holds a run of other settings" in found["cells"][0]["detail"]


def test_durations_in_two_units() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 61, 3600 + 120, 86400 * 2 + 3600 * 5)] == [
        "0 s", "59 s", "1 min 1 s", "1 h 2 min", "2 d 5 h",
    ]  # fmt: skip
