"""How long `clrft compare` takes over many runs, in a fresh process, tables and pictures included.

    python benchmarks/compare.py [--tasks 5 20] [--repeats 3]

Makes 200 run folders for each number of tasks (40 methods x 5 class orders) of the size of real ones: 80 test items a
task and class list, 30 updates a task, every file that a run has but its weights. Writes
benchmarks/results/compare.json.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from clrft.config.run_config import build_config
from clrft.runner.run import write_results
from clrft.runs.manifest import write_config
from clrft.runs.provenance import hardware, versions
from clrft.utils.files import write_json_atomic
from eval.evaluate import Prediction
from eval.metrics import METRICS

METHODS, ORDERS, ITEMS, UPDATES = 40, 5, 80, 30
RESULT = Path(__file__).parent / "results" / "compare.json"


def write_run(folder: Path, method: str, seed: int, tasks: int, rng: np.random.Generator) -> None:
    """One run folder, as a run leaves it."""
    folder.mkdir(parents=True)
    learner = build_config("digits_cil", "grpo", "tiny", seed)
    values = learner.to_dict()
    write_config(learner, folder)
    text = (folder / "config.yaml").read_text().replace("label: grpo", f"label: {method}")
    (folder / "config.yaml").write_text(text)
    names = [f"task {j}" for j in range(1, tasks + 1)]
    data = {
        f"task_{j:02d}/{split}": f"{seed * 1000 + j:064x}" for j in range(1, tasks + 1) for split in ("train", "test")
    }
    manifest: dict[str, Any] = {"schema": 1, "stream": values["stream"]["label"], "method": method, "seed": seed}
    manifest |= {"versions": versions(), "hardware": hardware(), "data": data}
    manifest["tasks"] = [
        {"index": j, "name": name, "classes": [f"class {j}a", f"class {j}b"], "train": 48, "test": ITEMS}
        for j, name in enumerate(names, start=1)
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for stage in range(tasks + 1):
        write_stage(folder / f"task_{stage:02d}", stage, rng)
    write_results(folder, names, range(tasks + 1), METRICS)


def write_stage(folder: Path, stage: int, rng: np.random.Generator) -> None:
    """One stage's results, predictions and training steps."""
    folder.mkdir()
    right = {str(j): int(rng.integers(20, ITEMS)) for j in range(1, stage + 1)}
    record = {
        "schema": 1,
        "task": stage,
        "name": f"task {stage}",
        "accuracy": {j: count / ITEMS for j, count in right.items()},
        "correct": right,
        "total": dict.fromkeys(right, ITEMS),
        "final_list": {str(stage): 0.5} if stage else {},
        "probe": {"printed_glyphs": 0.9},
        "seconds": {"train": 20.0, "evaluate": 3.0},
        "peak_memory_mb": {"peak_memory_mb": 1000.0},
    }
    (folder / "metrics.json").write_text(json.dumps(record))
    text = "<think>it looks like four</think><answer>four</answer>"
    rows = [Prediction(stage, int(j), f"digits/{n}", f"class {j}a", text, f"class {j}a", n < right[j],
                       "none" if n < right[j] else "same_task")
            for j in right for n in range(ITEMS)]  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    steps = [{"step": float(n), "reward": 1 + rng.random(), "reward_correct": rng.random(), "drift": rng.random() / 100,
              "kl": rng.random() / 100, "loss": 0.1, "grad_norm": 1.0} for n in range(1, UPDATES + 1)]  # fmt: skip
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps) if stage else "")


def write_runs(sweep: Path, methods: int, orders: int, tasks: int, rng: np.random.Generator) -> None:
    """Run folders with random results."""
    for method in range(methods):
        for seed in range(orders):
            name = f"method_{method:02d}"
            write_run(sweep / f"digits_cil-{name}-{seed}", name, seed, tasks, rng)


def measure(tasks: int, repeats: int) -> dict[str, Any]:
    """Seconds of `clrft compare` over 200 runs."""
    with tempfile.TemporaryDirectory() as place:
        sweep = Path(place) / "many"
        write_runs(sweep, METHODS, ORDERS, tasks, np.random.default_rng(tasks))
        size = sum(path.stat().st_size for path in sweep.rglob("*") if path.is_file())
        times, processor = [], []
        for _ in range(repeats):
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-m", "clrft", "compare", str(sweep)], capture_output=True, check=True)
            times.append(time.perf_counter() - began)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {
        "runs": METHODS * ORDERS,
        "tasks": tasks,
        "megabytes": round(size / 1e6, 1),
        "seconds": round(statistics.median(times), 2),
        "all_seconds": [round(one, 2) for one in times],
        "processor_seconds": round(statistics.median(processor), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = [measure(tasks, options.repeats) for tasks in options.tasks]
    for row in rows:
        print(row)
    write_json_atomic(RESULT, {"versions": versions(), "hardware": hardware(), "results": rows})


if __name__ == "__main__":
    main()
