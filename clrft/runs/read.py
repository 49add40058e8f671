"""Read run folders back: ``runs/<sweep>/<stream>-<method>-<order>/``.

A folder that is incomplete, damaged or not ours is named and left out, never averaged in.
Deliberately absent: writing them (``clrft.runner.run``), and any average over runs (``clrft.analysis.compare``).
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from clrft.config.records import (
    Answer,
    Manifest,
    MetricRows,
    Metrics,
    check_fields,
    read_record,
    read_rows,
    read_stage,
    read_steps,
)
from clrft.config.retired import saved_settings
from clrft.runs.fork_history import origins_of
from clrft.runs.integrity import check_agreement, same_value, stage_files
from clrft.runs.layout import METRICS_FILE, PREDICTIONS_FILE, STEPS_FILE, stage_folder
from clrft.utils.files import COMPARISON, REPORT, check_inside, read_json, safe_name
from eval.evaluate import Prediction
from eval.matrix import AccuracyMatrix
from eval.metrics import METRICS, Value, compute_metrics
from task_streams.errors import UserError

SCHEMA = 1
MARKS = ("config.yaml", "manifest.json")  # a folder with one of these is a run, whole or not

Fault = Literal["incomplete", "damaged", "foreign"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One complete run, as its folder tells it.

    Attributes:
        folder: where it lies.
        stream: name of the stream.
        method: name of the method.
        seed: seed of the class order.
        config: resolved config, nested.
        manifest: versions, code, data and model identity.
        matrix: its accuracies.
        metrics: every metric by name, those of the matrix computed from the matrix.
    """

    folder: Path
    stream: str
    method: str
    seed: int
    config: dict[str, Any] = field(repr=False)
    manifest: dict[str, Any] = field(repr=False)
    matrix: AccuracyMatrix = field(repr=False)
    metrics: dict[str, Value] = field(repr=False)

    def stages(self) -> list[int]:
        """Stages that have a folder, 0 = before any training."""
        return sorted(stage_files(self.folder))

    def task_metrics(self, stage: int) -> dict[str, Any]:
        """``metrics.json`` of a stage: accuracies, probes, seconds, memory."""
        return read_stage(stage_folder(self.folder, stage) / METRICS_FILE, SCHEMA)

    def predictions(self, stage: int) -> Iterator[Prediction]:
        """Predictions made after a stage, read as they are asked for."""
        return read_predictions(self.folder, stage)

    def steps(self, stage: int) -> list[dict[str, float]]:
        """Training metrics of a stage, one row per optimizer step; empty when nothing was trained."""
        path = stage_folder(self.folder, stage) / STEPS_FILE
        return read_steps(path) if path.exists() else []


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A folder that is not compared, and why."""

    folder: Path
    fault: Fault
    reason: str

    def __str__(self) -> str:
        return f"{self.folder}: {self.fault}: {self.reason}"


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """What lies in some folders: complete runs, and what was left out."""

    runs: tuple[RunRecord, ...]
    left_out: tuple[LeftOut, ...]


def read_run(folder: Path) -> RunRecord:
    """The complete run in a folder.

    Raises:
        UserError: the folder is missing, incomplete, damaged, or holds no run.
    """
    if not folder.is_dir():
        raise UserError(_missing(folder))
    if fault := _look(folder):
        raise UserError(str(fault))
    check_inside(folder)
    manifest = read_record(folder / "manifest.json", SCHEMA, Manifest)
    for name in ("stream", "method"):
        safe_name(manifest[name])
    origins_of(folder, manifest)  # refuses a damaged one
    matrix = AccuracyMatrix.from_json(read_json(folder / "matrix.json"))
    metrics = _read_metrics(folder / "metrics.json", matrix)
    config = saved_settings(folder)
    check_agreement(folder, manifest, config, matrix, metrics)
    stream, method, seed = (manifest[key] for key in ("stream", "method", "seed"))
    return RunRecord(folder, stream, method, seed, config, manifest, matrix, metrics)


def find_runs(paths: Iterable[Path]) -> FoundRuns:
    """The runs in run folders and sweep folders, each folder once, in the order given.

    Raises:
        UserError: a path does not exist, or holds neither a run nor runs; all such paths at once.
    """
    problems: list[str] = []
    folders: dict[Path, Path] = {}
    for path in paths:
        if not os.path.isdir(path):  # for a name of any length
            problems.append(_missing(path))
            continue
        # beside runs lie folders that hold something else: what is hidden, and comparisons of the runs
        within = [one for one in path.iterdir() if one.is_dir() and one.name not in (COMPARISON, REPORT)]
        inside = [path] if _is_run(path) else sorted(one for one in within if not one.name.startswith("."))
        if not any(map(_is_run, inside)):
            problems.append(f"{path} holds no run; expected folders with {' and '.join(MARKS)}.")
        folders.update((folder.resolve(), folder) for folder in inside)
    if problems:
        raise UserError(*problems)
    runs: list[RunRecord] = []
    left_out: list[LeftOut] = []
    for folder in folders.values():
        if fault := _look(folder):
            left_out.append(fault)
            continue
        try:
            runs.append(read_run(folder))
        except UserError as error:
            left_out.append(LeftOut(folder, "damaged", " ".join(error.problems)))
    return FoundRuns(tuple(runs), tuple(left_out))


def complete_runs(paths: Iterable[Path]) -> FoundRuns:
    """As ``find_runs``, of which at least one is complete.

    Raises:
        UserError: as ``find_runs``, or no run is complete: says of each folder why.
    """
    found = find_runs(paths)
    if not found.runs:
        raise UserError("no complete run was found.", *map(str, found.left_out))
    return found


def _is_run(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in MARKS)


def _look(folder: Path) -> LeftOut | None:
    """What is wrong with a folder as far as its file names tell; None for a complete run."""
    if not _is_run(folder):
        return LeftOut(folder, "foreign", f"no run: it has no {' and no '.join(MARKS)}.")
    absent = [name for name in (*MARKS, "matrix.json", "metrics.json") if not (folder / name).exists()]
    if absent:
        done = len(list(folder.glob("task_[0-9]*/metrics.json")))
        return LeftOut(folder, "incomplete", f"{', '.join(absent)} missing; {done} task folders are done.")
    return None


def _missing(path: Path) -> str:
    """Sentence for a folder that does not exist, with the nearest name beside it."""
    parent = path.parent
    if not os.path.isdir(parent):
        return f"no folder {path}; {parent} does not exist either."
    names = sorted(child.name for child in parent.iterdir() if child.is_dir())
    nearest = get_close_matches(path.name, names, n=1, cutoff=0.4)
    return f"no folder {path}." + (f" Did you mean {str(parent / nearest[0])!r}?" if nearest else "")


def _read_metrics(path: Path, matrix: AccuracyMatrix) -> dict[str, Value]:
    """Metrics of the file, which must agree with the matrix; those that the file lacks are computed."""
    rows = read_record(path, SCHEMA, Metrics)["metrics"]
    try:
        check_fields(path, rows, MetricRows)
        stored = {key: Value(row["value"], row["reason"]) for key, row in rows.items()}
    except ValueError as error:  # a number and a reason, or neither
        raise UserError(f"{path}: damaged metrics: {error}.") from error
    computed = compute_metrics(matrix, [key for key, metric in METRICS.items() if metric.compute])
    wrong = [key for key, value in computed.items() if key in stored and not same_value(stored[key], value)]
    if wrong:
        raise UserError(f"{path}: {', '.join(wrong)} not as the matrix beside it says.")
    extra = {key: value for key, value in stored.items() if key.partition("/")[0] not in computed}
    return {**computed, **dict(sorted(extra.items(), key=lambda item: metric_rank(item[0])))}


def metric_rank(key: str) -> tuple[int, str]:
    """Where a metric stands among others: in the order of ``METRICS``, then by its key."""
    names = list(METRICS)
    name = key.partition("/")[0]
    return (names.index(name) if name in names else len(names), key)


def read_predictions(folder: Path, stage: int) -> Iterator[Prediction]:
    """Predictions made after a stage of the run in a folder, read as they are asked for.

    Raises:
        UserError: the file is missing or damaged, or holds an answer made after another stage.
    """
    path = stage_folder(folder, stage) / PREDICTIONS_FILE
    for row in read_rows(path, Answer):
        prediction = Prediction.from_json(row)
        if prediction.stage != stage:
            made = f"{path} holds an answer made after task {prediction.stage}"
            raise UserError(f"{made}; expected those after task {stage}.")
        yield prediction
