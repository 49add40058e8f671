"""Complete run folders in the layout on disk, and what reports on them show, for tests of what reads them."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from clrft.analysis.render import Part, to_terminal
from clrft.runs.read import RunRecord, read_run
from eval.evaluate import Prediction
from eval.matrix import AccuracyMatrix
from eval.metrics import compute_metrics

Rows = Sequence[Sequence[int | None]]
EVIL = "<script>window.cracked=1</script><img src=x onerror=window.cracked=1>&\"'"
LEARNED: Rows = [[90, None], [60, 80]]


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
        if not cells:
            continue
        place = folder / f"task_{stage:02d}"
        place.mkdir()
        prediction = Prediction(stage, 1, "d/1", "one", "<answer>one</answer>", "one", True, "none")
        _dump(place / "predictions.jsonl", prediction.to_json())
        if steps:
            (place / "steps.jsonl").write_text("".join(json.dumps(dict(step)) + "\n" for step in steps))
        accuracy = {str(j): right / total for j, (right, total) in cells.items()}
        _dump(place / "metrics.json", {"schema": 1, "task": stage, "name": f"t{stage}", "accuracy": accuracy})
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


def record(sweep: Path, method: str, seed: int, percent: Rows = LEARNED, **more: Any) -> RunRecord:
    """What is read of a run that ``write_run`` writes."""
    return read_run(write_run(sweep, method, seed, percent, **more))


def terminal(parts: Iterable[Part], width: int = 100) -> str:
    """What a terminal shows."""
    console = Console(width=width)
    with console.capture() as capture:
        console.print(to_terminal(parts))
    return capture.get()


def csv_row(text: str, **where: str) -> dict[str, str]:
    """The only row of a CSV file that has these values."""
    (row,) = [row for row in csv.DictReader(io.StringIO(text)) if where.items() <= row.items()]
    return row


def hostile_sweep(sweep: Path) -> Path:
    """Two methods in two orders; a completion and a setting of one hold markup."""
    for method, seed, kept in (("sft", 1, 0), ("sft", 2, 0), ("grpo", 1, 100), ("grpo", 2, 0)):
        thought = {"method": {"name": method, "thought": EVIL if method == "sft" else "none"}}
        folder = write_run(sweep, method, seed, [[100, None], [kept, 100]], config=thought)
        for stage, failure in ((1, "none"), (2, "newest_task")):
            path = folder / f"task_0{stage}" / "predictions.jsonl"
            said = {"label": EVIL, "answer": EVIL, "completion": EVIL, "correct": stage == 1, "failure": failure}
            _dump(path, json.loads(path.read_text()) | said)
    return sweep


def _dump(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data) + "\n")
