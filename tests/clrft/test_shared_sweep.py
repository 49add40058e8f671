"""Real sweeps on one folder at once, and killed ones: every update is made once, and none is lost."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clrft.cli.main import main
from clrft.config.run_config import build_config
from clrft.runner.outcome import keep_failure, known_failure
from clrft.utils.locks import file_system_now, lock_path
from clrft.utils.process_identity import lives
from tests.clrft.counted import COUNTED, Lab, until


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "counted.py"
    path.write_text(COUNTED)
    return path


@pytest.fixture
def lab(tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[int]], Lab]]:
    made: list[Lab] = []
    monkeypatch.setenv("COUNTED_IN", str(tmp_path))

    def make(seeds: list[int]) -> Lab:
        made.append(Lab(tmp_path, plugin, seeds))
        return made[-1]

    yield make
    for process in (process for one in made for process in one.started):
        process.kill()
        process.wait()


def status(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What ``clrft status --json`` says."""
    capsys.readouterr()
    main(["status", *words, "--json"])
    return dict(json.loads(capsys.readouterr().out))


def test_two_sweeps_share_the_cells_and_make_every_update_once(
    lab: Callable[[list[int]], Lab], capsys: pytest.CaptureFixture[str]
) -> None:
    one = lab([1, 2, 3])
    hold = one.mark("hold", 1, 2, 1)
    hold.write_text("")
    other = one.start()
    worker = one.reaches(1, 2, 1)  # the other sweep stands in the first cell's second task
    found = status(one.words, capsys)
    assert [cell["state"] for cell in found["cells"]] == ["running", "waiting", "waiting"]
    assert f"task 2 of 2, process {worker} on {os.uname().nodename}" in found["cells"][0]["detail"]
    assert found["processes"] == 1 and found["stages_left"] == 1 + 3 + 3
    assert main(["run", "--resume", str(one.cell(1)), "--plugin", str(one.plugin)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{one.cell(1)} is being worked on by process {worker} on {os.uname().nodename}" in said

    def let_go() -> None:
        until(lambda: all((one.cell(seed) / "metrics.json").exists() for seed in (2, 3)))
        hold.unlink()

    helper = threading.Thread(target=let_go)
    helper.start()
    assert main(one.sweep) == 0
    helper.join()
    assert f"digits_cil-sft+counted-1: left to process {worker} on" in capsys.readouterr().out
    assert (one.cell(1) / "metrics.json").exists()  # it was waited for
    assert other.wait(60) == 0
    updates = one.updates()
    expected = [(seed, task, step) for seed in (1, 2, 3) for task in (1, 2) for step in (1, 2)]
    assert sorted(row[:3] for row in updates) == expected
    assert {row[3] for row in updates if row[0] == 1} == {worker}
    assert worker not in {row[3] for row in updates if row[0] != 1}
    assert [path.name for path in one.runs.iterdir() if path.name.startswith(".digits")] == []


def test_a_killed_worker_loses_its_own_cell_only_and_a_killed_sweep_its_worker(
    lab: Callable[[list[int]], Lab], capsys: pytest.CaptureFixture[str]
) -> None:
    one = lab([1, 2])
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
    cells = status(one.words, capsys)["cells"]
    assert [(cell["state"], cell["detail"]) for cell in cells] == [
        ("stopped", f"task 1 of 2; process {first} has ended"),
        ("stopped", f"task 2 of 2; process {second} has ended"),
    ]
    assert status([str(one.runs)], capsys)["counts"]["stopped"] == 2
    kill.unlink()
    hold.unlink()
    keep_failure(one.cell(2), "KeyError: 'lost'")  # of a sweep before this one
    assert main(one.sweep) == 0
    assert Counter(row[:3] for row in one.updates()) == {
        (1, 1, 1): 2, (1, 1, 2): 2,  # a task that was cut short is made again
        (1, 2, 1): 1, (1, 2, 2): 1,
        (2, 1, 1): 1, (2, 1, 2): 1,  # a finished one is kept
        (2, 2, 1): 2, (2, 2, 2): 2,
    }  # fmt: skip
    assert not any(lock_path(one.cell(seed)).exists() for seed in (1, 2))
    assert not (one.cell(2) / "error.txt").exists()
    assert status(one.words, capsys)["counts"]["done"] == 2


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
