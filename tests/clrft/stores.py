"""MLflow stores for tests: a fresh SQLite file, a real server on loopback, and what a store holds."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from clrft.tracking.store import tracking_uri
from tests.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
Points = list[tuple[str, int, float]]  # metric, step, value


@pytest.fixture(scope="module")
def preparation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store prepared by a process of its own, which prints nothing; it takes seconds, so tests copy it."""
    root = tmp_path_factory.mktemp("prepared")
    program = (
        "import sys; from pathlib import Path; from clrft.tracking.store import prepare_store\n"
        "assert 'mlflow' not in sys.modules, 'imported too early'; prepare_store(Path(sys.argv[1]))\n"
        "from mlflow.telemetry import get_telemetry_client; assert get_telemetry_client() is None, 'pings'\n"
    )
    switched_off_by_tests = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    plain = {key: value for key, value in os.environ.items() if key not in switched_off_by_tests}
    command = [sys.executable, "-c", program, str(root)]
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return root / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, preparation: Path) -> Path:
    """Folder of all runs, with an empty store of its own."""
    shutil.copy(preparation, tmp_path / "mlflow.db")
    return tmp_path


class Server:
    """MLflow's server on a free port, with an SQLite store and artifacts in a folder; killed and started again."""

    def __init__(self, folder: Path, database: Path) -> None:
        folder.mkdir()
        shutil.copy(database, folder / "mlflow.db")
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1", "--serve-artifacts"]
        words += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "mlflow", "server", *words]
            environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # half of its start
            environment.pop("MLFLOW_TRACKING_URI", None)
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def wait(self) -> None:
        assert answers(f"{self.uri}/health", within=120), (self.folder / "server.log").read_text()

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def client_of(root: Path | str) -> MlflowClient:
    """Of the store in a folder of all runs, or of a server."""
    return MlflowClient(root if isinstance(root, str) else tracking_uri(root))


def runs(root: Path | str, kind: str) -> list[Run]:
    client = client_of(root)
    experiment = client.get_experiment_by_name("clrft")
    return list(client.search_runs([experiment.experiment_id], f"tags.`clrft.kind` = '{kind}'"))


def history(root: Path, run: Run, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client_of(root).get_metric_history(run.info.run_id, key))


def points(root: Path | str, run: Run) -> Points:
    """Every metric point of a run."""
    found = (point for key in run.data.metrics for point in client_of(root).get_metric_history(run.info.run_id, key))
    return sorted((point.key, point.step, point.value) for point in found)


def artifacts(root: Path | str, run: Run) -> list[str]:
    return sorted(entry.path for entry in client_of(root).list_artifacts(run.info.run_id))


def answers(url: str, within: float) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            time.sleep(0.2)
    return False
