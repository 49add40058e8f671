"""What MLflow holds of runs: sweep → cell (stream x method x order) → task, as nested runs.

The run's files are the truth. MLflow is fed from them after every stage, and may be fed again: a run is found by the
identity that lies in its folder (``mlflow.json``) and gets what it lacks of the files. During a stage its rows of
``steps.jsonl`` are added as they come. Training never waits: a queue does (``queue.py``); what it could not feed,
``clrft sync`` does (``sync.py``).
"""

import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clrft.config.records import Mark, changed_files, read_record, read_stage, read_steps
from clrft.runs.layout import ERROR_FILE, METRICS_FILE, PREDICTIONS_FILE, STEPS_FILE
from clrft.runs.manifest import flat
from clrft.runs.read import read_run
from clrft.tracking.mlflow_run import Facts, MlflowRun
from clrft.tracking.queue import CallQueue
from clrft.tracking.store import NoStore, Point, Store, redacted_uri, tell
from clrft.utils.files import locked, safe_name, write_first, write_json_atomic
from eval.metrics import metric_of
from task_streams.errors import UserError

SCHEMA = 1
FLUSH_SECONDS = 5.0
COMPLETE = {"clrft.complete": "true"}
CELL_FILES = ("config.yaml", "manifest.json", "matrix.json", METRICS_FILE)
TASK_FILES = (PREDICTIONS_FILE, METRICS_FILE)
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
        run = cell_run(self.run, identity(folder), name, params, tags or {})
        self.put(run.open)
        return CellTracker(self, folder, run)

    def finish(self, artifacts: Sequence[Path] = (), note: str = "") -> None:
        """Close the sweep's run, with its figures and tables; a later sweep on the folder opens it again.

        Args:
            artifacts: files, and folders with all that is in them.
            note: Markdown that MLflow shows as the run's description; the one that is there stays if empty.
        """

        def close() -> None:
            run_id = self.run.open().run_id
            for path in artifacts:
                self.store.call(self.store.client.log_artifact, run_id, str(path))
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
        self.store.closed = True
        if folder is not None:
            self.say(f"MLflow lacks some of {folder.name}; clrft sync {folder} feeds it.")
        return False


@dataclass(slots=True)
class CellTracker:
    """Feeds the run of one cell, a child of the sweep's. Made by ``Tracker.cell``."""

    tracker: Tracker
    folder: Path
    run: MlflowRun
    last: "TaskTracker | None" = None  # of its tasks

    def task(self, index: int, name: str) -> "TaskTracker":
        """The run of one task (index from 0, the base)."""
        self.last = TaskTracker(self.tracker, task_run(self.run, index, name))
        self.tracker.put(self.last.run.open)
        return self.last

    def finish(self) -> bool:
        """Close the cell with the results in its files; returns whether MLflow has all of the cell."""
        self.tracker.put(lambda: self.run.settle(cell_facts(self.folder)))
        return self.tracker.drained(self.folder)

    def stop(self, status: Status) -> None:
        """Close cell, task and sweep of a run that ended early: KILLED (interrupted) or FAILED.

        A resume opens them again, and a sweep that goes on closes itself.
        """
        task = self.last
        if task is not None and not task.finished:
            self.tracker.put(task.feed_rows)
            self.tracker.put(lambda: task.run.end(status))
        self.tracker.put(lambda: self.run.end(status))
        self.tracker.put(lambda: self.tracker.run.end(status))
        self.tracker.drained(self.folder)


@dataclass(slots=True)
class TaskTracker:
    """Feeds the run of one task, a child of the cell's. Made by ``CellTracker.task``."""

    tracker: Tracker
    run: MlflowRun
    rows: list[tuple[StepRow, int]] = field(default_factory=list)  # not fed yet, each with its time in ms
    asked: bool = False  # a call that feeds the rows waits
    finished: bool = False  # the task's files are fed
    flushed: float = field(default_factory=time.monotonic)  # when rows were fed last

    def steps(self, *rows: StepRow) -> None:
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
            self.rows.append((row, now))
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Let the rows so far be fed, by one call however many there will be."""
        self.flushed = time.monotonic()
        if self.rows and not self.asked:
            self.asked = True
            self.tracker.put(self.feed_rows)

    def finish(self, folder: Path, learned_before: bool = False) -> None:
        """Let MLflow have what the task's folder holds, and what it has of it already only once.

        Args:
            folder: of the finished task.
            learned_before: by an earlier process: where MLflow says that it has all, it is not compared.
        """
        self.finished = True

        def settle() -> None:
            if learned_before and COMPLETE.items() <= self.run.open().tags.items():
                self.run.end("FINISHED")
            else:
                self.run.settle(task_facts(folder))

        self.tracker.put(settle)

    def feed_rows(self) -> None:
        """Add the rows so far; in the queue's thread."""
        rows = self.rows[:]
        self.run.add([point for row, now in rows for point in points_of(row, now)])
        del self.rows[: len(rows)]  # training may have added some behind them
        self.asked = False


def sweep_run(store: Store, known_as: str, sweep: str) -> MlflowRun:
    """The run of a sweep; ``known_as``: the identity of its folder."""
    return MlflowRun(store, known_as, sweep, {"clrft.kind": "sweep", "clrft.sweep": sweep})


def cell_run(
    sweep: MlflowRun, known_as: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> MlflowRun:
    """The run of a cell; ``known_as``: the identity of its folder.

    Nested parameters have dotted names; what is neither text nor mapping becomes JSON.
    """
    own = {**tags, "clrft.kind": "cell", "clrft.cell": name}
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in flat(params).items()
    }
    return MlflowRun(sweep.store, known_as, name, own, sweep, texts)


def task_run(cell: MlflowRun, index: int, name: str) -> MlflowRun:
    """The run of a task."""
    tags = {"clrft.kind": "task", "clrft.task": str(index), "clrft.task_name": name}
    return MlflowRun(cell.store, f"{cell.identity}/task_{index:02d}", f"task {index:02d} {name}", tags, cell)


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
    now = milliseconds(folder / METRICS_FILE)
    columns = {f"accuracy/task_{task:02d}": column for task, column in enumerate(record.matrix.value.T, start=1)}
    columns["accuracy/pooled"] = record.matrix.pooled
    points = points_of({key: result.value for key, result in record.metrics.items()}, now)
    for stage in range(1, len(record.matrix.value) + 1):
        row = {key: float(column[stage - 1]) for key, column in columns.items()}
        points += points_of({key: value for key, value in row.items() if not math.isnan(value)}, now, stage)
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
    points = points_of(figures, milliseconds(folder / METRICS_FILE))
    steps = folder / STEPS_FILE
    if steps.exists():
        points += [point for row in read_steps(steps) for point in points_of(row, milliseconds(steps))]
    return Facts(tuple(points), tuple(folder / name for name in TASK_FILES), COMPLETE, "FINISHED")


def points_of(row: Mapping[str, float | None], now: int, step: int = 0) -> list[Point]:
    """The metric points of a row of figures, those that are undefined left out.

    Args:
        row: figures by name.
        now: time of the points, ms.
        step: of the row, where it does not name its own.
    """
    at = int(row.get("step") or step)
    return [(key, value, at, now) for key, value in row.items() if key != "step" and value is not None]


def milliseconds(file: Path) -> int:
    """Time of a file, so that two processes that feed it give its points the same time."""
    return file.stat().st_mtime_ns // 1_000_000


def identity(folder: Path, make: bool = True) -> str:
    """Random name of a run folder in any MLflow store, from its ``mlflow.json``; made, or empty, if missing.

    One that only others may write to is known by its path, as nothing can be left in it.
    """
    path = folder / "mlflow.json"
    if not make and not path.exists():
        return ""
    if folder.exists() and not path.exists() and not os.access(folder, os.W_OK):
        return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
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
