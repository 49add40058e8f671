"""Complete run folders in the layout on disk, for tests of what reads them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.evaluate import Prediction
from eval.matrix import AccuracyMatrix
from eval.metrics import compute_metrics

Rows = Sequence[Sequence[int | None]]
EVIL = "<script>window.cracked=1</script><img src=x onerror=window.cracked=1>&\"'"


def write_run(
    sweep: Path,
    method: str,
    seed: int,
    percent: Rows,
    *,
    stream: str = "digits_cil",
    config: Mapping[str, Any] | None = None,
    steps: Sequence[Mapping[str, float]] = (),
    probe: tuple[float, float] = (0.9, 0.8),
    manifest: Mapping[str, Any] | None = None,
) -> Path:
    """Write a complete run whose matrix has the given rows in percent; None = not tested.

    A task has 100 test items. ``steps`` are written for every stage that has a row.
    """
    folder = sweep / f"{stream}-{method}-{seed}"
    folder.mkdir(parents=True)
    size = len(percent[-1])
    matrix = AccuracyMatrix.empty([f"t{j}" for j in range(1, size + 1)])
    for stage, row in enumerate(percent, start=1):
        cells = {j: (value, 100) for j, value in enumerate(row, start=1) if value is not None}
        matrix = matrix.with_row(stage, cells)
        if cells:
            _write_stage(folder / f"task_{stage:02d}", stage, cells, steps)
    values = compute_metrics(matrix, None, {"printed_glyphs": probe[0]}, {"printed_glyphs": probe[1]})
    settings = {
        "stream": {"name": stream, "shots": 5},
        "method": {"name": method},
        "train": {"learning_rate": 1e-4},
        "run": {"output": str(sweep.parent), "sweep": sweep.name},
        "seed": seed,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, **(config or {})}))
    facts = {"schema": 1, "stream": stream, "method": method, "seed": seed, "versions": {"torch": "2"}}
    _dump(folder / "manifest.json", {**facts, "data": {"sha256": f"order {seed}"}, **(manifest or {})})
    _dump(folder / "matrix.json", matrix.to_json())
    rows = {key: {"value": value.value, "reason": value.reason} for key, value in values.items()}
    _dump(folder / "metrics.json", {"schema": 1, "metrics": rows})
    return folder


def hostile_sweep(sweep: Path) -> Path:
    """Two methods in two orders; a completion and a setting of one hold markup."""
    lost: Rows = [[100, None], [0, 100]]
    kept: Rows = [[100, None], [100, 100]]
    for method, seed, rows in (("sft", 1, lost), ("sft", 2, lost), ("grpo", 1, kept), ("grpo", 2, lost)):
        thought = {"method": {"name": method, "thought": EVIL if method == "sft" else "none"}}
        folder = write_run(sweep, method, seed, rows, config=thought)
        for stage in (1, 2):
            path = folder / f"task_0{stage}" / "predictions.jsonl"
            row = json.loads(path.read_text())
            row |= {"correct": stage == 1, "failure": "none" if stage == 1 else "newest_task", "completion": EVIL}
            path.write_text(json.dumps(row | {"label": EVIL, "answer": EVIL}) + "\n")
    return sweep


def _write_stage(
    folder: Path, stage: int, cells: Mapping[int, tuple[int, int]], steps: Sequence[Mapping[str, float]]
) -> None:
    folder.mkdir()
    prediction = Prediction(stage, 1, "d/1", "one", "<answer>one</answer>", "one", True, "none")
    (folder / "predictions.jsonl").write_text(json.dumps(prediction.to_json()) + "\n")
    if steps:
        (folder / "steps.jsonl").write_text("".join(json.dumps(dict(row)) + "\n" for row in steps))
    accuracy = {str(j): right / total for j, (right, total) in cells.items()}
    _dump(folder / "metrics.json", {"schema": 1, "task": stage, "name": f"t{stage}", "accuracy": accuracy})


def _dump(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data))
