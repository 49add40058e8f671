"""What MLflow is told: sweep → cell (stream x method x order) → task, as nested runs.

Files are the truth; MLflow is fed from them and may be fed again: a run is found by the identity that lies in
its folder (``mlflow.json``), a complete one takes nothing more, and a task left half-fed is begun again.
Deliberately absent: a queue for a store that dies while training goes on.
"""

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clrft.files import locked, read_json, safe_name, write_json_atomic
from clrft.tracking_store import METRICS_PER_BATCH, NullStore, RunHandle, Store
from eval.matrix import AccuracyMatrix
from eval.metrics import Value, metric_of

SCHEMA = 1
FLUSH_SECONDS = 5.0
COMPLETE = {"clrft.complete": "true"}
Status = Literal["FINISHED", "FAILED", "KILLED"]
Number = tuple[str, float, int]  # key, value, step


class Tracker:
    """Tracking of one sweep: its parent run.

    Args:
        root: folder of all runs; the sweep's folder is ``root/sweep``.
        sweep: name of the sweep.
        enabled: False (by explicit setting only) tracks nothing; every call is then accepted and dropped.

    Raises:
        UserError: the store can't be reached.
    """

    def __init__(self, root: Path, sweep: str, enabled: bool = True) -> None:
        self._folder = root / safe_name(sweep)
        self._store = Store(root) if enabled else NullStore()
        self._run = self._store.open_run(identity(self._folder), sweep, _tags("sweep", sweep=sweep))

    @property
    def run_id(self) -> str:
        """MLflow's id of the sweep's run; empty when nothing is tracked."""
        return self._run.run_id

    def cell(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> "CellTracker":
        """The run of one cell, found by the identity in its folder ``root/sweep/name``, or made.

        Args:
            name: name of the run folder.
            params: resolved config; nested mappings become dotted names.
            tags: identity of data and code, and whatever else tells cells apart.
        """
        own = _tags("cell", cell=name, sweep_run=self.run_id)
        mark = identity(self._folder / safe_name(name))
        run = self._store.open_run(mark, name, {**(tags or {}), **own}, parent=self.run_id)
        if run.created:
            self._supersede(own, run)
        self._store.log_params(run, flattened(params))
        return CellTracker(self._store, run, mark)

    def finish(self, artifacts: Sequence[Path] = (), status: Status = "FINISHED") -> None:
        """Close the sweep's run, with its figures and tables; a later sweep on the folder opens it again."""
        for path in artifacts:
            self._store.log_artifact(self.run_id, path)
        self._store.end(self.run_id, status)

    def _supersede(self, own: Mapping[str, str], run: RunHandle) -> None:
        """Mark runs of the same cell whose folder is gone, so that they aren't taken for this one."""
        for other in self._store.search(own):
            if other.run_id != run.run_id and "clrft.superseded" not in other.tags:
                self._store.set_tags(other.run_id, {"clrft.superseded": "true"})
                self._store.rename(other.run_id, f"{own['clrft.cell']} (superseded)")


class CellTracker:
    """Tracking of one cell: a child of the sweep's run. Made by ``Tracker.cell``."""

    def __init__(self, store: Store | NullStore, run: RunHandle, mark: str) -> None:
        self._store, self._run, self._mark = store, run, mark
        self._complete = _is_complete(store, run)

    @property
    def run_id(self) -> str:
        """MLflow's id of the cell's run; empty when nothing is tracked."""
        return self._run.run_id

    def task(self, index: int, name: str) -> "TaskTracker":
        """The run of one task (index from 1); one left half-fed is discarded and begun again."""
        mark, title = f"{self._mark}/task_{index:02d}", f"task {index:02d} {name}"
        tags = _tags("task", task=str(index), task_name=name)
        run = self._store.open_run(mark, title, tags, parent=self.run_id)
        if not run.created and not _marked_complete(run):
            self._store.discard(run.run_id)
            run = self._store.open_run(mark, title, tags, parent=self.run_id)
        return TaskTracker(self._store, run)

    def finish(
        self,
        metrics: Mapping[str, Value],
        matrix: AccuracyMatrix | None = None,
        artifacts: Sequence[Path] = (),
        extra: Mapping[str, float | None] | None = None,
    ) -> None:
        """Write the results and mark the cell complete; a second call writes nothing.

        Args:
            metrics: by definition name. An undefined one becomes a tag with its reason, never a number; each
                one's formula is a tag too.
            matrix: becomes one curve per task, accuracy over stages; cells not evaluated are left out.
            artifacts: files and folders to copy, e.g. config, matrix, metrics, manifest.
            extra: numbers without a definition name, e.g. seconds and peak memory; None is left out.
        """
        if self._complete:
            return
        results = {key: result.value for key, result in metrics.items()}
        curves = _curves(matrix) if matrix is not None else []
        self._store.log_metrics(self.run_id, [*_numbers(results), *_numbers(extra or {}), *curves])
        for path in artifacts:
            self._store.log_artifact(self.run_id, path)
        self._store.set_tags(self.run_id, {**_explained(metrics), **COMPLETE})
        self._store.end(self.run_id, "FINISHED")
        self._complete = True

    def stop(self, status: Status) -> None:
        """Close a cell that ended early: KILLED (interrupted) or FAILED; a resume opens it again."""
        if not self._complete:
            self._store.end(self.run_id, status)


class TaskTracker:
    """Tracking of one task: a child of the cell's run. Made by ``CellTracker.task``."""

    def __init__(self, store: Store | NullStore, run: RunHandle) -> None:
        self._store, self._run = store, run
        self._complete = _is_complete(store, run)
        self._waiting: list[Number] = []
        self._flushed = time.monotonic()

    @property
    def run_id(self) -> str:
        """MLflow's id of the task's run; empty when nothing is tracked."""
        return self._run.run_id

    def steps(self, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Take training metrics, one row per step; written once enough or a few seconds have gathered.

        Args:
            rows: ``step`` (from 1) and that step's metrics; None is left out, NaN (it diverged) is kept.

        Raises:
            ValueError: a row has no ``step``.
        """
        if self._complete:
            return
        for row in rows:
            self._waiting += _step_numbers(row)
        if len(self._waiting) >= METRICS_PER_BATCH or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def finish(self, metrics: Mapping[str, float | None], artifacts: Sequence[Path] = ()) -> None:
        """Write what waits, the task's own numbers and files, and mark it complete; a second call is idle."""
        if self._complete:
            return
        self._waiting += _numbers(metrics)
        self._flush()
        for path in artifacts:
            self._store.log_artifact(self.run_id, path)
        self._store.set_tags(self.run_id, COMPLETE)
        self._store.end(self.run_id, "FINISHED")
        self._complete = True

    def stop(self, status: Status) -> None:
        """Write what waits and close a task that ended early; it is begun again when its training is."""
        if not self._complete:
            self._flush()
            self._store.end(self.run_id, status)

    def _flush(self) -> None:
        self._store.log_metrics(self.run_id, self._waiting)
        self._waiting, self._flushed = [], time.monotonic()


def identity(folder: Path) -> str:
    """Random name of a run folder in any MLflow store, from its ``mlflow.json``, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mlflow.json"
    with locked(folder / ".mlflow.lock"):
        if not path.exists():
            write_json_atomic(path, {"schema": SCHEMA, "identity": uuid.uuid4().hex})
    return str(read_json(path, SCHEMA)["identity"])


def mark(folder: Path) -> None:
    """Remember in a run folder that the store has all of it."""
    with locked(folder / ".mlflow.lock"):
        known = read_json(folder / "mlflow.json", SCHEMA)
        write_json_atomic(folder / "mlflow.json", {**known, "complete": True})


def is_marked(folder: Path) -> bool:
    """Whether ``mark`` was called for a run folder."""
    path = folder / "mlflow.json"
    return path.exists() and read_json(path, SCHEMA).get("complete") is True


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


def _marked_complete(run: RunHandle) -> bool:
    return COMPLETE.items() <= run.tags.items()


def _is_complete(store: Store | NullStore, run: RunHandle) -> bool:
    """Whether a run was complete when it was opened; opening set it running, so it is closed again."""
    complete = _marked_complete(run)
    if complete:
        store.end(run.run_id, "FINISHED")
    return complete


def _numbers(metrics: Mapping[str, float | None]) -> list[Number]:
    return [(key, value, 0) for key, value in metrics.items() if value is not None and not math.isnan(value)]


def _step_numbers(row: Mapping[str, float | None]) -> list[Number]:
    step = row.get("step")
    if step is None:
        raise ValueError(f"a row of step metrics needs its step, got {dict(row)}")
    return [(key, value, int(step)) for key, value in row.items() if key != "step" and value is not None]


def _curves(matrix: AccuracyMatrix) -> list[Number]:
    """``accuracy/task_01`` … over stages (the step); cells not evaluated are left out."""
    count = len(matrix)
    cells = [(task, stage, float(matrix.value[stage, task])) for task in range(count) for stage in range(count)]
    return [
        (f"accuracy/task_{task + 1:02d}", value, stage + 1) for task, stage, value in cells if not math.isnan(value)
    ]


def _explained(metrics: Mapping[str, Value]) -> dict[str, str]:
    """Tags: the formula of every metric, and the reason of every undefined one."""
    formulas = {f"clrft.definition.{key}": metric_of(key).definition for key in metrics}
    reasons = {f"clrft.undefined.{key}": value.reason for key, value in metrics.items() if value.reason}
    return formulas | reasons
