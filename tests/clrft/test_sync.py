"""A store that dies, is slow or was never there: runs go on, and a sync gives it what it lacks, exactly once."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from clrft.cli.main import main
from clrft.runs.read import read_run
from clrft.tracking.queue import END_SECONDS, CallQueue
from clrft.tracking.runs import Tracker, is_marked
from clrft.tracking.store import Store, Unreachable, prepare_store, tracking_uri
from clrft.utils.locks import held
from task_streams.errors import UserError
from tests.clrft.run_folders import write_run
from tests.clrft.stores import ROOT, Points, Server, artifacts, points, preparation, root, runs

__all__ = ["preparation", "root"]  # fixtures

ROWS = [{"step": step, "reward": step / 8, "kl": 0.5} for step in range(1, 5)]
SMALL = ["stream=digits_cil", "stream.tasks=2", "stream.shots=4", "stream.test_per_class=2", "train.updates=2"]
SMALL += ["train.prompts_per_update=4", "evaluate.probe=0", "evaluate.drift_prompts=1"]


def written(folder: Path, seed: int = 1993) -> Path:
    """A finished run of two tasks, known by nobody: t1 50 % right and then 25 %, t2 100 %."""
    return write_run(folder / "short", "rapo", seed, [[50, None], [25, 100]], steps=ROWS)


def of_files(folder: Path) -> Points:
    """What a store is to hold of a task, read from its files plainly."""
    rows = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    record = json.loads((folder / "metrics.json").read_text())
    found = [(key, row["step"], value) for row in rows for key, value in row.items() if key != "step"]
    found += [(f"accuracy/task_{int(j):02d}", 0, value) for j, value in record["accuracy"].items()]
    for group, prefix in (("drift", "drift/"), ("seconds", "seconds/"), ("peak_memory_mb", "")):
        found += [(f"{prefix}{name}", 0, value) for name, value in record.get(group, {}).items() if name != "undefined"]
    return sorted(point for point in found if point[2] is not None)


def check_whole(store: Path | str, folder: Path) -> None:
    """The store holds a run's files: every point of every task once, the cell's metrics, the artifacts."""
    (cell,) = [run for run in runs(store, "cell") if run.info.run_name == folder.name]
    tasks = [run for run in runs(store, "task") if run.data.tags["mlflow.parentRunId"] == cell.info.run_id]
    stages = sorted(path.parent for path in folder.glob("task_*/metrics.json"))
    by_task = {int(run.data.tags["clrft.task"]): run for run in tasks}
    assert len(by_task) == len(tasks) == len(stages)
    for stage in stages:
        run = by_task[int(stage.name[5:])]
        assert points(store, run) == of_files(stage)
        assert artifacts(store, run) == ["metrics.json", "predictions.jsonl"]
    record = read_run(folder)
    single = [key for key, value in record.metrics.items() if value.value is not None]
    size = len(record.matrix)
    assert len(points(store, cell)) == len(single) + size * (size + 1) // 2  # and the matrix' lower triangle
    assert artifacts(store, cell) == ["config.yaml", "manifest.json", "matrix.json", "metrics.json"]
    assert {run.info.status for run in (cell, *tasks)} == {"FINISHED"}


@pytest.fixture
def server(tmp_path: Path, preparation: Path) -> Iterator[Server]:
    one = Server(tmp_path / "server", preparation)
    one.start()
    one.wait()
    yield one
    one.kill()


def test_a_server_killed_inside_a_run_fails_nothing_and_a_sync_completes_its_store(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("://", "://ann:s3cret@"))
    folder = tmp_path / "runs" / "single" / "digits_cil-sft-1993"

    def kill_after_task_one() -> None:
        while not (folder / "task_01" / "metrics.json").exists():
            time.sleep(0.01)
        server.kill()

    killer = threading.Thread(target=kill_after_task_one, daemon=True)
    killer.start()
    assert main(["run", *SMALL, "method=sft", f"run.output={tmp_path / 'runs'}"]) == 0
    killer.join()
    said = capfd.readouterr()
    assert "last_acc" in said.out
    assert f"MLflow lacks some of {folder.name}; clrft sync {folder} feeds it." in said.err
    assert said.err.count("did not take a call") == 1
    assert not is_marked(folder)
    server.start()
    server.wait()
    assert main(["sync", str(folder)]) == 0
    assert main(["sync", str(folder)]) == 0
    told = capfd.readouterr()
    assert told.out.count("added") >= 1 and f"{folder}: nothing is missing" in told.out
    check_whole(server.uri, folder)
    assert is_marked(folder)
    assert [run.info.status for run in runs(server.uri, "sweep")] == ["FINISHED"]
    assert "s3cret" not in said.out + said.err + told.out + told.err
    assert not holding(tmp_path, b"s3cret")


def holding(folder: Path, secret: bytes) -> list[Path]:
    """Files under a folder that hold a secret."""
    return [path for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]


@pytest.fixture
def black_hole() -> Iterator[str]:
    """URI of a server with which connections are made and that never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://ann:s3cret@127.0.0.1:{listener.getsockname()[1]}/?token=t0ken"


def test_a_server_that_never_answers_does_not_hold_training_up(
    tmp_path: Path, black_hole: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", black_hole)
    made: list[tuple[str, str]] = []
    call = Store.call

    def watched(store: Store, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        made.append((threading.current_thread().name, function.__name__))
        return call(store, function, *arguments, **named)

    monkeypatch.setattr(Store, "call", watched)
    assert main(["run", *SMALL, "method=sft", f"run.output={tmp_path / 'runs'}"]) == 0
    folder = tmp_path / "runs" / "single" / "digits_cil-sft-1993"
    said = capfd.readouterr()
    assert "last_acc" in said.out and f"clrft sync {folder} feeds it" in said.err
    # what trains asks the server for nothing: the thread beside it does, one call of which waits for 10 s
    assert {name for thread, name in made if thread != "tracking"} == {"MlflowClient"}
    assert "tracking" in dict(made)
    assert not [secret for secret in ("s3cret", "t0ken") if secret in said.out + said.err]
    assert not holding(tmp_path, b"s3cret") and not holding(tmp_path, b"t0ken")


def test_ten_thousand_steps_are_taken_at_once_and_the_end_waits_a_bounded_time(
    tmp_path: Path, black_hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", black_hole)
    said: list[str] = []
    tracker = Tracker(tmp_path, "short", say=said.append)
    task = tracker.cell("cell", {}).task(1, "t1")
    start = time.monotonic()
    for step in range(1, 10_001):
        task.steps({"step": step, **{f"m{k}": 1.0 for k in range(100)}})
        task.flush()
    assert time.monotonic() - start < 60  # one answered call takes more than 1 ms; these are 10 000
    assert tracker.queue is not None
    assert len(tracker.queue.waiting) == 4  # the three runs to be opened, and one call for all steps
    start = time.monotonic()
    assert not tracker.drained(tmp_path / "short" / "cell")
    assert END_SECONDS - 0.5 < time.monotonic() - start < 10 * END_SECONDS
    assert said[-1] == f"MLflow lacks some of cell; clrft sync {tmp_path / 'short' / 'cell'} feeds it."


def test_a_store_that_comes_back_gets_everything_in_order_and_one_that_refuses_the_next_calls() -> None:
    failures = iter([True, True, False])
    done: list[str] = []
    said: list[str] = []

    def flaky() -> None:
        if next(failures):
            raise Unreachable("away")
        done.append("first")

    queue = CallQueue("a store that comes back", lambda: len(done), said.append)
    queue.put(flaky)
    queue.put(lambda: done.append("second"))
    assert queue.drain()
    assert (done, said) == (["first", "second"], ["warning: away"])
    queue = CallQueue("a store that refuses", lambda: 0, said.append)
    queue.put(lambda: [][0])  # lost
    queue.put(lambda: done.append("next"))
    assert not queue.drain()
    assert (done[2:], said[1:]) == (["next"], ["warning: tracking: IndexError: list index out of range"])


def test_a_sync_feeds_whole_runs_once_and_a_dry_one_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path)
    assert main(["sync", str(tmp_path / "short"), "--dry-run"]) == 0
    # 2 tasks: 2 x 4 steps, and accuracies 1 + 2; the cell: 3 cells of the matrix and its metrics
    metrics = sum(value.value is not None for value in read_run(folder).metrics.values())
    assert f"{folder}: would add 3 runs, {8 + 8 + 3 + 3 + metrics} metric points, 8 files" in capsys.readouterr().out
    assert not (tmp_path / "mlflow.db").exists() and not (folder / "mlflow.json").exists()
    (tmp_path / "short" / "comparison").mkdir()
    (tmp_path / "short" / "comparison" / "table.md").write_text("| a |\n")
    assert main(["sync", str(tmp_path / "short")]) == 0
    assert f"{folder}: added 3 runs, {22 + metrics} metric points, 8 files" in capsys.readouterr().out
    for _ in range(2):
        assert main(["sync", str(folder)]) == 0
        assert f"{folder}: nothing is missing" in capsys.readouterr().out
    check_whole(tmp_path, folder)
    assert [artifacts(tmp_path, run) for run in runs(tmp_path, "sweep")] == [["table.md"]]


KILLED = """
import os, signal, sys
from pathlib import Path
from clrft.tracking.sync import sync_root
from clrft.tracking.store import Store
made, call, last, after = 0, Store.call, int(sys.argv[2]), sys.argv[3] == "after"
def counted(self, function, *arguments, **named):
    global made
    made += 1
    if made == last and not after: os.kill(os.getpid(), signal.SIGKILL)
    done = call(self, function, *arguments, **named)
    if made == last: os.kill(os.getpid(), signal.SIGKILL)
    return done
Store.call = counted
folder = Path(sys.argv[1])
sync_root(folder.parent.parent, [folder], dry=False)
"""


def test_a_sync_leaves_out_what_is_worked_on_and_killed_again_and_again_ends_with_everything_once(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(root)
    with held(folder):  # a run that is being worked on
        assert main(["sync", str(folder)]) == 0
    assert f"{folder}: left out, process {os.getpid()} on" in capsys.readouterr().out
    assert not runs(root, "cell")
    for last, moment in ((14, "after"), (19, "before")):
        words = [sys.executable, "-c", KILLED, str(folder), str(last), moment]
        assert subprocess.run(words, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert main(["sync", str(folder)]) == 0
    check_whole(root, folder)


def test_a_store_that_holds_something_else_gets_the_task_anew(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(root)
    assert main(["sync", str(folder)]) == 0
    client = MlflowClient(tracking_uri(root))
    first, second = sorted(runs(root, "task"), key=lambda run: run.info.run_name)
    client.log_metric(first.info.run_id, "reward", ROWS[0]["reward"], step=1)  # twice
    client.log_metric(second.info.run_id, "reward", 1.0, step=9)  # there never was a step 9
    capsys.readouterr()
    assert main(["sync", str(folder), "--dry-run"]) == 0
    assert "would add" in capsys.readouterr().out
    assert main(["sync", str(folder)]) == 0
    assert "2 of the runs anew, as the store held something else" in capsys.readouterr().out
    check_whole(root, folder)


def test_a_store_in_a_folder_of_any_name_keeps_its_files_beside_it_where_it_is_moved_or_copied(
    tmp_path: Path, preparation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, moved, copied = (tmp_path / name for name in ("a?b%20c #é", "moved", "copied"))
    first.mkdir()
    shutil.copy(preparation, first / "mlflow.db")
    folder = written(first)
    assert main(["sync", str(folder)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    check_whole(first, folder)
    first.rename(moved)
    shutil.copytree(moved, copied)
    shutil.rmtree(copied / "mlartifacts")
    before = sorted((path, path.stat().st_mtime_ns) for path in moved.rglob("*"))
    capsys.readouterr()
    _artifact_repos_cache.clear()  # as another process finds it; MLflow knows places by the run's id alone
    assert main(["sync", str(copied / "short" / folder.name)]) == 0
    assert "added 8 files" in capsys.readouterr().out  # the copy's own, not those of where it comes from
    check_whole(copied, copied / "short" / folder.name)
    assert sorted((path, path.stat().st_mtime_ns) for path in moved.rglob("*")) == before
    _artifact_repos_cache.clear()
    assert main(["sync", str(moved / "short" / folder.name)]) == 0
    assert "nothing is missing" in capsys.readouterr().out
    check_whole(moved, moved / "short" / folder.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "moved"]


def test_runs_of_another_user_are_fed_into_a_store_of_ones_own_and_left_as_they_are(
    tmp_path: Path, preparation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "theirs")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "theirs").rglob("*"))
    shutil.copy(preparation, tmp_path / "mine.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mine.db'}")
    real = os.access  # which says of root that it may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode, **how: "theirs" not in str(path) and real(path, mode, **how))
    assert main(["sync", str(folder)]) == 0
    assert f"{folder}: added 3 runs" in capsys.readouterr().out
    assert main(["sync", str(folder)]) == 0
    assert f"{folder}: nothing is missing" in capsys.readouterr().out
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "theirs").rglob("*")) == before


def test_a_deleted_experiment_is_taken_back_with_its_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(root)
    assert main(["sync", str(folder)]) == 0
    client = MlflowClient(tracking_uri(root))
    client.delete_experiment(client.get_experiment_by_name("clrft").experiment_id)
    capsys.readouterr()
    assert main(["sync", str(folder)]) == 0
    told = capsys.readouterr()
    assert "experiment 'clrft' had been deleted; it was restored" in told.err and "nothing is missing" in told.out
    check_whole(root, folder)


def test_a_database_of_another_version_of_mlflow_is_copied_before_it_may_be_changed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # MLflow 1.3
    with pytest.raises(UserError, match="out-of-date database schema"):  # what this MLflow says of it
        prepare_store(root)
    kept = root / "mlflow.db.451aebb31d03"
    assert f"a copy is kept at {kept}." in capsys.readouterr().err
    with closing(sqlite3.connect(kept)) as database:
        assert database.execute("SELECT name FROM experiments WHERE name = 'clrft'").fetchall() == [("clrft",)]


def test_a_long_wait_for_one_call_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(root)
    monkeypatch.setattr("clrft.tracking.store._SILENCE", 0.05)
    store.call(time.sleep, 0.5)
    assert capsys.readouterr().err == f"waiting for MLflow at {store.uri}, which has not answered for 0.05 s\n"
    store.call(time.sleep, 0.01)
    assert capsys.readouterr().err == ""


def test_an_unfinished_run_is_fed_as_far_as_it_is_and_closed(root: Path) -> None:
    folder = written(root)
    for name in ("metrics.json", "matrix.json"):
        (folder / name).unlink()
    tracker = Tracker(root, "short")
    task = tracker.cell(folder.name, {}).task(3, "t3")
    task.steps(*ROWS)
    task.flush()
    assert tracker.drained()  # and the process dies
    assert main(["sync", str(folder)]) == 0
    (cell,) = runs(root, "cell")
    ends = {run.info.run_name: run.info.status for run in runs(root, "task")}
    assert cell.info.status == "KILLED" and not cell.data.metrics
    assert ends == {"task 01 t1": "FINISHED", "task 02 t2": "FINISHED", "task 03 t3": "KILLED"}
    (first,) = [run for run in runs(root, "task") if run.info.run_name == "task 01 t1"]
    assert points(root, first) == of_files(folder / "task_01")
