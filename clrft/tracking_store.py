"""The MLflow store: where it is, its creation, and every call to it.

``MlflowClient`` only, no global active run, so that cells of several processes may be written at once.
Every call's error comes out as a ``UserError`` without the secrets that a tracking URI may hold.
Deliberately absent: MLflow's usage pings (switched off before it is imported), its git and log chatter.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from clrft.files import check_writable, locked
from task_streams.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "clrft"
METRICS_PER_BATCH = 1000  # limits of MLflow's log_batch
PARAMS_PER_BATCH = 100
LONGEST_PARAM = 6000
LONGEST_TAG = 8000

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
}
_CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]*@")
_QUERY = re.compile(r"(?<=\?)[^\s'\"]+")
_LOCK_TRIES = 6
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run of the store as it was found or made: its id, what it holds already, and whether it is new."""

    run_id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    created: bool


def quiet_environment() -> None:
    """Switch MLflow's usage pings and chatter off; works before MLflow is imported, by whomever."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else the SQLite file ``mlflow.db`` in the folder of all runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def redacted_uri(text: str) -> str:
    """A URI, or a text with URIs in it, without user, password and query, which may hold a token."""
    if "://" not in text:
        return text
    return _CREDENTIALS.sub("***@", _QUERY.sub("***", text))


def prepare_store(root: Path) -> str:
    """Create or reach the store once, before any work and before workers start; returns its redacted URI.

    Raises:
        UserError: the folder can't be written, the URI is wrong, or the store doesn't answer.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ:
        check_writable(root)
    uri = tracking_uri(root)
    with _impatient():
        Store(root)
    return redacted_uri(uri)


class Store:
    """One MLflow store and the experiment of this suite in it.

    Args:
        root: folder of all runs; a local store and its artifacts lie in it.

    Raises:
        UserError: the store can't be reached.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = tracking_uri(root)
        self._client = self._connect()
        self._experiment = self._find_experiment()

    def open_run(self, identity: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> RunHandle:
        """The run that carries an identity, made if there is none; whoever asks at once gets the same one."""
        with self._one_at_a_time():
            found = self.search({"clrft.identity": identity})
            if found:
                self._call(self._client.update_run, found[0].run_id, status="RUNNING")
                return found[0]
            own = {"clrft.identity": identity, **({"mlflow.parentRunId": parent} if parent else {})}
            run = self._call(
                self._client.create_run, self._experiment, tags=_clean_tags({**tags, **own}), run_name=name
            )
        return RunHandle(run.info.run_id, run.data.tags, {}, created=True)

    def search(self, tags: Mapping[str, str]) -> list[RunHandle]:
        """Runs that carry all these tags, oldest first."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = self._call(self._client.search_runs, [self._experiment], query, order_by=["attributes.start_time ASC"])
        return [RunHandle(run.info.run_id, run.data.tags, run.data.params, created=False) for run in runs]

    def log_params(self, run: RunHandle, params: Mapping[str, str]) -> None:
        """Write the parameters that the run doesn't hold yet; MLflow lets none change."""
        from mlflow.entities import Param

        missing = [Param(key, _clean_param(value)) for key, value in params.items() if key not in run.params]
        for chunk in _chunks(missing, PARAMS_PER_BATCH):
            self._call(self._client.log_batch, run.run_id, params=chunk)

    def log_metrics(self, run_id: str, values: Sequence[tuple[str, float, int]]) -> None:
        """Write metrics (key, value, step) with the time of now."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value, step in values]
        for chunk in _chunks(metrics, METRICS_PER_BATCH):
            self._call(self._client.log_batch, run_id, metrics=chunk)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Write tags; a tag that exists is replaced."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in _clean_tags(tags).items()]
        for chunk in _chunks(entities, PARAMS_PER_BATCH):
            self._call(self._client.log_batch, run_id, tags=chunk)

    def log_artifact(self, run_id: str, path: Path) -> None:
        """Copy a file or a folder under its own name to the run's artifacts; one of that name is replaced."""
        if path.is_dir():
            self._call(self._client.log_artifacts, run_id, str(path), path.name)
        else:
            self._call(self._client.log_artifact, run_id, str(path))

    def rename(self, run_id: str, name: str) -> None:
        """Give a run another display name."""
        self._call(self._client.update_run, run_id, name=name)

    def end(self, run_id: str, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        self._call(self._client.set_terminated, run_id, status)

    def discard(self, run_id: str) -> None:
        """Move a run to MLflow's bin, from which its user interface can restore it."""
        self._call(self._client.delete_run, run_id)

    def _connect(self) -> "MlflowClient":
        quiet_environment()
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # whoever imported MLflow first may have left them at INFO
            logging.getLogger(name).setLevel(logging.WARNING)
        return self._call(MlflowClient, self.uri)

    def _find_experiment(self) -> str:
        with self._one_at_a_time():
            found = self._call(self._client.get_experiment_by_name, EXPERIMENT)
            if found is not None:
                return str(found.experiment_id)
            local = "MLFLOW_TRACKING_URI" not in os.environ
            artifacts = (self.root / "mlartifacts").as_uri() if local else None
            return str(self._call(self._client.create_experiment, EXPERIMENT, artifact_location=artifacts))

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / ".mlflow.lock"):
            yield

    def _call(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Call MLflow; wait where another process holds the SQLite file; no secret leaves in an error."""
        for attempt in range(_LOCK_TRIES):
            problem = ""
            try:
                return function(*arguments, **named)
            except Exception as error:  # MLflow, its database driver or its HTTP client: no common base
                problem = redacted_uri(str(error).replace(self.uri, redacted_uri(self.uri)))
            # Outside the handler: a chained traceback would show the unredacted message.
            if "database is locked" not in problem:
                break
            time.sleep(0.1 * 2**attempt)
        raise UserError(
            f"MLflow at {redacted_uri(self.uri)} did not take a call: {_first_lines(problem)} "
            "Expected a store that can be reached: mend MLFLOW_TRACKING_URI, start the server, "
            "or switch tracking off (run.mlflow=false)."
        )


def serve_ui(root: Path, port: int = 5000) -> int:
    """Run MLflow's user interface on loopback until Ctrl-C; returns its exit code. For the main thread.

    Raises:
        UserError: there is no store yet, or tracking goes to a server, which has its own interface.
    """
    quiet_environment()
    uri = tracking_uri(root)
    if urlsplit(uri).scheme in ("http", "https"):
        raise UserError(f"MLFLOW_TRACKING_URI is a server; open {redacted_uri(uri)} in a browser.")
    if "MLFLOW_TRACKING_URI" not in os.environ and not (root / "mlflow.db").exists():
        raise UserError(f"no MLflow store in {str(root)!r}; expected mlflow.db, which the first run makes.")
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}  # not an argument: process lists show those
    with _stopped_by(signal.SIGTERM, signal.SIGHUP):
        # A session of its own: Ctrl-C ends it through us, with its workers and without their tracebacks.
        server = subprocess.Popen(ui_command(root, port), env=environment, start_new_session=True)
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end_group(server)


def ui_command(root: Path, port: int = 5000) -> list[str]:
    """Command of MLflow's user interface, bound to loopback; the store comes from its environment."""
    artifacts = (root.resolve() / "mlartifacts").as_uri()
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    return [*command, "--workers", "1", "--default-artifact-root", artifacts]


@contextmanager
def _stopped_by(*signals: signal.Signals) -> Iterator[None]:
    """Let these signals interrupt the block as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(server.pid, signal.SIGTERM)
    except ProcessLookupError:  # it ended by itself
        return
    server.wait()


class NullStore:
    """Takes every call and keeps nothing: tracking switched off, by explicit setting only."""

    def open_run(self, identity: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> RunHandle:
        """A handle of no run."""
        return RunHandle("", {}, {}, created=True)

    def search(self, tags: Mapping[str, str]) -> list[RunHandle]:
        """No runs."""
        return []

    def log_params(self, run: RunHandle, params: Mapping[str, str]) -> None:
        """Drop parameters."""

    def log_metrics(self, run_id: str, values: Sequence[tuple[str, float, int]]) -> None:
        """Drop metrics."""

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Drop tags."""

    def log_artifact(self, run_id: str, path: Path) -> None:
        """Drop a file."""

    def rename(self, run_id: str, name: str) -> None:
        """Nothing to rename."""

    def end(self, run_id: str, status: str) -> None:
        """Nothing to close."""

    def discard(self, run_id: str) -> None:
        """Nothing to discard."""


@contextmanager
def _impatient() -> Iterator[None]:
    """One retry and ten seconds instead of MLflow's minutes, for the first contact with a server."""
    settings = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _clean_param(value: str) -> str:
    return _shortened(redacted_uri(value), LONGEST_PARAM)


def _clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: _shortened(redacted_uri(value), LONGEST_TAG) for key, value in tags.items()}


def _shortened(text: str, limit: int) -> str:
    mark = f" … ({len(text)} characters)"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


def _first_lines(text: str) -> str:
    return " ".join(text.split())[:500]
