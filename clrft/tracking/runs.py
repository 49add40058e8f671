"""What MLflow holds of runs: sweep → cell (stream x method x order) → task, as nested runs.

The run's files are the truth. MLflow is fed from them after every stage, and may be fed again: a run is found by the
identity that lies in its folder (``mlflow.json``) and gets what it lacks of the files. During a stage its rows of
``steps.jsonl`` are added as they come. Training never waits: a queue does (``queue.py``); what it could not feed,
``clrft sync`` does (``sync.py``).
"""

import json
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clrft.config.records import Mark, changed_files, read_record, read_stage, read_steps
from clrft.runs.read import read_run
from clrft.tracking.mlflow_run import Facts, MlflowRun
from clrft.tracking.queue import CallQueue
from clrft.tracking.store import NoStore, Point, Store, redacted_uri, tell
from clrft.utils.files import locked, safe_name, write_first, write_json_atomic
from eval.metrics import metric_of
from task_streams.errors import UserError

SCHEMA = 1
METRICS_FILE, STEPS_FILE, ERROR_FILE = "metrics.json", "steps.jsonl", "error.txt"
FLUSH_SECONDS = 5.0
COMPLETE = {"clrft.complete": "true"}
CELL_FILES = ("config.yaml", "manifest.json", "matrix.json", METRICS_FILE)
TASK_FILES = ("predictions.jsonl", METRICS_FILE)
Status = Literal["FINISHED", "FAILED", "KILLED"]
StepRow = Mapping[str, float | None]


class Tracker:
    """Feeds the run of a sweep and those of its cells while they work.

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
        self.say = say
        known_as = identity(self.folder)
        self.store = store = Store(root) if enabled else NoStore(root)
        self.queue = CallQueue(redacted_uri(store.uri), lambda: store.calls, say) if enabled else None
        self.run = sweep_run(store, known_as, sweep)
        self.put(self.run.open)

    def cell(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> "CellTracker":
        """The run of one cell, found by the identity in its folder ``root/sweep/name``, or made.

        Args:
            name: name of the run folder.
            params: resolved config; nested mappings become dotted names.
            tags: identity of data and code, and whatever else tells cells apart.
        """
        folder = self.folder / safe_name(name)
        return CellTracker(self, folder, cell_run(self.run, identity(folder), name, params, tags or {}))

    def finish(self, artifacts: Sequence[Path] = (), note: str = "") -> None:
        """Close the sweep's run, with its figures and tables; a later sweep on the folder opens it again.

        Args:
            artifacts: files, and folders with all that is in them.
            note: Markdown that MLflow shows as the run's description; the one that is there stays if empty.
        """

        def close() -> None:
            run_id = self.run.open().run_id
            for path in artifacts:
                self.store.log_artifact(run_id, path)
            if note:
                self.store.log(run_id, tags={"mlflow.note.content": note})
            self.run.end(sweep_status(self.store, run_id, self.folder))

        self.put(close)
        self.drained(self.folder)

    def put(self, call: Callable[[], object]) -> None:
        """Let MLflow be called; dropped when nothing is tracked."""
        if self.queue is not None:
            self.queue.put(call)

    def drained(self, folder: Path | None = None) -> bool:
        """Wait, for a bounded time, until MLflow has everything; says what to do if it has not."""
        if self.queue is None or self.queue.drain():
            return True
        self.store.close()
        if folder is not None:
            self.say(f"MLflow lacks some of {folder.name}; clrft sync {folder} feeds it.")
        return False


class CellTracker:
    """Feeds the run of one cell, a child of the sweep's. Made by ``Tracker.cell``."""

    def __init__(self, tracker: Tracker, folder: Path, run: MlflowRun) -> None:
        self._tracker, self._folder, self._run = tracker, folder, run
        self._task: TaskTracker | None = None
        tracker.put(run.open)

    def task(self, index: int, name: str) -> "TaskTracker":
        """The run of one task (index from 0, the base)."""
        self._task = TaskTracker(self._tracker, task_run(self._run, index, name))
        return self._task

    def finish(self) -> bool:
        """Close the cell with the results in its files; returns whether MLflow has all of the cell."""
        self._tracker.put(lambda: self._run.settle(cell_facts(self._folder)))
        return self._tracker.drained(self._folder)

    def stop(self, status: Status) -> None:
        """Close cell, task and sweep of a run that ended early: KILLED (interrupted) or FAILED.

        A resume opens them again, and a sweep that goes on closes itself.
        """
        if self._task is not None:
            self._task.stop(status)
        self._tracker.put(lambda: self._run.end(status))
        self._tracker.put(lambda: self._tracker.run.end(status))
        self._tracker.drained(self._folder)


class TaskTracker:
    """Feeds the run of one task, a child of the cell's. Made by ``CellTracker.task``."""

    def __init__(self, tracker: Tracker, run: MlflowRun) -> None:
        self._tracker, self._run = tracker, run
        self._rows: list[tuple[StepRow, int]] = []  # not fed yet, each with its time in ms
        self._asked = self._finished = False  # a call that feeds the rows waits; the task's files are fed
        self._flushed = time.monotonic()
        tracker.put(run.open)

    def steps(self, rows: Sequence[StepRow]) -> None:
        """Take training metrics, one row per step, fed once a few seconds have gathered.

        Args:
            rows: ``step`` (from 1) and that step's metrics; None is left out, NaN (it diverged) is kept.

        Raises:
            ValueError: a row has no ``step``.
        """
        now = int(time.time() * 1000)
        for row in rows:
            if row.get("step") is None:
                raise ValueError(f"a row of step metrics needs its step, got {dict(row)}")
            self._rows.append((row, now))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Let the rows so far be fed, by one call however many there will be."""
        self._flushed = time.monotonic()
        if self._rows and not self._asked:
            self._asked = True
            self._tracker.put(self._feed_rows)

    def finish(self, folder: Path, learned_before: bool = False) -> None:
        """Let MLflow have what the task's folder holds, and what it has of it already only once.

        Args:
            folder: of the finished task.
            learned_before: by an earlier process: where MLflow says that it has all, it is not compared.
        """
        self._finished = True

        def settle() -> None:
            if learned_before and COMPLETE.items() <= self._run.open().tags.items():
                self._run.end("FINISHED")
            else:
                self._run.settle(task_facts(folder))

        self._tracker.put(settle)

    def stop(self, status: Status) -> None:
        """Feed the rows so far and close a task that ended early."""
        if not self._finished:
            self._tracker.put(self._feed_rows)
            self._tracker.put(lambda: self._run.end(status))

    def _feed_rows(self) -> None:
        """Add the rows so far; in the queue's thread."""
        rows = self._rows[:]
        self._run.add([point for row, now in rows for point in step_points(row, now)])
        del self._rows[: len(rows)]  # training may have added some behind them
        self._asked = False


def sweep_run(store: Store, known_as: str, sweep: str) -> MlflowRun:
    """The run of a sweep; ``known_as``: the identity of its folder."""
    return MlflowRun(store, known_as, sweep, _tags("sweep", sweep=sweep))


def cell_run(
    sweep: MlflowRun, known_as: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> MlflowRun:
    """The run of a cell; ``known_as``: the identity of its folder."""
    return MlflowRun(sweep.store, known_as, name, {**tags, **_tags("cell", cell=name)}, sweep, flattened(params))


def task_run(cell: MlflowRun, index: int, name: str) -> MlflowRun:
    """The run of a task."""
    tags = _tags("task", task=str(index), task_name=name)
    return MlflowRun(cell.store, f"{cell.identity}/task_{index:02d}", f"task {index:02d} {name}", tags, cell)


def _tags(kind: str, **named: str) -> dict[str, str]:
    return {"clrft.kind": kind, **{f"clrft.{key}": value for key, value in named.items()}}


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
    """What MLflow is to hold of a finished run: its metrics, and the matrix as one curve per task over stages.

    An undefined metric becomes a tag with its reason, never a number; each one's formula is a tag too. Of the curves
    ``accuracy/task_01`` … and ``accuracy/pooled`` a stage is the step; what was not evaluated is left out.
    """
    record = read_run(folder)
    now = _milliseconds(folder / METRICS_FILE)
    columns = {f"accuracy/task_{task:02d}": column for task, column in enumerate(record.matrix.value.T, start=1)}
    columns["accuracy/pooled"] = record.matrix.pooled
    points = _points({key: result.value for key, result in record.metrics.items()}, now)
    for stage in range(1, len(record.matrix.value) + 1):
        points += _points({key: float(column[stage - 1]) for key, column in columns.items()}, now, stage)
    tags = {f"clrft.definition.{key}": metric_of(key).definition for key in record.metrics}
    tags |= {f"clrft.undefined.{key}": value.reason for key, value in record.metrics.items() if value.reason}
    return Facts(tuple(points), tuple(folder / name for name in CELL_FILES), {**tags, **COMPLETE}, "FINISHED")


def task_facts(folder: Path) -> Facts:
    """What MLflow is to hold of a finished task: its steps, accuracies, probes, drift, seconds and memory.

    Raises:
        UserError: a file of the task is damaged or was changed.
    """
    record = read_stage(folder / METRICS_FILE)
    if changed := changed_files(folder / METRICS_FILE, record):
        raise UserError(*changed)
    figures = {f"accuracy/task_{int(j):02d}": value for j, value in record["accuracy"].items()}
    figures["accuracy/pooled"] = record.get("pooled")
    figures |= {f"probe/{name}": value for name, value in record.get("probe", {}).items()}
    figures |= {
        f"drift/{name}": value for name, value in record.get("drift", {}).items() if isinstance(value, int | float)
    }
    figures |= {f"seconds/{name}": value for name, value in record.get("seconds", {}).items()}
    figures |= record.get("peak_memory_mb", {})
    points = _points(figures, _milliseconds(folder / METRICS_FILE))
    steps = folder / STEPS_FILE
    if steps.exists():
        points += [point for row in read_steps(steps) for point in step_points(row, _milliseconds(steps))]
    return Facts(tuple(points), tuple(folder / name for name in TASK_FILES), COMPLETE, "FINISHED")


def _points(metrics: Mapping[str, float | None], now: int, step: int = 0) -> list[Point]:
    return [(key, value, step, now) for key, value in metrics.items() if value is not None and not math.isnan(value)]


def step_points(row: StepRow, now: int) -> list[Point]:
    """The metric points of one step's row; ``now``: their time in ms."""
    step = int(row["step"] or 0)
    return [(key, value, step, now) for key, value in row.items() if key != "step" and value is not None]


def _milliseconds(path: Path) -> int:
    """Time of a file, so that two processes that feed it give its points the same time."""
    return path.stat().st_mtime_ns // 1_000_000


def identity(folder: Path, make: bool = True) -> str:
    """Random name of a run folder in any MLflow store, from its ``mlflow.json``; made, or empty, if missing."""
    path = folder / "mlflow.json"
    if not make and not path.exists():
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():  # of two machines that make it at once, one's stays
        write_first(path, json.dumps({"schema": SCHEMA, "identity": uuid.uuid4().hex}, indent=2) + "\n")
    return str(read_record(path, SCHEMA, Mark)["identity"])


def mark(folder: Path, complete: bool = True) -> None:
    """Remember in a run folder whether the store has all of it."""
    with locked(folder / ".mlflow.lock"):
        known = read_record(folder / "mlflow.json", SCHEMA, Mark)
        write_json_atomic(folder / "mlflow.json", {**known, "complete": complete})


def is_marked(folder: Path) -> bool:
    """Whether ``mark`` was called for a run folder."""
    path = folder / "mlflow.json"
    return path.exists() and read_record(path, SCHEMA, Mark).get("complete") is True


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as dotted names and texts; what is neither text nor mapping becomes JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat
