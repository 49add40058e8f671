"""MLflow, the real one on a SQLite file: what is fed comes back, once, in nested runs."""

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from clrft.cli.main import main
from clrft.tracking.runs import Tracker
from clrft.tracking.store import prepare_store, redacted_uri, without_secrets
from task_streams.errors import UserError
from tests.clrft.run_folders import write_run
from tests.clrft.stores import ROOT, answers, artifacts, history, points, preparation, root, runs
from tests.processes import free_port

__all__ = ["preparation", "root"]  # fixtures

ROWS = [{"step": 1, "reward": 0.25, "kl": 0.0}, {"step": 2, "reward": 0.75, "kl": None}]


def feed(root: Path, seed: int = 1993) -> None:
    """One cell of two tasks, told whole: t1 was 50 % right after the first and 25 % after the second, t2 100 %."""
    folder = root / "quickstart" / "digits_cil-rapo-1993"
    if not (folder / "config.yaml").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_run(root / "quickstart", "rapo", 1993, [[50, None], [25, 100]], steps=ROWS)  # type: ignore[list-item]
    tracker = Tracker(root, "quickstart")
    params = {"seed": seed, "train": {"lr": 1e-4, "name": "adam"}, "classes": ["a", "b"], "path": None}
    cell = tracker.cell(folder.name, params, {"data": "f1"})
    for index in (1, 2):
        task = cell.task(index, f"t{index}")
        task.steps(*ROWS)
        task.finish(folder / f"task_{index:02d}")
    assert cell.finish()
    tracker.finish([folder / "metrics.json"])


def test_a_sweep_fed_once_or_twice_is_one_tree_of_closed_runs_with_parameters_metrics_tags_and_files(
    root: Path,
) -> None:
    for _ in range(2):
        feed(root)
        (sweep,), (cell,) = runs(root, "sweep"), runs(root, "cell")
        tasks = sorted(runs(root, "task"), key=lambda run: run.info.run_name)
        assert cell.data.tags["mlflow.parentRunId"] == sweep.info.run_id
        assert [task.data.tags["mlflow.parentRunId"] for task in tasks] == [cell.info.run_id] * 2
        names = {run.info.run_name for run in (sweep, cell, *tasks)}
        assert names == {"quickstart", "digits_cil-rapo-1993", "task 01 t1", "task 02 t2"}
        assert {run.info.status for run in (sweep, cell, *tasks)} == {"FINISHED"}

        dotted = {"seed": "1993", "train.lr": "0.0001", "train.name": "adam", "classes": '["a", "b"]', "path": "null"}
        assert cell.data.params == dotted
        assert cell.data.tags["data"] == "f1"
        assert history(root, cell, "forgetting") == [(0, 0.25)]
        assert "Σ" in cell.data.tags["clrft.definition.forgetting"]
        assert artifacts(root, cell) == ["config.yaml", "manifest.json", "matrix.json", "metrics.json"]
        assert "fwt" not in cell.data.metrics  # an undefined metric is a reason and no number
        assert cell.data.tags["clrft.undefined.fwt"] == "not evaluated: R[j-1,j]: future tasks"
        assert history(root, cell, "accuracy/task_01") == [(1, 0.5), (2, 0.25)]  # one curve per task over stages
        assert history(root, cell, "accuracy/task_02") == [(2, 1.0)]  # stage 1 was not evaluated

        assert history(root, tasks[0], "reward") == [(1, 0.25), (2, 0.75)]
        assert history(root, tasks[0], "kl") == [(1, 0.0)]  # None is left out, never 0
        assert artifacts(root, tasks[0]) == ["metrics.json", "predictions.jsonl"]


@pytest.mark.parametrize(
    ("rows", "goes_on"),
    [
        (ROWS[:1], True),  # as it is after some seconds: it gets the rest
        ([{"step": step, "reward": 9.0} for step in range(1, 1002)], False),  # more than one batch, of other figures
    ],
)
def test_a_task_that_died_half_fed_gets_the_rest_or_is_begun_again(
    rows: list[dict[str, float | None]], goes_on: bool, root: Path
) -> None:
    folder = write_run(root / "quickstart", "rapo", 1993, [[50]], steps=ROWS)  # type: ignore[list-item]
    dying = Tracker(root, "quickstart")
    task = dying.cell(folder.name, {}).task(1, "t1")
    task.steps(*rows)
    task.flush()
    assert dying.drained()
    (before,) = runs(root, "task")
    assert history(root, before, "reward") == [(row["step"], row["reward"]) for row in rows]
    cell = Tracker(root, "quickstart").cell(folder.name, {})
    again = cell.task(1, "t1")
    again.steps(*([] if goes_on else ROWS))
    again.finish(folder / "task_01")
    assert cell.finish()
    (run,) = runs(root, "task")
    assert (run.info.run_id == before.info.run_id) == goes_on
    assert history(root, run, "reward") == [(1, 0.25), (2, 0.75)]


def test_a_task_that_is_learned_anew_replaces_the_one_before_and_stays_nested(root: Path) -> None:
    feed(root)
    folder = root / "quickstart" / "digits_cil-rapo-1993"
    rows = [{"step": 1, "reward": 0.5}]
    other = write_run(root / "other", "rapo", 1993, [[50, None], [75, 100]], steps=rows)  # forgets nothing
    for name in ("matrix.json", "metrics.json", "task_02/steps.jsonl", "task_02/metrics.json"):
        shutil.copy(other / name, folder / name)
    cell = Tracker(root, "quickstart").cell(folder.name, {})
    for index in (1, 2):
        cell.task(index, f"t{index}").finish(folder / f"task_{index:02d}", learned_before=index == 1)
    assert cell.finish()
    (run,) = runs(root, "cell")
    first, second = sorted(runs(root, "task"), key=lambda run: run.info.run_name)
    assert [task.data.tags["mlflow.parentRunId"] for task in (first, second)] == [run.info.run_id] * 2
    assert history(root, run, "accuracy/task_01") == [(1, 0.5), (2, 0.75)]
    assert history(root, first, "reward") == [(1, 0.25), (2, 0.75)]
    assert history(root, second, "reward") == [(1, 0.5)]


def test_an_interrupted_cell_is_closed_with_its_task_and_opened_again_by_a_resume(root: Path) -> None:
    first = Tracker(root, "quickstart").cell("cell", {"seed": 1})
    first.task(1, "t1").steps(*ROWS)
    first.stop("KILLED")
    for kind in ("sweep", "cell", "task"):
        assert [run.info.status for run in runs(root, kind)] == ["KILLED"]
    tracker = Tracker(root, "quickstart")
    tracker.cell("cell", {"seed": 1})
    assert tracker.drained()
    assert [run.info.status for run in runs(root, "cell")] == ["RUNNING"]  # the same one


def test_a_sweep_with_a_cell_that_failed_has_failed_until_the_cell_is_finished(root: Path) -> None:
    feed(root)
    Tracker(root, "quickstart").cell("other", {}).stop("FAILED")
    Tracker(root, "quickstart").finish()
    assert [run.info.status for run in runs(root, "sweep")] == ["FAILED"]
    other = root / "quickstart" / "other"
    shutil.copytree(write_run(root / "elsewhere", "sft", 7, [[50]]), other, dirs_exist_ok=True)
    assert Tracker(root, "quickstart").cell("other", {}).finish()
    Tracker(root, "quickstart").finish()
    assert [run.info.status for run in runs(root, "sweep")] == ["FINISHED"]
    (other.with_name("third")).mkdir()
    (other.with_name("third") / "error.txt").write_text("it failed before it was tracked\n")
    Tracker(root, "quickstart").finish()
    assert [run.info.status for run in runs(root, "sweep")] == ["FAILED"]


def test_a_cell_whose_folder_was_removed_gets_a_new_run_and_marks_the_old_one(root: Path) -> None:
    feed(root, seed=1993)
    shutil.rmtree(root / "quickstart" / "digits_cil-rapo-1993")
    feed(root, seed=7)
    old, new = sorted(runs(root, "cell"), key=lambda run: run.info.start_time)
    assert (old.data.params["seed"], old.data.tags["clrft.superseded"]) == ("1993", "true")
    assert (new.data.params["seed"], "clrft.superseded" in new.data.tags) == ("7", False)


def test_long_secret_and_diverged_values_are_kept_as_far_as_mlflow_may_have_them(root: Path) -> None:
    secret = "http://ann:s3cret@host"
    params = {f"p{index}": index for index in range(250)} | {"long": "x" * 7000, "uri": secret}
    cell = Tracker(root, "quickstart").cell("cell", params, {"where": secret})
    cell.task(1, "one").steps({"step": 1, "loss": math.nan})
    cell.stop("FAILED")
    (run,), (task,) = runs(root, "cell"), runs(root, "task")
    assert len(run.data.params) == 252
    assert run.data.params["long"].endswith("… (7000 characters)")
    assert len(run.data.params["long"]) == 6000
    assert b"s3cret" not in (root / "mlflow.db").read_bytes()
    assert run.data.params["uri"] == "http://***@host"
    ((step, value),) = history(root, task, "loss")
    assert step == 1 and math.isnan(value)


def test_two_processes_write_one_store_and_share_one_sweep(root: Path) -> None:
    rows = [{"step": step, **{f"m{k}": 1.0 for k in range(10)}} for step in range(1, 151)]
    folders = [write_run(root / "quickstart", "sft", seed, [[50, None]] * 2, steps=rows) for seed in (1, 2)]
    program = (
        "import json, sys; from pathlib import Path; from clrft.tracking.runs import Tracker\n"
        "folder = Path(sys.argv[1]); cell = Tracker(folder.parent.parent, 'quickstart').cell(folder.name, {'a': 1})\n"
        "for index in range(1, 3):\n"
        "    task = cell.task(index, 'one')\n"
        "    for step in range(1, 151): task.steps({'step': step, **{f'm{k}': 1.0 for k in range(10)}})\n"
        "    task.finish(folder / f'task_{index:02d}')\n"
        "sys.exit(0 if cell.finish() else 3)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT) for folder in folders]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert len(runs(root, "sweep")) == 1
    assert len(runs(root, "cell")) == 2
    figures = [sum(key.startswith("m") for key, _, _ in points(root, task)) for task in runs(root, "task")]
    assert figures == [150 * 10] * 4


def test_tracking_switched_off_touches_no_store(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, "quickstart", enabled=False)
    cell = tracker.cell("cell", {"seed": 1})
    task = cell.task(1, "one")
    task.steps(*ROWS)
    with pytest.raises(ValueError, match="needs its step"):
        task.steps({"reward": 1.0})
    task.finish(tmp_path)
    assert cell.finish()
    tracker.finish()
    assert os.listdir(tmp_path) == ["quickstart"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("nonsense://ann:s3cret@host/x?token=t0ken", "unsupported URI"),
        ("http://[ann:s3cret@host", "is no URI"),
        ("sqlite:////proc/nowhere/s3cret.db?password=s3cret", ""),
    ],
)
def test_an_impossible_store_is_refused_before_any_work_and_keeps_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, expected: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=f"(?s)MLFLOW_TRACKING_URI|MLflow.*{expected}.*[Ee]xpected") as caught:
        prepare_store(tmp_path)
    with pytest.raises(UserError):
        Tracker(tmp_path, "quickstart")
    assert not [secret for secret in ("ann", "password", ":s3cret", "t0ken") if secret in str(caught.value)]
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # it would print the secret


def test_a_server_that_cannot_be_reached_is_a_warning_before_a_run_and_an_error_of_a_sync_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:9")
    assert prepare_store(tmp_path) == "http://***@127.0.0.1:9"
    assert main(["sync", str(write_run(tmp_path / "quickstart", "rapo", 1993, [[50]]))]) == 2
    told = capsys.readouterr()
    for begin in ("warning: ", "error "):
        assert f"{begin}MLflow at http://***@127.0.0.1:9 did not take a call" in told.err and "refused" in told.err
    assert "ann:" not in told.out + told.err and "s3cret" not in told.out + told.err


def test_a_store_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database, but long enough to be taken for one" * 100)
    with pytest.raises(UserError, match="not a database"):
        prepare_store(tmp_path)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://ann:s3cret@host:5000/path", "http://***@host:5000/path"),
        ("postgresql://ann:p@ss@host/db?sslpassword=x", "postgresql://***@host/db?***"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("got 'http://a:b@h/x' and ftp://c:d@h", "got 'http://***@h/x' and ftp://***@h"),
        ("mail ann@example.org?", "mail ann@example.org?"),
    ],
)
def test_a_uri_and_a_message_that_quotes_pieces_of_it_are_shown_without_its_secrets(uri: str, expected: str) -> None:
    assert redacted_uri(uri) == expected
    uri = "http://ann:p%40ss@host/x?token=t0ken&mode=fast"
    text = f"no route to {uri}/api, Max retries exceeded with url: /x?token=t0ken&mode=fast (for ann, p@ss, p%40ss)"
    found = without_secrets(text, uri)
    assert not [secret for secret in ("ann", "p@ss", "p%40ss", "t0ken") if secret in found]
    assert "Max retries exceeded with url" in found and "host" in found


def test_the_user_interface_answers_on_loopback_until_it_is_interrupted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # half of its start
    port = free_port()
    command = [sys.executable, "-m", "clrft", "ui", "--output", str(root), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ours:
        try:
            assert answers(f"http://127.0.0.1:{port}/health", within=120)
            listening = [one.laddr for one in psutil.net_connections("inet") if one.status == psutil.CONN_LISTEN]
            assert {address.ip for address in listening if address.port == port} == {"127.0.0.1"}
            ours.send_signal(signal.SIGINT)
            assert ours.wait(timeout=60) == 0
        finally:
            ours.kill()
    assert not answers(f"http://127.0.0.1:{port}/health", within=1)
