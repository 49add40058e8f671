"""A finished run's results, from its stages' files: the accuracy matrix and the metrics by name."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clrft.config.records import read_stage
from clrft.runs.layout import METRICS_FILE, stage_folder
from clrft.runs.taxonomy import run_kinds, task_classes
from clrft.utils.files import read_json, write_json_atomic
from eval.matrix import AccuracyMatrix
from eval.metrics import DRIFTS, METRICS, Value, compute_metrics, general_delta, mean_kl
from eval.taxonomy import KINDS

SCHEMA = 1


def write_results(
    folder: Path, tasks: Sequence[str], stages: Sequence[int], keys: Iterable[str]
) -> tuple[AccuracyMatrix, dict[str, Value]]:
    """Write ``matrix.json`` and, last, ``metrics.json``, whose presence marks the run complete."""
    records = {stage: read_stage(stage_folder(folder, stage) / METRICS_FILE, SCHEMA) for stage in stages}
    matrix = matrix_of(tasks, records)
    asked = list(keys)
    values = metrics_of(matrix, records, asked)
    if any(key in asked for key in KINDS):
        manifest = read_json(folder / "manifest.json", SCHEMA)
        kinds = run_kinds(folder, matrix, task_classes(manifest, len(matrix))).metrics
        values |= {key: kinds[key] for key in KINDS if key in asked}
    write_json_atomic(folder / "matrix.json", matrix.to_json())
    body = {key: {"value": value.value, "reason": value.reason} for key, value in values.items()}
    write_json_atomic(folder / METRICS_FILE, {"schema": SCHEMA, "metrics": body})
    return matrix, values


def matrix_of(tasks: Sequence[str], records: dict[int, dict[str, Any]]) -> AccuracyMatrix:
    """The accuracy matrix from every stage's counts, or values where there are no counts, and what was pooled."""
    matrix = AccuracyMatrix.empty(tasks)
    for stage, record in records.items():
        matrix = matrix.with_rows(final_list={int(j): value for j, value in record.get("final_list", {}).items()})
        values = {int(j): value for j, value in record["accuracy"].items()}
        if stage == 0:
            matrix = matrix.with_rows(base=values)
            continue
        counts = {int(j): (right, record["total"][j]) for j, right in record["correct"].items() if right is not None}
        matrix = matrix.with_row(stage, counts)
        matrix = matrix.with_values(stage, {j: value for j, value in values.items() if j not in counts})
        if record.get("pooled") is not None:
            matrix = matrix.with_rows(pooled={stage: record["pooled"]})
    return matrix


def metrics_of(matrix: AccuracyMatrix, records: dict[int, dict[str, Any]], keys: list[str]) -> dict[str, Value]:
    """The metrics asked for: of the matrix, the change on the probes between first and last stage, KL over stages."""
    values = compute_metrics(matrix, [key for key in keys if METRICS[key].compute is not None])
    if "general_delta" in keys:
        values |= general_delta(records[min(records)]["probe"], records[max(records)]["probe"])
    drifts = {stage: record["drift"] for stage, record in records.items() if record.get("drift")}
    for key in (key for key in DRIFTS if key in keys):
        values |= mean_kl(key, drifts)
    return values
