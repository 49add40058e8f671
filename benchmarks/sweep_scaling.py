"""How a sweep scales on one machine: cells of one thread each, by one worker and by two, in interleaved pairs.

    python -m benchmarks.sweep_scaling --pairs 3 --output benchmarks/results/sweep_scaling.json

Each side runs the same cells of the embedded model from nothing, without tracking. Told is the ratio of throughputs
(cells per second, two workers to one), pair by pair, the order alternating. The time is that from the first word of the
first cell to the end of the last: the start of the first worker is not in it, on either side. With ``--on ray`` the
workers are a Ray's of this machine.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ray_sweep import Recorded
from clrft.config.sweeps import load_sweep
from clrft.runs.provenance import circumstances
from clrft.sweep.executors import ExecutorChoice
from clrft.sweep.run_sweep import run_sweep
from clrft.utils.files import write_text_atomic
from clrft.utils.quiet import quiet_environment, quiet_libraries

PLAN = """
streams: [digits_cil]
methods: [{method}]
seeds: {seeds}
set:
  run: {{mlflow: false, checkpoint_every: 0}}
  stream: {{tasks: 3, test_per_class: 4}}
  train: {{updates: {updates}}}
  evaluate: {{probe: 0, drift_prompts: 0}}
"""


def cells_per_second(executor: Path, plan: str, jobs: int, on: str) -> float:
    """Throughput of a sweep from nothing, from the first cell's first word to the last one's end."""
    executor.mkdir()
    (executor / "plan.yaml").write_text(plan)
    cells = load_sweep(str(executor / "plan.yaml"), {"run": {"output": str(executor / "runs")}})
    bars = Recorded()
    with bars:
        failures = run_sweep(cells, jobs, bars, ExecutorChoice(on, threads=1))
    if failures:
        raise RuntimeError(f"{failures[0].cell}: {failures[0].reason}")
    return len(cells) / bars.seconds


def paired(scratch: Path, plan: str, pairs: int, on: str) -> list[dict[str, float]]:
    """Throughputs of one worker and of two, in pairs."""
    rows = []
    for pair in range(pairs):
        order = (1, 2) if pair % 2 == 0 else (2, 1)
        found = {jobs: cells_per_second(scratch / f"{pair}-{jobs}", plan, jobs, on) for jobs in order}
        rows.append({"one": found[1], "two": found[2], "ratio": found[2] / found[1]})
        print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--method", default="sft")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--on", default="", help="ray: by Ray's workers")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    quiet_environment()
    quiet_libraries()
    plan = PLAN.format(method=options.method, seeds=list(range(1, options.cells + 1)), updates=options.updates)
    with tempfile.TemporaryDirectory() as scratch:
        rows = paired(Path(scratch), plan, options.pairs, options.on)
    ratios = [row["ratio"] for row in rows]
    results: dict[str, Any] = {
        "cells": options.cells,
        "cells per second": rows,
        "two workers to one, median": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
    }
    command = " ".join(["python -m benchmarks.sweep_scaling", *(arguments or sys.argv[1:])])
    record = {"command": command, **circumstances()}
    text = json.dumps({**record, "results": results}, indent=1)
    print(text)
    if options.output:
        write_text_atomic(options.output, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
