"""How right a plan is: clrft plan of a sweep on this machine, then the sweep itself, and both side by side.

    python -m benchmarks.plan [--sweep quickstart] [--output benchmarks/results/plan.json]

Both are programs of their own, as a user starts them, one after the other with nothing between. Measured are the wall
seconds of the sweep's program, the costs in its stages' metrics.json, and the bytes of all files that it leaves, a file
with several names once. Ratios are predicted to measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from clrft.runs.layout import COUNTS
from clrft.runs.provenance import circumstances
from clrft.utils.files import write_json_atomic

RESULT = Path(__file__).parent / "results" / "plan.json"
LIMIT = 0.25  # that a ratio may be from 1
CLRFT = (sys.executable, "-m", "clrft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", default="quickstart", help="a sweep whose data and model are here")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "runs"
        words = [options.sweep, f"run.output={folder}"]
        began = time.perf_counter()
        text = subprocess.run([*CLRFT, "plan", *words, "--json"], check=True, capture_output=True, text=True).stdout
        planning = time.perf_counter() - began
        began = time.perf_counter()
        subprocess.run([*CLRFT, "sweep", *words], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        plan = json.loads(text)
        figures = compared(predicted(plan), measured(folder, seconds))
    for name, one in figures.items():
        print(f"{name:24} {one['predicted']:>16,.0f} {one['measured']:>16,.0f} {one['ratio']:6.3f}")
    body = {
        "command": f"python -m benchmarks.plan --sweep {options.sweep}",
        "limit": LIMIT,
        "within_limit": all(abs(one["ratio"] - 1) <= LIMIT for one in figures.values()),
        "planning_seconds": round(planning, 1),
        "figures": figures,
    }
    facts = circumstances()
    write_json_atomic(options.output, {"schema": 1, **body, **facts})


def predicted(plan: dict[str, Any]) -> dict[str, float]:
    """The figures of a plan's JSON."""
    return {
        "wall_seconds": plan["wall_seconds"]["likely"],
        **{name: plan["counts"][name] for name in COUNTS},
        "disk_bytes": plan["disk_bytes"]["kept"],
    }


def measured(folder: Path, seconds: float) -> dict[str, float]:
    """The same of what a sweep left."""
    found: dict[str, float] = defaultdict(float)
    for file in folder.glob("*/*/task_*/metrics.json"):
        for cost in json.loads(file.read_text(encoding="utf-8"))["cost"].values():
            for name in COUNTS:
                found[name] += cost[name]
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return {"wall_seconds": seconds, **found, "disk_bytes": float(sum(files.values()))}


def compared(plan: dict[str, float], run: dict[str, float]) -> dict[str, dict[str, float]]:
    """Both and their ratio, figure by figure."""
    return {
        name: {"predicted": round(value, 1), "measured": round(run[name], 1), "ratio": round(value / run[name], 3)}
        for name, value in plan.items()
    }


if __name__ == "__main__":
    main()
