"""Real sweeps in worker processes with MLflow's real store; how many run at a time, and on which GPU and disk.

Several on one folder at once, and killed ones: every update is made once, and none is lost.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from clrft.analysis import taxonomy as kinds
from clrft.cli.main import main
from clrft.config.run_config import build_config
from clrft.config.sweeps import load_sweep
from clrft.runner.outcome import keep_failure, known_failure
from clrft.runs.read import find_runs
from clrft.runs.taxonomy import run_kinds
from clrft.sweep.executors import Setup, default_jobs, gpus
from clrft.sweep.local_workers import Workers, seeing
from clrft.utils.files import clean_partials, machine, partial_of, write_first
from clrft.utils.locks import file_system_now, held, lock_path, look
from clrft.utils.process_identity import lives
from task_streams.errors import UserError
from tests.clrft.counted import COUNTED, Lab, until
from tests.clrft.faulty_methods import faulty
from tests.clrft.stores import history, runs
from tests.task_streams.streams import write_tree

SWEEP = """
streams: [digits_cil]
methods: [zero_shot, sft, rapo]
seeds: [1990]
set:
  stream: {tasks: 2, shots: 8, test_per_class: 1}
  train: {updates: 2, prompts_per_update: 4}
  evaluate: {probe: 0}
"""
PER_METHOD = "per_method:\n  grpo: {train: {prompts_per_update: 17}}\n"


def test_a_sweep_runs_compares_tracks_and_skips_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mini.yaml").write_text(SWEEP)
    words = ["sweep", str(tmp_path / "mini.yaml"), f"run.output={tmp_path / 'runs'}", "--jobs", "2"]
    counted = Mock(wraps=run_kinds)
    monkeypatch.setattr(kinds, "run_kinds", counted)
    assert main(words) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "runs" / "mini"
    # each run once for the comparison and the report together
    assert sorted(call.args[0] for call in counted.call_args_list) == sorted(folder.glob("digits_*"))
    assert "zero_shot" in said and str(folder / "comparison") in said and "mlflow.db" in said
    assert len(find_runs([folder]).runs) == 3
    assert {"table.md", "matrices.png", "curves.png"} <= {path.name for path in (folder / "comparison").iterdir()}
    assert f"report: {folder / 'report' / 'index.html'}" in said and (folder / "report" / "index.html").is_file()
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")} == stamps
    # One sweep, three cells, and below each its stages: base and two tasks.
    store = tmp_path / "runs"
    assert [len(runs(store, kind)) for kind in ("sweep", "cell", "task")] == [1, 3, 9]
    (rapo,) = [run for run in runs(store, "cell") if run.data.tags["clrft.cell"] == "digits_cil-rapo-1990"]
    assert rapo.data.params["train.updates"] == "2" and "forgetting" in rapo.data.metrics
    children = [run for run in runs(store, "task") if run.data.tags["mlflow.parentRunId"] == rapo.info.run_id]
    (task,) = [run for run in children if run.data.tags["clrft.task"] == "2"]
    assert [step for step, _ in history(store, task, "drift")] == [1, 2]


FAULTY = {
    "sft+raises": ("raises.py, line 19), after_step: KeyError: 'lost'", 1),
    "grpo": ("train.prompts_per_update: got 17, but task", 0),
    "grpo+gives_nan": ("gives_nan.py), shape_rewards: returned 32 of 32 values that are not finite.", 1),
    "grpo+wrong_shape": ("wrong_shape.py), shape_rewards: returned shape (4, 8), expected (32,).", 1),
    "sft+mutates_anchor": ("mutates_anchor.py): the anchor's weights were changed during the task (1 of", 2),
}  # what is said of a method, and how many of its stages are finished


def test_a_failing_cell_is_reported_does_not_count_as_done_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    plugins = [faulty(words.partition("+")[2], tmp_path) for words in FAULTY if "+" in words]
    (tmp_path / "mini.yaml").write_text(SWEEP.replace("zero_shot, sft, rapo", ", ".join([*FAULTY, "sft"])) + PER_METHOD)
    words = ["sweep", str(tmp_path / "mini.yaml"), f"run.output={tmp_path / 'runs'}", "--jobs", "2"]
    assert main([*words, *(word for path in plugins for word in ("--plugin", str(path)))]) == 1
    said = " ".join(capsys.readouterr().out.split())
    root = tmp_path / "runs" / "mini"
    assert [one.method for one in find_runs([root]).runs] == ["sft"]
    for method, (reason, stages) in FAULTY.items():
        folder, fault = root / f"digits_cil-{method}-1990", method.partition("+")[2]
        told = f"{folder.name}: " + (f"method '{fault}' ({tmp_path}" if fault else reason)
        assert told in said and reason in said
        assert (folder / "error.txt").read_text().startswith(told.partition(": ")[2])
        assert sorted(path.name for path in folder.glob("task_*")) == [f"task_{stage:02d}" for stage in range(stages)]
        assert not (folder / "metrics.json").exists()
    cells = {run.data.tags["clrft.cell"]: run.info for run in runs(tmp_path / "runs", "cell")}
    failed = {f"digits_cil-{method}-1990": "FAILED" for method, (_, stages) in FAULTY.items() if stages}
    assert {name: cell.status for name, cell in cells.items()} == failed | {"digits_cil-sft-1990": "FINISHED"}
    parent, tasks = cells["digits_cil-sft+raises-1990"].run_id, runs(tmp_path / "runs", "task")
    own = {
        one.data.tags["clrft.task"]: one.info.status for one in tasks if one.data.tags["mlflow.parentRunId"] == parent
    }
    assert own == {"0": "FINISHED", "1": "FAILED"}
    assert [run.info.status for run in runs(tmp_path / "runs", "sweep")] == ["FAILED"]


def test_seeds_can_be_a_published_preset(tmp_path: Path) -> None:
    (tmp_path / "mini.yaml").write_text("streams: [digits_cil]\nmethods: [sft]\nseeds: rapo_detection_5\n")
    assert [cell.seed for cell in load_sweep(str(tmp_path / "mini.yaml"), {})] == [136, 377, 639]
    with pytest.raises(UserError, match="Did you mean 'rapo_image'"):
        load_sweep(str(tmp_path / "mini.yaml"), {"seeds": "rapo_imag"})


def test_cells_on_data_in_files_train_with_loading_processes_as_without(tmp_path: Path) -> None:
    write_tree(tmp_path / "birds", ["jay", "owl", "wren", "tit"], 12)
    plan = f"""
streams: [{tmp_path / "birds.yaml"}]
methods: [grpo]
seeds: [1990]
vary: {{train.workers: [0, 2]}}
set:
  run: {{mlflow: false}}
  train: {{updates: 3, prompts_per_update: 4, max_completion_tokens: 40}}
  evaluate: {{probe: 0}}
"""
    stream = f"stream: {{name: folder_cil, root: {tmp_path / 'birds'}, tasks: 2, shots: 4, test_per_class: 2}}\n"
    (tmp_path / "birds.yaml").write_text(stream)
    (tmp_path / "mini.yaml").write_text(plan)
    assert main(["sweep", str(tmp_path / "mini.yaml"), f"run.output={tmp_path / 'runs'}", "--jobs", "1"]) == 0
    first, second = sorted((tmp_path / "runs" / "mini").glob("birds-*/task_02/weights/model.safetensors"))
    assert first.read_bytes() == second.read_bytes()  # three updates of four prompts: two epochs and more


SMALL = ["run", "stream=digits_cil", "method=sft", "seed=1993", "stream.tasks=2", "stream.shots=4", "run.mlflow=false"]
SMALL += ["stream.test_per_class=1", "train.updates=2", "train.prompts_per_update=4", "evaluate.probe=0"]


def seen() -> str:
    """What a process that is started now has as its GPUs."""
    return subprocess.run(["printenv", "CUDA_VISIBLE_DEVICES"], capture_output=True, text=True).stdout.strip()


def test_a_worker_sees_one_gpu_and_this_process_what_it_saw_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-8932f937")
    with seeing("GPU-8932f937"):
        assert seen() == "GPU-8932f937"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,GPU-8932f937"
    with seeing(""):  # no GPU to share: as before
        assert seen() == "4,GPU-8932f937"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with seeing("1"):
        assert seen() == "1"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_workers_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(setup: Setup, device: str) -> SimpleNamespace:
        return SimpleNamespace(device=device, pipe=SimpleNamespace(send=lambda cell: None), cell=None)

    monkeypatch.setattr("clrft.sweep.local_workers.Worker", other)
    cells = [build_config("digits_cil", "sft", "tiny", seed) for seed in range(6)]
    workers = Workers(5, Setup(1, (), 0), ("0", "1"))
    for cell in cells[:5]:
        workers.give(cell)
    assert [worker.device for worker in workers.workers] == ["0", "1", "0", "1", "0"]
    assert default_jobs(cells, ("0", "1")) == 2  # one per GPU
    assert default_jobs(cells[:1], ("0", "1")) == 1
    on_cpu = [build_config("digits_cil", "sft", "tiny", 1, {"model": {"device": "cpu"}})]
    assert gpus(on_cpu) == ()


def test_half_written_files_of_other_machines_go_and_of_two_that_write_a_file_first_one_wins(tmp_path: Path) -> None:
    mine = partial_of(tmp_path / "matrix.json")
    assert mine.name == f".matrix.json.partial-{os.getpid()}-{machine()}"
    other = tmp_path / f".matrix.json.partial-{os.getpid()}-00000000"  # a container with the same process number
    for path in (mine, other):
        path.write_text("{")
    assert clean_partials(tmp_path) == [other.name]  # the lock is ours: whoever wrote it there is gone
    assert mine.exists()
    for text in ("one", "two"):
        write_first(tmp_path / "mlflow.json", text)
    assert set(tmp_path.iterdir()) == {mine, tmp_path / "mlflow.json"}
    assert (tmp_path / "mlflow.json").read_text() == "one"


def test_a_lock_that_another_machine_has_just_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # as a network's file system says it
    with held(tmp_path / "cell"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", Mock(side_effect=stale))
            assert look(lock_path(tmp_path / "cell")) is None
        assert look(lock_path(tmp_path / "cell")) is not None


def test_a_run_folder_that_was_moved_or_linked_goes_on_with_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, f"run.output={tmp_path / 'runs'}"]) == 0
    (whole,) = (tmp_path / "runs" / "single").glob("digits_cil-*")
    moved = tmp_path / "archive" / "single" / whole.name
    shutil.copytree(whole, moved)
    linked = tmp_path / "linked" / "single"
    again = [*SMALL, f"run.output={linked.parent}"]
    target = tmp_path / "disk" / whole.name
    shutil.copytree(whole, target)
    linked.mkdir(parents=True)
    (linked / whole.name).symlink_to(target)
    for folder in (moved, target):  # as a run that was stopped after its first task
        shutil.rmtree(folder / "task_02")
        (folder / "matrix.json").unlink()
        (folder / "metrics.json").unlink()
    capsys.readouterr()
    assert main(["run", "--resume", str(moved)]) == 0
    assert main(again) == 0
    assert capsys.readouterr().out.count("going on after stage 1") == 2
    for folder in (moved, target):
        assert json.loads((folder / "matrix.json").read_text()) == json.loads((whole / "matrix.json").read_text())
        weights = "task_02/weights/model.safetensors"
        assert (folder / weights).read_bytes() == (whole / weights).read_bytes()
    assert lock_path(linked / whole.name) == target.parent / f".{whole.name}.lock"  # one lock, whichever way one comes
    with held(target):
        assert main(again) == 0  # done: only shown
        (target / "metrics.json").unlink()
        assert main(again) == 2
    assert f"is being worked on by process {os.getpid()}" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[int]], Lab]]:
    """Makes a sweep of some seeds whose updates are counted; what it has started ends with the test."""
    made: list[Lab] = []
    monkeypatch.setenv("COUNTED_IN", str(tmp_path))
    (tmp_path / "counted.py").write_text(COUNTED)

    def make(seeds: list[int]) -> Lab:
        made.append(Lab(tmp_path, tmp_path / "counted.py", seeds))
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
