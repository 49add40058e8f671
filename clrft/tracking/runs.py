"""What MLflow is told: sweep → cell (stream x method x order) → task, as nested runs.

Files are the truth; MLflow is fed from them and may be fed again: a run is found by the identity that lies in
its folder (``mlflow.json``) and gets what it lacks of the files. Training never waits for MLflow: a queue does
(``clrft/tracking/queue.py``); what it could not tell, ``clrft sync`` does (``clrft/tracking/sync.py``).
"""

import json
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clrft.config.records import MARK, changed_files, is_number, read_record, read_stage, read_steps
from clrft.runs.read import read_run
from clrft.tracking.mirror import Facts, Mirror
from clrft.tracking.queue import CallQueue
from clrft.tracking.store import METRICS_PER_BATCH, Point, Store, redacted_uri, tell
from clrft.utils.files import locked, safe_name, write_first, write_json_atomic
from eval.matrix import AccuracyMatrix
from eval.metrics import Value, metric_of
from task_streams.errors import UserError

SCHEMA = 1
METRICS_FILE, STEPS_FILE, ERROR_FILE = "metrics.json", "steps.jsonl", "error.txt"
FLUSH_SECONDS = 5.0
COMPLETE = {"clrft.complete": "true"}
CELL_FILES = ("config.yaml", "manifest.json", "matrix.json", METRICS_FILE)
TASK_FILES = ("predictions.jsonl", METRICS_FILE)
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """Tracking of one sweep: its parent run.

    Args:
        root: folder of all runs; the sweep's folder is ``root/sweep``.
        sweep: name of the sweep.
        enabled: False (by explicit setting only) tracks nothing; every call is then accepted and dropped.
        say: tells the user a sentence.

    Raises:
        UserError: the tracking URI is of no kind that MLflow knows, or names a file that is no store.
    """

    def __init__(self, root: Path, sweep: str, enabled: bool = True, say: Callable[[str], None] = tell) -> None:
        self.folder = root / safe_name(sweep)
        self.sweep = sweep
        self.say = say
        mark = identity(self.folder)
        self._store = Store(root) if enabled else None
        self.queue: CallQueue | None = None
        self._mirror: Mirror | None = None
        if self._store is not None:
            store = self._store
            self.queue = CallQueue(redacted_uri(store.uri), lambda: store.calls, say)
            self._mirror = sweep_mirror(store, mark, sweep)
            self.queue.put(self._mirror.open)

    @property
    def run_id(self) -> str:
        """MLflow's id of the sweep's run; empty when nothing is tracked, or not yet."""
        return self._mirror.run_id if self._mirror is not None else ""

    def cell(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> "CellTracker":
        """The run of one cell, found by the identity in its folder ``root/sweep/name``, or made.

        Args:
            name: name of the run folder.
            params: resolved config; nested mappings become dotted names.
            tags: identity of data and code, and whatever else tells cells apart.
        """
        folder = self.folder / safe_name(name)
        mark = identity(folder)
        mirror = None
        if self._store is not None and self._mirror is not None:
            mirror = cell_mirror(self._store, mark, name, params, tags or {}, self._mirror)
        return CellTracker(self, folder, mark, mirror)

    def finish(self, artifacts: Sequence[Path] = (), status: Status | None = None, note: str = "") -> None:
        """Close the sweep's run, with its figures and tables; a later sweep on the folder opens it again.

        Args:
            artifacts: files, and folders with all that is in them.
            status: None = FAILED if one of its cells did not finish, else FINISHED.
            note: Markdown that MLflow shows as the run's description; the one that is there stays if empty.
        """
        if self._store is None or self._mirror is None:
            return
        store, mirror, folder = self._store, self._mirror, self.folder

        def close() -> None:
            run_id = mirror.open().run_id
            for path in artifacts:
                store.log_artifact(run_id, path)
            if note:
                store.set_tags(run_id, {"mlflow.note.content": note})
            store.end(run_id, status or sweep_status(store, run_id, folder))

        self.put(close)
        self.drained(self.folder)

    def put(self, call: Callable[[], object], figures: bool = False) -> None:
        """Let something be told to the store; dropped when nothing is tracked."""
        if self.queue is not None:
            self.queue.put(call, figures)

    def drained(self, folder: Path | None = None) -> bool:
        """Wait, for a bounded time, until the store was told everything; says what to do if it was not."""
        if self.queue is None or self._store is None or self.queue.drain():
            return True
        self._store.close()
        if folder is not None:
            self.say(f"MLflow lacks some of {folder.name}; clrft sync {folder} feeds it.")
        return False


class CellTracker:
    """Tracking of one cell: a child of the sweep's run. Made by ``Tracker.cell``."""

    def __init__(self, tracker: Tracker, folder: Path, mark: str, mirror: Mirror | None) -> None:
        self._tracker, self._folder, self._mark, self._mirror = tracker, folder, mark, mirror
        self._task: TaskTracker | None = None
        if mirror is not None:
            tracker.put(mirror.open)

    @property
    def run_id(self) -> str:
        """MLflow's id of the cell's run; empty when nothing is tracked, or not yet."""
        return self._mirror.run_id if self._mirror is not None else ""

    def task(self, index: int, name: str) -> "TaskTracker":
        """The run of one task (index from 0, the base)."""
        mirror = None
        if self._mirror is not None:
            mirror = task_mirror(self._mirror, self._mark, index, name)
        self._task = TaskTracker(self._tracker, mirror)
        return self._task

    def finish(self, folder: Path | None = None) -> bool:
        """Close the cell with the results in its files; returns whether the store has all of the cell."""
        mirror = self._mirror
        if mirror is None:
            return True
        self._tracker.put(lambda: mirror.settle(cell_facts(folder or self._folder)))
        return self._tracker.drained(self._folder)

    def stop(self, status: Status) -> None:
        """Close cell, task and sweep of a run that ended early: KILLED (interrupted) or FAILED.

        A resume opens them again, and a sweep that goes on closes itself.
        """
        mirror = self._mirror
        if mirror is None:
            return
        if self._task is not None:
            self._task.stop(status)
        for each in (mirror, mirror.parent):
            if each is not None:
                self._tracker.put(lambda each=each: each.end(status))  # type: ignore[misc]
        self._tracker.drained(self._folder)


class TaskTracker:
    """Tracking of one task: a child of the cell's run. Made by ``CellTracker.task``."""

    def __init__(self, tracker: Tracker, mirror: Mirror | None) -> None:
        self._tracker, self._mirror = tracker, mirror
        self._waiting: list[Point] = []
        self._flushed = time.monotonic()
        self._finished = False
        if mirror is not None:
            tracker.put(mirror.open)

    @property
    def run_id(self) -> str:
        """MLflow's id of the task's run; empty when nothing is tracked, or not yet."""
        return self._mirror.run_id if self._mirror is not None else ""

    def steps(self, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Take training metrics, one row per step; told once enough or a few seconds have gathered.

        Args:
            rows: ``step`` (from 1) and that step's metrics; None is left out, NaN (it diverged) is kept.

        Raises:
            ValueError: a row has no ``step``.
        """
        now = int(time.time() * 1000)
        for row in rows:
            self._waiting += step_points(row, now)
        if len(self._waiting) >= METRICS_PER_BATCH or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def finish(self, folder: Path, learned_before: bool = False) -> None:
        """Let the store have what the task's folder holds, and what it has of it already only once.

        Args:
            folder: of the finished task.
            learned_before: by an earlier process: where the store says that it has all, it is not compared.
        """
        mirror, self._finished = self._mirror, True
        self._flush()
        if mirror is not None:
            self._tracker.put(lambda: _settle_task(mirror, folder, learned_before))

    def stop(self, status: Status) -> None:
        """Tell what waits and close a task that ended early."""
        mirror = self._mirror
        self._flush()
        if mirror is not None and not self._finished:
            self._tracker.put(lambda: mirror.end(status))

    def _flush(self) -> None:
        mirror, points = self._mirror, self._waiting
        self._waiting, self._flushed = [], time.monotonic()
        if mirror is not None and points:
            self._tracker.put(lambda: mirror.add(points), figures=True)


def _settle_task(mirror: Mirror, folder: Path, learned_before: bool) -> None:
    """Complete a task's run; one that an earlier process completed is only closed again."""
    if learned_before and COMPLETE.items() <= mirror.open().tags.items():
        mirror.end("FINISHED")
    else:
        mirror.settle(task_facts(folder))


def sweep_mirror(store: Store, mark: str, sweep: str) -> Mirror:
    """The run of a sweep."""
    return Mirror(store, mark, sweep, _tags("sweep", sweep=sweep))


def cell_mirror(
    store: Store, mark: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], sweep: Mirror
) -> Mirror:
    """The run of a cell."""
    return Mirror(store, mark, name, {**tags, **_tags("cell", cell=name)}, sweep, flattened(params))


def task_mirror(cell: Mirror, mark: str, index: int, name: str) -> Mirror:
    """The run of a task."""
    tags = _tags("task", task=str(index), task_name=name)
    return Mirror(cell.store, f"{mark}/task_{index:02d}", f"task {index:02d} {name}", tags, cell)


def manifest_tags(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Identity of data, code and hardware as tags of a cell's run."""
    named = ("stream", "method", "seed", "code", "data", "versions", "hardware", "model", "prompt_style")
    fork = {"clrft.fork": str(manifest["fork"]["label"])} if "fork" in manifest else {}
    return {f"clrft.{key}": json.dumps(manifest[key]).strip('"') for key in named if key in manifest} | fork


def sweep_status(store: Store, run_id: str, folder: Path) -> Status:
    """How a sweep ended: FAILED if one of its cells did, maybe before it was tracked."""
    if any(folder.glob(f"*/{ERROR_FILE}")):
        return "FAILED"
    cells = store.search({"clrft.kind": "cell", "mlflow.parentRunId": run_id})
    ended_early = any(cell.status in ("FAILED", "KILLED") for cell in cells if "clrft.superseded" not in cell.tags)
    return "FAILED" if ended_early else "FINISHED"


def cell_facts(folder: Path) -> Facts:
    """What the store is to hold of a finished run: its metrics, and the matrix as one curve per task over stages.

    An undefined metric becomes a tag with its reason, never a number; each one's formula is a tag too.
    """
    record = read_run(folder)
    now = _milliseconds(folder / METRICS_FILE)
    results = {key: result.value for key, result in record.metrics.items()}
    points = (*_points(results, now), *_curves(record.matrix, now))
    files = tuple(folder / name for name in CELL_FILES)
    return Facts(points, files, {**_explained(record.metrics), **COMPLETE}, "FINISHED")


def task_facts(folder: Path) -> Facts:
    """What the store is to hold of a finished task: its steps, accuracies, probes, drift, seconds and memory.

    Raises:
        UserError: a file of the task is damaged or was changed.
    """
    record = read_stage(folder / METRICS_FILE)
    if changed := changed_files(folder / METRICS_FILE, record):
        raise UserError(*changed)
    figures = {f"accuracy/task_{int(j):02d}": value for j, value in record["accuracy"].items()}
    figures["accuracy/pooled"] = record.get("pooled")
    figures |= {f"probe/{name}": value for name, value in record.get("probe", {}).items()}
    figures |= {f"drift/{name}": value for name, value in record.get("drift", {}).items() if is_number(value)}
    figures |= {f"seconds/{name}": value for name, value in record.get("seconds", {}).items()}
    figures |= record.get("peak_memory_mb", {})
    points = (*_file_steps(folder / STEPS_FILE), *_points(figures, _milliseconds(folder / METRICS_FILE)))
    files = tuple(folder / name for name in TASK_FILES)
    return Facts(points, files, COMPLETE, "FINISHED")


def _file_steps(path: Path) -> list[Point]:
    if not path.exists():
        return []
    now = _milliseconds(path)
    return [point for row in read_steps(path) for point in step_points(row, now)]


def _milliseconds(path: Path) -> int:
    """Time of a file, so that two processes that feed it give its points the same time."""
    return path.stat().st_mtime_ns // 1_000_000


def identity(folder: Path) -> str:
    """Random name of a run folder in any MLflow store, from its ``mlflow.json``, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mlflow.json"
    if not path.exists():  # of two machines that make it at once, one's stays
        write_first(path, json.dumps({"schema": SCHEMA, "identity": uuid.uuid4().hex}, indent=2) + "\n")
    return str(read_record(path, SCHEMA, MARK)["identity"])


def mark(folder: Path, complete: bool = True) -> None:
    """Remember in a run folder whether the store has all of it."""
    with locked(folder / ".mlflow.lock"):
        known = read_record(folder / "mlflow.json", SCHEMA, MARK)
        write_json_atomic(folder / "mlflow.json", {**known, "complete": complete})


def is_marked(folder: Path) -> bool:
    """Whether ``mark`` was called for a run folder."""
    path = folder / "mlflow.json"
    return path.exists() and read_record(path, SCHEMA, MARK).get("complete") is True


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as dotted names and texts; what is neither text nor mapping becomes JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _tags(kind: str, **named: str) -> dict[str, str]:
    return {"clrft.kind": kind, **{f"clrft.{key}": value for key, value in named.items()}}


def step_points(row: Mapping[str, float | None], now: int) -> list[Point]:
    """The metric points of one step's row.

    Raises:
        ValueError: it has no ``step``.
    """
    step = row.get("step")
    if step is None:
        raise ValueError(f"a row of step metrics needs its step, got {dict(row)}")
    return [(key, value, int(step), now) for key, value in row.items() if key != "step" and value is not None]


def _points(metrics: Mapping[str, float | None], now: int) -> list[Point]:
    return [(key, value, 0, now) for key, value in metrics.items() if value is not None and not math.isnan(value)]


def _curves(matrix: AccuracyMatrix, now: int) -> list[Point]:
    """``accuracy/task_01`` … and ``accuracy/pooled`` over stages (the step); what was not evaluated is left out."""
    columns = {f"accuracy/task_{task:02d}": column for task, column in enumerate(matrix.value.T, start=1)}
    columns["accuracy/pooled"] = matrix.pooled
    return [
        (name, float(value), stage, now)
        for name, column in columns.items()
        for stage, value in enumerate(column, start=1)
        if not math.isnan(value)
    ]


def _explained(metrics: Mapping[str, Value]) -> dict[str, str]:
    """Tags: the formula of every metric, and the reason of every undefined one."""
    formulas = {f"clrft.definition.{key}": metric_of(key).definition for key in metrics}
    reasons = {f"clrft.undefined.{key}": value.reason for key, value in metrics.items() if value.reason}
    return formulas | reasons
