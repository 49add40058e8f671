"""Real sweeps on one folder at once, and killed ones, lose no update and make none twice; ``clrft status`` tells."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from clrft.cli.main import main
from clrft.config.run_config import build_config
from clrft.runner.outcome import keep_failure, known_failure
from clrft.sweep.status import duration
from clrft.utils.locks import file_system_now, lock_path, this_process
from clrft.utils.process_identity import lives
from tests.clrft.counted import Lab, until
from tests.clrft.run_folders import write_run
from tests.processes import ended_process


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab of two seeds."""
    monkeypatch.setenv("COUNTED_IN", str(tmp_path))
    lab = Lab(tmp_path, [1, 2])
    yield lab
    for process in lab.started:
        process.kill()
        process.wait()


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The exit code of ``clrft status --json`` and what it says."""
    capsys.readouterr()
    code = main(["status", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_two_sweeps_share_the_cells_and_make_every_update_once(one: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    hold = one.mark("hold", 1, 2, 1)
    hold.write_text("")
    other = one.start()
    worker = one.reaches(1, 2, 1)  # the other sweep stands in the first cell's second task
    _, found = told(one.words, capsys)
    assert [cell["state"] for cell in found["cells"]] == ["running", "waiting"]
    assert f"task 2 of 2, process {worker} on {os.uname().nodename}" in found["cells"][0]["detail"]
    assert found["processes"] == 1 and found["stages_left"] == 1 + 3
    assert main(["run", "--resume", str(one.cell(1)), "--plugin", str(one.plugin)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{one.cell(1)} is being worked on by process {worker} on {os.uname().nodename}" in said

    def let_go() -> None:
        until((one.cell(2) / "metrics.json").exists)
        hold.unlink()

    helper = threading.Thread(target=let_go)
    helper.start()
    assert main(one.sweep) == 0
    helper.join()
    assert f"digits_cil-sft+counted-1: left to process {worker} on" in capsys.readouterr().out
    assert (one.cell(1) / "metrics.json").exists()  # it was waited for
    assert other.wait(60) == 0
    updates = one.updates()
    assert sorted(row[:3] for row in updates) == list(product((1, 2), (1, 2), (1, 2)))
    assert {row[0] for row in updates if row[3] == worker} == {1}
    assert {row[3] for row in updates if row[0] == 1} == {worker}
    assert [path.name for path in one.runs.iterdir() if path.name.startswith(".digits")] == []


def test_a_killed_worker_loses_its_own_cell_only_and_a_killed_sweep_its_worker(
    one: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    kill, hold = one.mark("kill", 1, 1, 2), one.mark("hold", 2, 2, 2)
    kill.write_text("")
    hold.write_text("")
    killed = one.start()
    first, second = one.reaches(1, 1, 2), one.reaches(2, 2, 2)  # the first worker has died, the sweep has gone on
    said = (one.folder / "said").read_text()
    assert "failed: digits_cil-sft+counted-1: its worker process died (signal 9: killed, or out of memory)" in said
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    until(lambda: not lives(second), 20)
    cells = told(one.words, capsys)[1]["cells"]
    assert {cell["state"] for cell in cells} == {"stopped"}
    ended = [f"task {place} of 2; process {process} has ended" for place, process in ((1, first), (2, second))]
    assert [cell["detail"] for cell in cells] == ended
    assert told([str(one.runs)], capsys)[1]["counts"]["stopped"] == 2
    kill.unlink()
    hold.unlink()
    keep_failure(one.cell(2), "KeyError: 'lost'")  # of a sweep before this one
    assert main(one.sweep) == 0
    # a task that was cut short is made again, a finished one is kept
    times = {(1, 1): 2, (1, 2): 1, (2, 1): 1, (2, 2): 2}
    assert Counter(row[:3] for row in one.updates()) == {(*task, n): times[task] for task in times for n in (1, 2)}
    assert not any(lock_path(one.cell(seed)).exists() for seed in (1, 2))
    assert not (one.cell(2) / "error.txt").exists()
    assert told(one.words, capsys)[1]["counts"]["done"] == 2


def test_a_cell_that_another_process_saw_fail_is_not_tried_again(tmp_path: Path) -> None:
    config = build_config("digits_cil", "sft", "tiny", 1993, {"run": {"output": str(tmp_path), "mlflow": False}})
    config.folder.parent.mkdir()
    before = file_system_now(tmp_path)
    assert known_failure(config, before) is None
    time.sleep(0.02)  # longer than the file system's clock ticks
    keep_failure(config.folder, "KeyError: 'lost'", "Traceback (most recent call last):\n ...\nKeyError: 'lost'\n")
    time.sleep(0.02)
    failure = known_failure(config, before)
    assert failure is not None and failure.reason == "KeyError: 'lost' (in another process)"
    assert known_failure(config, file_system_now(tmp_path)) is None  # a sweep that begins now tries it again


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
    assert rows["2"][0] == rows["6"][0] == "running"
    assert rows["2"][1].startswith(f"task 1 of 3, process {os.getpid()} on {socket.gethostname()} (since {since}")
    assert rows["3"] == ("stopped", f"task 2 of 3, update 20; process {gone} has ended")
    assert rows["4"] == ("failed", "KeyError: 'lost'")
    assert rows["5"] == ("stopped", "task 1 of 3, trained, to be tested")
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


def test_of_a_sweep_nothing_of_which_was_measured_the_time_is_unknown_and_a_folder_of_other_settings_is_told(
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
    write_run(tmp_path / "runs" / "quickstart", "sft", 1990, [[90, None], [60, 80]])
    code, found = told(words, capsys)
    assert code == 1
    assert "holds a run of other settings" in found["cells"][0]["detail"]


def test_durations_in_two_units() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 61, 3600 + 120, 86400 * 2 + 3600 * 5)] == [
        "0 s", "59 s", "1 min 1 s", "1 h 2 min", "2 d 5 h",
    ]  # fmt: skip
