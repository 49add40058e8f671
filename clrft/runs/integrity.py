"""Whether the files of a finished run tell the same: its configuration, its matrix, and what each stage has measured.

A file of another run, or one that was changed, is found where two files disagree, or a checksum and its file.
Deliberately absent: checksums of weights, which only going on needs (``clrft/runner/lineage.py``).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clrft.config.records import changed_files, read_stage
from eval.matrix import AccuracyMatrix
from eval.metrics import DRIFTS, Value, general_delta, mean_kl
from task_streams.errors import UserError

SCHEMA = 1
FILE = "metrics.json"


def check_agreement(
    folder: Path,
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    matrix: AccuracyMatrix,
    metrics: Mapping[str, Value],
) -> None:
    """Refuse a finished run whose files do not belong to each other.

    Raises:
        UserError: names what differs.
    """
    problems = [*identity_problems(manifest, config), *task_problems(folder, manifest, matrix)]
    files = stage_files(folder)
    records = {stage: read_stage(path, SCHEMA) for stage, path in files.items()}
    for stage, record in records.items():
        problems += [*stage_problems(folder, stage, record, matrix), *changed_files(files[stage], record)]
    rows = [stage for stage in range(1, len(matrix) + 1) if not all(map(math.isnan, matrix.value[stage - 1]))]
    lost = [stage for stage in rows if stage not in records]
    problems += [f"task_{stage:02d}/{FILE} is missing, whose results are in matrix.json." for stage in lost]
    problems += [*probe_problems(records, metrics), *drift_problems(records, metrics)]
    if problems:
        raise UserError(*(f"{folder}: {problem}" for problem in problems))


def stage_files(folder: Path) -> dict[int, Path]:
    """Each finished stage's file of results."""
    found = {path.parent.name.removeprefix("task_"): path for path in sorted(folder.glob(f"task_[0-9][0-9]*/{FILE}"))}
    return {int(number): path for number, path in found.items() if number.isascii() and number.isdigit()}


def identity_problems(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Sentences where the manifest is not that of the configuration."""
    stream, method = (config.get(name) or {} for name in ("stream", "method"))
    told = {"stream": stream.get("label"), "method": method.get("label"), "seed": config.get("seed")}
    return [
        f"manifest.json is of {name} {manifest[name]!r}, but config.yaml of {value!r}."
        for name, value in told.items()
        if value is not None and value != manifest[name]
    ]


def task_problems(folder: Path, manifest: Mapping[str, Any], matrix: AccuracyMatrix) -> list[str]:
    """Sentences where the matrix has other tasks than the manifest."""
    tasks = manifest.get("tasks")
    names = None if tasks is None else [str(task.get("name")) for task in tasks]
    if names is None or names == list(matrix.tasks):
        return []
    return [f"matrix.json is of the tasks {', '.join(matrix.tasks)}, but manifest.json of {', '.join(names)}."]


def stage_problems(folder: Path, stage: int, record: Mapping[str, Any], matrix: AccuracyMatrix) -> list[str]:
    """Sentences where a stage's results are not those of the matrix."""
    name = f"task_{stage:02d}/{FILE}"
    if record["task"] != stage or stage > len(matrix):
        return [f"{name} is that of task {record['task']}, and the matrix has {len(matrix)} tasks."]
    row = matrix.base if stage == 0 else matrix.value[stage - 1]
    told = {str(int(task)): value for task, value in record["accuracy"].items()}
    if stage == 0 and not told:
        return []
    expected = {str(task): float(value) for task, value in enumerate(row, start=1) if not math.isnan(value)}
    if record.get("pooled") is not None:
        told["pooled"] = record["pooled"]
    if stage and not math.isnan(matrix.pooled[stage - 1]):
        expected["pooled"] = float(matrix.pooled[stage - 1])
    if told.keys() == expected.keys() and all(math.isclose(told[j], expected[j], abs_tol=1e-9) for j in told):
        return []
    return [f"{name} has the results {told}, but matrix.json {expected}."]


def probe_problems(records: Mapping[int, Mapping[str, Any]], metrics: Mapping[str, Value]) -> list[str]:
    """Sentences where the change on the probes is not that of the stages."""
    stored = {key: value for key, value in metrics.items() if key.partition("/")[0] == "general_delta"}
    if not stored or not records or any("probe" not in record for record in records.values()):
        return []
    told = general_delta(records[min(records)]["probe"], records[max(records)]["probe"])
    same = told.keys() == stored.keys() and all(_same(told[key], stored[key]) for key in told)
    return [] if same else ["metrics.json has another change on the probes than the stages tell."]


def drift_problems(records: Mapping[int, Mapping[str, Any]], metrics: Mapping[str, Value]) -> list[str]:
    """Sentences where the KL to other policies is not that of the stages."""
    stored = {key: value for key, value in metrics.items() if key.partition("/")[0] in DRIFTS}
    stages = {stage: record["drift"] for stage, record in records.items() if record.get("drift")}
    told = {name: value for key in DRIFTS for name, value in mean_kl(key, stages).items()}
    wrong = [key for key, value in stored.items() if stages and not (key in told and _same(told[key], value))]
    return [f"metrics.json has another {', '.join(wrong)} than the stages tell."] if wrong else []


def _same(one: Value, other: Value) -> bool:
    if one.value is None or other.value is None:
        return one.value is other.value
    return math.isclose(one.value, other.value, abs_tol=1e-9)
