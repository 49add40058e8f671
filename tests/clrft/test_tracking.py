"""MLflow, the real one on a SQLite file: what is fed comes back, once, in nested runs."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from clrft.tracking import Tracker, flattened
from clrft.tracking_store import prepare_store, redacted_uri, serve_ui, tracking_uri
from eval.matrix import AccuracyMatrix
from eval.metrics import Value
from task_streams.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"step": 1, "reward": 0.25, "kl": 0.0}, {"step": 2, "reward": 0.75, "kl": None}]


@pytest.fixture(scope="module")
def preparation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A store prepared by a process of its own, and what that printed; it takes seconds, so tests copy it."""
    root = tmp_path_factory.mktemp("prepared")
    program = (
        "import sys; from pathlib import Path; from clrft.tracking_store import prepare_store\n"
        "assert 'mlflow' not in sys.modules, 'imported too early'; prepare_store(Path(sys.argv[1]))\n"
        "from mlflow.telemetry import get_telemetry_client; assert get_telemetry_client() is None, 'pings'\n"
    )
    switched_off_by_tests = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    plain = {key: value for key, value in os.environ.items() if key not in switched_off_by_tests}
    command = [sys.executable, "-c", program, str(root)]
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=False)
    return root / "mlflow.db", done


@pytest.fixture
def root(tmp_path: Path, preparation: tuple[Path, object]) -> Path:
    """Folder of all runs, with an empty store of its own."""
    shutil.copy(preparation[0], tmp_path / "mlflow.db")
    client = MlflowClient(tracking_uri(tmp_path))
    client.rename_experiment(client.get_experiment_by_name("clrft").experiment_id, "of the copied store")
    return tmp_path


def runs(root: Path, kind: str) -> list[Run]:
    client = MlflowClient(tracking_uri(root))
    experiment = client.get_experiment_by_name("clrft")
    return list(client.search_runs([experiment.experiment_id], f"tags.`clrft.kind` = '{kind}'"))


def history(root: Path, run: Run, key: str) -> list[tuple[int, float]]:
    metrics = MlflowClient(tracking_uri(root)).get_metric_history(run.info.run_id, key)
    return sorted((metric.step, metric.value) for metric in metrics)


def artifacts(root: Path, run: Run) -> list[str]:
    return [entry.path for entry in MlflowClient(tracking_uri(root)).list_artifacts(run.info.run_id)]


def feed(root: Path, seed: int = 1993) -> None:
    """One cell of two tasks, told whole."""
    tracker = Tracker(root, "quickstart")
    cell = tracker.cell("digits_cil-rapo-1993", {"seed": seed, "train": {"lr": 1e-4}}, {"data": "f1"})
    for index, name in enumerate(("one+two", "three"), start=1):
        task = cell.task(index, name)
        task.steps(ROWS)
        predictions = root / "predictions.jsonl"
        predictions.write_text("{}\n")
        task.finish({"accuracy/task_01": 0.5}, [predictions])
    metrics = {"forgetting": Value(0.25), "fwt": Value(None, "future tasks were not evaluated")}
    matrix = AccuracyMatrix.empty(("one+two", "three")).with_values(1, {1: 0.5})
    cell.finish(metrics, matrix.with_values(2, {1: 0.25, 2: 1.0}), [root / "predictions.jsonl"], {"seconds": 2.0})
    tracker.finish([root / "predictions.jsonl"])


def test_a_sweep_is_a_tree_of_closed_runs(root: Path) -> None:
    feed(root)
    (sweep,), (cell,), tasks = runs(root, "sweep"), runs(root, "cell"), runs(root, "task")
    assert cell.data.tags["mlflow.parentRunId"] == sweep.info.run_id
    assert [task.data.tags["mlflow.parentRunId"] for task in tasks] == [cell.info.run_id] * 2
    names = {run.info.run_name for run in (sweep, cell, *tasks)}
    assert names == {"quickstart", "digits_cil-rapo-1993", "task 01 one+two", "task 02 three"}
    assert {run.info.status for run in (sweep, cell, *tasks)} == {"FINISHED"}


def test_parameters_metrics_tags_and_files_come_back(root: Path) -> None:
    feed(root)
    (cell,), (task, _) = runs(root, "cell"), sorted(runs(root, "task"), key=lambda run: run.info.run_name)
    assert cell.data.params == {"seed": "1993", "train.lr": "0.0001"}
    assert cell.data.tags["data"] == "f1"
    assert cell.data.metrics["forgetting"] == 0.25
    assert cell.data.metrics["seconds"] == 2.0
    assert "Σ" in cell.data.tags["clrft.definition.forgetting"]
    assert history(root, task, "reward") == [(1, 0.25), (2, 0.75)]
    assert history(root, task, "kl") == [(1, 0.0)]  # None is left out, never 0
    assert artifacts(root, task) == artifacts(root, cell) == ["predictions.jsonl"]


def test_the_matrix_is_one_curve_per_task_over_stages(root: Path) -> None:
    feed(root)
    (cell,) = runs(root, "cell")
    assert history(root, cell, "accuracy/task_01") == [(1, 0.5), (2, 0.25)]
    assert history(root, cell, "accuracy/task_02") == [(2, 1.0)]  # stage 1 was not evaluated


def test_an_undefined_metric_is_a_reason_and_no_number(root: Path) -> None:
    feed(root)
    (cell,) = runs(root, "cell")
    assert "fwt" not in cell.data.metrics
    assert cell.data.tags["clrft.undefined.fwt"] == "future tasks were not evaluated"


def test_feeding_twice_adds_nothing(root: Path) -> None:
    feed(root)
    feed(root)
    (cell,), tasks = runs(root, "cell"), runs(root, "task")
    assert len(runs(root, "sweep")) == 1
    assert len(tasks) == 2
    assert {run.info.status for run in (cell, *tasks)} == {"FINISHED"}
    assert history(root, tasks[0], "reward") == [(1, 0.25), (2, 0.75)]
    assert history(root, cell, "forgetting") == [(0, 0.25)]


def test_a_task_that_died_half_fed_is_begun_again(root: Path) -> None:
    died = Tracker(root, "quickstart").cell("cell", {}).task(1, "one")
    died.steps([{"step": step, "reward": 9.0} for step in range(1, 1002)])  # more than one batch: written at once
    again = Tracker(root, "quickstart").cell("cell", {}).task(1, "one")
    again.steps(ROWS)
    again.finish({})
    (task,) = runs(root, "task")
    assert task.info.run_id == again.run_id != died.run_id
    assert history(root, task, "reward") == [(1, 0.25), (2, 0.75)]


def test_an_interrupted_cell_is_closed_and_opened_again_by_a_resume(root: Path) -> None:
    first = Tracker(root, "quickstart").cell("cell", {"seed": 1})
    first.stop("KILLED")
    assert [run.info.status for run in runs(root, "cell")] == ["KILLED"]
    second = Tracker(root, "quickstart").cell("cell", {"seed": 1})
    assert second.run_id == first.run_id
    assert [run.info.status for run in runs(root, "cell")] == ["RUNNING"]


def test_a_cell_whose_folder_was_removed_gets_a_new_run_and_marks_the_old_one(root: Path) -> None:
    feed(root, seed=1993)
    shutil.rmtree(root / "quickstart" / "digits_cil-rapo-1993")
    feed(root, seed=7)
    old, new = sorted(runs(root, "cell"), key=lambda run: run.info.start_time)
    assert (old.data.params["seed"], old.data.tags["clrft.superseded"]) == ("1993", "true")
    assert (new.data.params["seed"], "clrft.superseded" in new.data.tags) == ("7", False)


def test_long_and_many_parameters_are_kept_as_far_as_mlflow_takes_them(root: Path) -> None:
    params = {f"p{index}": index for index in range(250)} | {"long": "x" * 7000}
    Tracker(root, "quickstart").cell("cell", params)
    (cell,) = runs(root, "cell")
    assert len(cell.data.params) == 251
    assert cell.data.params["long"].endswith("… (7000 characters)")
    assert len(cell.data.params["long"]) == 6000


def test_a_diverged_value_stays_visible(root: Path) -> None:
    task = Tracker(root, "quickstart").cell("cell", {}).task(1, "one")
    task.steps([{"step": 1, "loss": math.nan}])
    task.finish({})
    ((step, value),) = history(root, runs(root, "task")[0], "loss")
    assert step == 1
    assert math.isnan(value)


def test_a_row_without_a_step_is_refused(root: Path) -> None:
    task = Tracker(root, "quickstart").cell("cell", {}).task(1, "one")
    with pytest.raises(ValueError, match="needs its step"):
        task.steps([{"reward": 1.0}])


def test_two_processes_write_one_store_and_share_one_sweep(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from clrft.tracking import Tracker\n"
        "cell = Tracker(Path(sys.argv[1]), 'quickstart').cell(sys.argv[2], {'a': 1})\n"
        "for index in range(1, 4):\n"
        "    task = cell.task(index, 'one')\n"
        "    for step in range(1, 301): task.steps([{'step': step, **{f'm{k}': 1.0 for k in range(10)}}])\n"
        "    task.finish({})\n"
        "cell.finish({})\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", program, str(root), f"cell{index}"], cwd=ROOT) for index in range(2)
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert len(runs(root, "sweep")) == 1
    assert len(runs(root, "cell")) == 2
    assert [len(history(root, task, "m9")) for task in runs(root, "task")] == [300] * 6


def test_tracking_switched_off_touches_no_store(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, "quickstart", enabled=False)
    cell = tracker.cell("cell", {"seed": 1})
    task = cell.task(1, "one")
    task.steps(ROWS)
    task.finish({"accuracy": 1.0})
    cell.finish({"forgetting": Value(0.5)})
    tracker.finish()
    assert (tracker.run_id, cell.run_id, task.run_id) == ("", "", "")
    assert os.listdir(tmp_path) == ["quickstart"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://ann:s3cret@127.0.0.1:9", "Connection refused"),
        ("nonsense://ann:s3cret@host/x", "unsupported URI"),
        ("sqlite:////proc/nowhere/s3cret.db?password=s3cret", ""),
    ],
)
def test_an_unreachable_store_is_refused_before_any_work_and_keeps_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, expected: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=f"(?s)MLflow at.*{expected}.*Expected") as caught:
        prepare_store(tmp_path)
    assert "ann" not in str(caught.value)
    assert "password" not in str(caught.value)
    assert ":s3cret" not in str(caught.value)
    assert caught.value.__context__ is None  # a chained traceback would print the secret


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
def test_a_uri_is_shown_without_its_secrets(uri: str, expected: str) -> None:
    assert redacted_uri(uri) == expected


def test_secrets_in_parameters_and_tags_reach_no_store(root: Path) -> None:
    secret = "http://ann:s3cret@host"
    Tracker(root, "quickstart").cell("cell", {"uri": secret}, {"where": secret})
    assert b"s3cret" not in (root / "mlflow.db").read_bytes()
    assert runs(root, "cell")[0].data.params["uri"] == "http://***@host"


def test_a_config_becomes_dotted_texts() -> None:
    config = {"train": {"lr": 1e-4, "name": "adam"}, "classes": ["a", "b"], "path": None}
    expected = {"train.lr": "0.0001", "train.name": "adam", "classes": '["a", "b"]', "path": "null"}
    assert flattened(config) == expected


def test_the_user_interface_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no MLflow store"):
        serve_ui(tmp_path)


def test_preparing_prints_nothing_and_arms_no_usage_ping(
    preparation: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    done = preparation[1]
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_user_interface_answers_on_loopback_until_it_is_interrupted(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from clrft.tracking_store import serve_ui\n"
        "sys.exit(serve_ui(Path(sys.argv[1]), int(sys.argv[2])))\n"
    )
    port = free_port()
    command = [sys.executable, "-c", program, str(root), str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ours:
        try:
            assert answers(f"http://127.0.0.1:{port}/health", within=120)
            assert bound_to(port) == {"127.0.0.1"}
            ours.send_signal(signal.SIGINT)
            assert ours.wait(timeout=60) == 0
        finally:
            ours.kill()
    assert not answers(f"http://127.0.0.1:{port}/health", within=1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bound_to(port: int) -> set[str]:
    """Addresses on which some process listens at a port."""
    listening = (each.laddr for each in psutil.net_connections("inet") if each.status == psutil.CONN_LISTEN)
    return {address.ip for address in listening if address.port == port}


def answers(url: str, within: float) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            time.sleep(0.2)
    return False
