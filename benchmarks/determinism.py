"""What the same bits every time cost: training with ``train.deterministic`` and without, in pairs, on this device.

    python benchmarks/determinism.py --pairs 5 --output benchmarks/results/determinism.json

Each run learns two tasks of the embedded model from the same seed. Told are the ratio of the training times (median
over the pairs, the order alternating) and how many different weights the runs of each kind ended with: one, where the
device's kernels allow it.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from clrft.config.run_config import RunConfig, build_config
from clrft.runner.run import run
from clrft.runs.layout import METRICS_FILE, WEIGHTS_FOLDER, stage_folder
from clrft.runs.provenance import circumstances
from clrft.utils.files import read_json
from clrft.utils.progress import Silent
from clrft.utils.quiet import quiet_environment, quiet_libraries

TASKS = 2
SMALL: dict[str, Any] = {
    "stream": {"tasks": TASKS, "test_per_class": 1},
    "evaluate": {"probe": 0, "drift_prompts": 0, "final_list": False},
}


def config_of(method: str, output: Path, deterministic: bool, device: str, updates: int) -> RunConfig:
    """The settings of one run."""
    own = {"run": {"output": str(output), "mlflow": False, "checkpoint_every": 0}, "model": {"device": device}}
    train = {"train": {"deterministic": deterministic, "updates": updates}}
    return build_config("digits_cil", method, "tiny", 1993, SMALL, own, train)


def measured(config: RunConfig) -> tuple[float, str]:
    """Seconds of training, and a digest of the weights that the last task left."""
    folder = run(config, Silent())
    stages = [stage_folder(folder, stage) for stage in range(1, TASKS + 1)]
    seconds = sum(read_json(stage / METRICS_FILE)["seconds"]["train"] for stage in stages)
    weights = (stages[-1] / WEIGHTS_FOLDER / "model.safetensors").read_bytes()
    return seconds, hashlib.sha256(weights).hexdigest()


def compared(method: str, pairs: int, device: str, updates: int) -> dict[str, Any]:
    """Times and digests of one method's runs, in pairs."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        measured(config_of(method, Path(scratch) / "warm", True, device, updates))  # what only a first run pays
        for pair in range(pairs):
            row: dict[str, Any] = {}
            for wanted in (True, False) if pair % 2 else (False, True):
                config = config_of(method, Path(scratch) / f"{pair}-{wanted}", wanted, device, updates)
                name = "deterministic" if wanted else "free"
                row[f"{name}_seconds"], row[f"{name}_weights"] = measured(config)
            rows.append(row)
    return {
        "ratio": statistics.median(row["deterministic_seconds"] / row["free_seconds"] for row in rows),
        "different_weights": {
            name: len({row[f"{name}_weights"] for row in rows}) for name in ("deterministic", "free")
        },
        "pairs": rows,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20, help="of each of the two tasks")
    parser.add_argument("--methods", nargs="+", default=["sft", "rapo"])
    parser.add_argument("--device", default="auto", help="as model.device")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    quiet_environment()
    quiet_libraries()
    results = {}
    for method in options.methods:
        results[method] = compared(method, options.pairs, options.device, options.updates)
        found = results[method]
        print(f"{method}: {found['ratio']:.3f} x, different weights {found['different_weights']}", flush=True)
    if options.output:
        facts = circumstances()
        body = {"command": " ".join(["python", *sys.argv]), **facts, "results": results}
        options.output.write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
