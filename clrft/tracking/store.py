"""The MLflow store: where it is, its creation, and every call to it.

``MlflowClient`` only, no global active run, so that cells of several processes may be written at once.
Every call's error comes out as a ``UserError`` without the secrets that a tracking URI may hold, and as an
``Unreachable`` where the same call may succeed later.
Deliberately absent: MLflow's usage pings (switched off before it is imported), its git and log chatter.
"""

import hashlib
import logging
import os
import re
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from clrft.utils.console import visible
from clrft.utils.files import check_writable, locked, whole_file
from task_streams.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "clrft"
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"  # in the folder of all runs
METRICS_PER_BATCH = 1000  # limits of MLflow's log_batch
PARAMS_PER_BATCH = 100
LONGEST_PARAM = 6000
LONGEST_TAG = 8000

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
    # one try of ten seconds instead of MLflow's many minutes: the queue tries again
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_FORCED = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # it would print the URI with its secrets
_CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]*@")
_QUERY = re.compile(r"(?<=\?)[^\s'\"]+")
_LOCK_TRIES = 6
_LONGEST_PAGE = 1000
_SILENCE = 5.0  # seconds of waiting for one call after which the user is told
_SERVERS = ("http", "https")
_DATABASE_SERVERS = ("postgresql", "mysql", "mssql")  # their scheme may name a driver: mysql+pymysql
_PASSING = (408, 429)  # refusals of an HTTP server that may be taken back
_PASSING_SQLITE = ("database is locked", "disk is full", "disk I/O error", "readonly database")  # SQLite's own words

Result = TypeVar("Result")
Point = tuple[str, float, int, int]  # key, value, step, time in ms
Held = dict[tuple[str, int], list[float]]  # values by key and step


class Unreachable(UserError):
    """The store did not answer, or not now; the same call may succeed later."""


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run of the store as it was found or made: its id, what it holds already, and its status."""

    run_id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    status: str
    keys: tuple[str, ...] = ()


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else the SQLite file ``mlflow.db`` in the folder of all runs.

    Raises:
        UserError: the folder's name has a character that the installed SQLAlchemy cannot escape.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or local_uri(root)


def local_uri(root: Path) -> str:
    """The SQLite file ``mlflow.db`` in the folder of all runs, as ``tracking_uri``."""
    path = str(root.resolve() / DATABASE)
    if not {*path} & {*"?%#"}:
        return f"sqlite:///{path}"
    from sqlalchemy import URL, make_url

    # with its driver named: of plain sqlite:/// MLflow would make the folder whose name is the escaped one
    uri = URL.create("sqlite+pysqlite", database=path).render_as_string()
    if make_url(uri).database != path:
        raise UserError(f"{path}: SQLAlchemy before 2.1 takes no path with ?, % or #; choose another run.output.")
    return uri


def artifacts_of(root: Path) -> str:
    """Where the files of a local store's runs are, as a URI."""
    return (root.resolve() / ARTIFACTS).as_uri()


def keep_older(root: Path) -> None:
    """Copy a local store's database that another version of MLflow has made, before this one may change it; tell so.

    Raises:
        sqlite3.Error: the database cannot be read.
        OSError: the copy cannot be written.
    """
    from mlflow.store.db.utils import _get_latest_schema_revision as newest

    path = root / DATABASE
    if not path.exists():
        return
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return  # it is only being made
        ((found,),) = database.execute("SELECT version_num FROM alembic_version").fetchall() or [("",)]
        kept = root / f"{DATABASE}.{found}"
        if found in ("", newest()) or kept.exists():  # type: ignore[no-untyped-call]
            return
        with whole_file(kept) as beside, closing(sqlite3.connect(beside)) as copy:
            database.backup(copy)
    tell(
        f"{path} was made by another version of MLflow, and the installed one may change it: a copy is kept at {kept}."
    )


def follow_move(root: Path) -> None:
    """Let a local store's runs have their files beside it, where it may have been moved or copied to.

    MLflow keeps the whole path of each run's files: unless that is mended, a copy would write to the original's.

    Raises:
        sqlite3.Error: the database cannot be read, or not be changed where that is needed.
    """
    if not (root / DATABASE).exists():
        return
    now = artifacts_of(root)
    with closing(sqlite3.connect(root / DATABASE)) as database, database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return  # it is only being made
        places = database.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchall()
        for (then,) in places:
            if then != now and str(then).endswith(f"/{ARTIFACTS}"):
                database.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (now, then)
                )
                database.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE substr(artifact_uri, 1, ?) = ?",
                    (now, len(then) + 1, len(then) + 1, f"{then}/"),
                )


def redacted_uri(text: str) -> str:
    """A URI, or a text with URIs in it, without user, password and query, which may hold a token."""
    if "://" not in text:
        return text
    return _CREDENTIALS.sub("***@", _QUERY.sub("***", text))


def tell(text: str) -> None:
    """Tell the user a sentence on standard error."""
    print(visible(text), file=sys.stderr, flush=True)


def without_secrets(text: str, uri: str) -> str:
    """A text that may quote a tracking URI, whole or in pieces, without user, password and query."""
    parts = urlsplit(uri)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    secrets = [password, parts.query, *(value for _, value in parse_qsl(parts.query))]
    secrets += [user] if len(user) > 2 else []  # a shorter one says nothing and is part of many words
    text = redacted_uri(text.replace(uri, redacted_uri(uri)))
    for secret in sorted({*secrets, *map(unquote, secrets)} - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def prepare_store(root: Path, say: Callable[[str], None] = tell) -> str:
    """Create or reach the store once, before any work and before workers start; returns its redacted URI.

    A server that does not answer is told as a warning: training goes on without it.

    Raises:
        UserError: the folder can't be written, the URI is wrong, or the store refuses.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ:
        check_writable(root)
    try:
        Store(root).experiment()
    except Unreachable as error:
        say(f"warning: {error}")
    return redacted_uri(tracking_uri(root))


class Store:
    """One MLflow store and the experiment of this suite in it.

    A server is first asked by the first call; that of an SQLite file, which is made, may take seconds. What MLflow does
    in one call of its ``client`` is done by ``call``.

    Args:
        root: folder of all runs; a local store and its artifacts lie in it.

    Attributes:
        calls: how many calls have come to an end, so that a waiting reader sees whether it moves on.
        closed: lets no further call begin, as when a thread that still works is left alone.

    Raises:
        UserError: the URI is of no kind that MLflow knows, or names a file that is no store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = tracking_uri(root)
        self.calls = 0
        self.closed = False
        self._experiment = ""
        self._lock = self.root / ".mlflow.lock"  # keeps other processes out; in one, one thread speaks to the store
        if "MLFLOW_TRACKING_URI" in os.environ and not os.access(self.root, os.W_OK):  # another user's runs, our store
            known_by = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
            self._lock = Path(tempfile.gettempdir()) / f"clrft-mlflow-{os.getuid()}-{known_by}.lock"
        for name, value in _QUIET.items():  # works before MLflow is imported, by whomever
            os.environ.setdefault(name, value)
        os.environ.update(_FORCED)
        try:
            scheme = urlsplit(self.uri).scheme.partition("+")[0]
        except ValueError:
            raise UserError("MLFLOW_TRACKING_URI is no URI; expected e.g. http://host:5000.") from None
        self.remote = scheme in (*_SERVERS, *_DATABASE_SERVERS)
        self.root.mkdir(parents=True, exist_ok=True)
        if "MLFLOW_TRACKING_URI" not in os.environ:
            with locked(self._lock):
                self.call(follow_move, self.root)
        if scheme not in _DATABASE_SERVERS:  # of these the client itself would wait for the server
            self.client  # noqa: B018
        if not self.remote:
            self.experiment()

    def open_run(self, identity: str, name: str, tags: Mapping[str, str]) -> tuple[RunHandle, bool]:
        """The run that carries an identity, made if there is none, and whether it was made; set running.

        Whoever asks at once gets the same one.
        """
        experiment = self.experiment()
        with locked(self._lock):
            found = self.search({"clrft.identity": identity})
            for repeated in found[1:]:
                self.call(self.client.delete_run, repeated.run_id)
            if found:
                if found[0].status != "RUNNING":
                    self.call(self.client.update_run, found[0].run_id, status="RUNNING")
                return replace(found[0], status="RUNNING"), False
            own = cleaned({**tags, "clrft.identity": identity})
            run = self.call(self.client.create_run, experiment, tags=own, run_name=name)
        return RunHandle(run.info.run_id, run.data.tags, {}, "RUNNING"), True

    def search(self, tags: Mapping[str, str]) -> list[RunHandle]:
        """Runs that carry all these tags, oldest first."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        order = {"max_results": _LONGEST_PAGE, "order_by": ["attributes.start_time ASC"]}
        found: list[RunHandle] = []
        token = None
        while True:
            page = self.call(self.client.search_runs, [self.experiment()], query, page_token=token, **order)
            found += [
                RunHandle(run.info.run_id, run.data.tags, run.data.params, run.info.status, tuple(run.data.metrics))
                for run in page
            ]
            token = page.token
            if not token:
                return found

    def artifacts(self, run_id: str, inside: str | None = None) -> dict[str, int]:
        """Names and sizes (bytes) of the files that a run holds, those in folders by their path."""
        entries = self.call(self.client.list_artifacts, run_id, inside)
        found = {entry.path: int(entry.file_size or 0) for entry in entries if not entry.is_dir}
        for folder in (entry.path for entry in entries if entry.is_dir):
            found |= self.artifacts(run_id, folder)
        return found

    def log(
        self,
        run_id: str,
        params: Mapping[str, str] | None = None,
        points: Sequence[Point] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write parameters, of which MLflow lets none change, metric points, and tags, which replace their like.

        The same points written twice are one in a store with a database.
        """
        from mlflow.entities import Metric, Param, RunTag

        batches: list[tuple[str, Sequence[object], int]] = [
            ("params", [Param(*one) for one in cleaned(params or {}, LONGEST_PARAM).items()], PARAMS_PER_BATCH),
            ("metrics", [Metric(key, float(value), at, step) for key, value, step, at in points], METRICS_PER_BATCH),
            ("tags", [RunTag(*one) for one in cleaned(tags or {}).items()], PARAMS_PER_BATCH),
        ]
        for kind, entities, size in batches:
            for start in range(0, len(entities), size):
                self.call(self.client.log_batch, run_id, **{kind: entities[start : start + size]})

    def experiment(self) -> str:
        """MLflow's id of the experiment, which is made if it is missing, and taken back from MLflow's bin."""
        if self._experiment:
            return self._experiment
        with locked(self._lock):
            found = self.call(self.client.get_experiment_by_name, EXPERIMENT)
            if found is not None:
                if found.lifecycle_stage == "deleted":  # its name stays taken until MLflow empties the bin
                    self.call(self.client.restore_experiment, found.experiment_id)
                    tell(f"MLflow's experiment {EXPERIMENT!r} had been deleted; it was restored.")
                self._experiment = str(found.experiment_id)
            else:
                place = artifacts_of(self.root) if "MLFLOW_TRACKING_URI" not in os.environ else None
                made = self.call(self.client.create_experiment, EXPERIMENT, artifact_location=place)
                self._experiment = str(made)
        return self._experiment

    @cached_property
    def client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # whoever imported MLflow first may have left them at INFO
            logging.getLogger(name).setLevel(logging.WARNING)
        # What it logs it raises too, and that is told once.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self.call(keep_older, self.root)
        return self.call(MlflowClient, self.uri)

    def call(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Call MLflow; wait where another process holds the SQLite file; no secret leaves in an error.

        The main thread tells what it waits for: MLflow itself tries for minutes, and says nothing.
        """
        waiting = f"waiting for MLflow at {redacted_uri(self.uri)}, which has not answered for {_SILENCE:g} s"
        notice = threading.Timer(_SILENCE, tell, (waiting,))
        notice.daemon = True
        being_made = not self.remote and not (self.root / DATABASE).exists()  # which takes seconds, and is no wait
        if threading.current_thread() is threading.main_thread() and not being_made:
            notice.start()
        try:
            return self._tried(function, *arguments, **named)
        finally:
            notice.cancel()

    def _tried(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """As ``call``, in silence."""
        for attempt in range(_LOCK_TRIES):
            if self.closed:
                raise UserError("MLflow is not told any more.")
            problem, passing = "", False
            try:
                return function(*arguments, **named)
            except Exception as error:  # MLflow, its database driver or its HTTP client: no common base
                problem = without_secrets(str(error), self.uri)
                status = int(getattr(error, "get_http_status_code", lambda: 500)())
                final = (400 <= status < 500 and status not in _PASSING) or isinstance(error, ImportError)
                passing = any(word in problem for word in _PASSING_SQLITE) or (self.remote and not final)
            finally:
                self.calls += 1
            # Outside the handler: a chained traceback would show the unredacted message.
            if "database is locked" not in problem:
                break
            time.sleep(0.1 * 2**attempt)
        short = " ".join(problem.partition("[SQL:")[0].split())[:500]  # without statements
        sentence = f"MLflow at {redacted_uri(self.uri)} did not take a call: {short} "
        if passing:
            raise Unreachable(f"{sentence}Training goes on; what MLflow lacks can be fed later (clrft sync).")
        raise UserError(
            f"{sentence}Expected a store that can be reached: mend MLFLOW_TRACKING_URI, start the server, "
            "or switch tracking off (run.mlflow=false)."
        )


class NoStore(Store):
    """A store that is not there, and is not made: it holds nothing. Nothing may be written to it."""

    def __init__(self, root: Path) -> None:
        self.root, self.uri, self.calls = root.resolve(), "", 0

    def search(self, tags: Mapping[str, str]) -> list[RunHandle]:
        """No run."""
        return []


def cleaned(texts: Mapping[str, str], limit: int = LONGEST_TAG) -> dict[str, str]:
    """Tags or parameters as MLflow takes them: not too long, without secrets."""
    found = {}
    for key, value in texts.items():
        text = redacted_uri(value)
        mark = f" … ({len(text)} characters)"
        found[key] = text if len(text) <= limit else text[: limit - len(mark)] + mark
    return found
