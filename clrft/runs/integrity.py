"""Whether the files of a finished run tell the same: its configuration, its matrix, and what each stage has measured.

A file of another run, or one that was changed, is found where two files disagree, or a checksum and its file.
Deliberately absent: checksums of weights, which only going on needs (``clrft/runner/lineage.py``).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clrft.config.records import changed_files, read_stage
from clrft.runs.layout import METRICS_FILE
from eval.matrix import AccuracyMatrix
from eval.metrics import DRIFTS, Value, general_delta, mean_kl
from task_streams.errors import UserError

SCHEMA = 1


def check_agreement(
    folder: Path,
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    matrix: AccuracyMatrix,
    metrics: Mapping[str, Value],
) -> None:
    """Refuse a finished run whose files do not belong to each other, with all that differs."""
    problems = manifest_problems(manifest, config, matrix)
    files = stage_files(folder)
    records = {stage: read_stage(path, SCHEMA) for stage, path in files.items()}
    for stage, record in records.items():
        problems += [*stage_problems(stage, record, matrix), *changed_files(files[stage], record)]
    rows = [stage for stage in range(1, len(matrix) + 1) if not all(map(math.isnan, matrix.value[stage - 1]))]
    lost = [stage for stage in rows if stage not in records]
    problems += [f"task_{stage:02d}/{METRICS_FILE} is missing, whose results are in matrix.json." for stage in lost]
    problems += metric_problems(records, metrics)
    if problems:
        raise UserError(*(f"{folder}: {problem}" for problem in problems))


def stage_files(folder: Path) -> dict[int, Path]:
    """Each finished stage's file of results."""
    paths = sorted(folder.glob(f"task_[0-9][0-9]*/{METRICS_FILE}"))
    found = {path.parent.name.removeprefix("task_"): path for path in paths}
    return {int(number): path for number, path in found.items() if number.isascii() and number.isdigit()}


def manifest_problems(manifest: Mapping[str, Any], config: Mapping[str, Any], matrix: AccuracyMatrix) -> list[str]:
    """Sentences where the manifest is not that of the configuration, or names other tasks than the matrix."""
    stream, method = (config.get(name) or {} for name in ("stream", "method"))
    told = {"stream": stream.get("label"), "method": method.get("label"), "seed": config.get("seed")}
    problems = [
        f"manifest.json is of {name} {manifest[name]!r}, but config.yaml of {value!r}."
        for name, value in told.items()
        if value is not None and value != manifest[name]
    ]
    if (tasks := manifest.get("tasks")) is not None:
        names = [str(task.get("name")) for task in tasks]
        if names != list(matrix.tasks):
            other = f"but manifest.json of {', '.join(names)}."
            problems.append(f"matrix.json is of the tasks {', '.join(matrix.tasks)}, {other}")
    return problems


def stage_problems(stage: int, record: Mapping[str, Any], matrix: AccuracyMatrix) -> list[str]:
    """Sentences where a stage's results are not those of the matrix."""
    name = f"task_{stage:02d}/{METRICS_FILE}"
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


def metric_problems(records: Mapping[int, Mapping[str, Any]], metrics: Mapping[str, Value]) -> list[str]:
    """Sentences where the change on the probes, or the KL to other policies, is not that of the stages."""
    problems = []
    deltas = {key: value for key, value in metrics.items() if key.partition("/")[0] == "general_delta"}
    if deltas and records and all("probe" in record for record in records.values()):
        told = general_delta(records[min(records)]["probe"], records[max(records)]["probe"])
        if told.keys() != deltas.keys() or not all(same_value(told[key], deltas[key]) for key in told):
            problems.append("metrics.json has another change on the probes than the stages tell.")
    drifts = {stage: record["drift"] for stage, record in records.items() if record.get("drift")}
    measured = {name: value for key in DRIFTS for name, value in mean_kl(key, drifts).items()}
    stored = {key: value for key, value in metrics.items() if key.partition("/")[0] in DRIFTS and drifts}
    wrong = [key for key, value in stored.items() if not (key in measured and same_value(measured[key], value))]
    if wrong:
        problems.append(f"metrics.json has another {', '.join(wrong)} than the stages tell.")
    return problems


def same_value(one: Value, other: Value) -> bool:
    """Whether values are equal to float precision; a number is never the same as "undefined"."""
    if one.value is None or other.value is None:
        return one.value is other.value
    return math.isclose(one.value, other.value, abs_tol=1e-9)
