"""A sweep on a Ray cluster of two nodes, one of them killed in the midst, beside the same sweep without Ray.

    python -m benchmarks.ray_sweep --output benchmarks/results/ray_sweep.json

The cluster is made on this machine with Ray's own utilities, one CPU a node, on loopback. Once some cells are done and
the second node is in the midst of one, its raylet gets SIGKILL. Told are what became of the killed node's cell, which
trainings were begun again, and whether every matrix and every weight is that of the sweep without Ray.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from clrft.config.run_config import RunConfig
from clrft.config.sweeps import load_sweep
from clrft.runs.provenance import code_identity, hardware, versions
from clrft.sweep.executors import ExecutorChoice
from clrft.sweep.run_sweep import run_sweep
from clrft.utils.files import sha256_file
from clrft.utils.locks import look
from clrft.utils.progress import Bars
from clrft.utils.quiet import quiet_environment, quiet_libraries
from tests.clrft.clusters import Nodes, cluster_of

PLAN = """
streams: [digits_cil]
methods: [sft, grpo, rapo]
seeds: [1990, 1993, 1996, 1999]
set:
  run: {mlflow: false}
  stream: {tasks: 2, test_per_class: 2}
  train: {updates: 6, prompts_per_update: 4}
  evaluate: {probe: 0, drift_prompts: 4}
"""
KILL_AFTER = 4  # cells done
LONGEST_SECONDS = 600.0


class Recorded(Bars):
    """Bars that remember what was said, and how often each activity was begun."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.said: list[str] = []
        self.begun: Counter[str] = Counter()
        self.done: list[str] = []
        self.started = self.ended = 0.0

    @property
    def seconds(self) -> float:
        """From the first activity's begin to the last cell's end."""
        return self.ended - self.started

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.begun[f"{cell}  {activity}"] += 1
        self.started = self.started or time.perf_counter()
        super().begin(cell, activity, total)

    def say(self, text: str) -> None:
        self.said.append(text)

    def finished(self, cell: str) -> None:
        self.done.append(cell)
        self.ended = time.perf_counter()
        super().finished(cell)


def swept(executor: Path, on: str, jobs: int | None) -> tuple[list[RunConfig], Recorded, float, list[str]]:
    """Run the sweep; its cells, what was told, its seconds, and its failures."""
    (executor / "plan.yaml").write_text(PLAN)
    cells = load_sweep(str(executor / "plan.yaml"), {"run": {"output": str(executor / "runs")}})
    bars, start = Recorded(), time.perf_counter()
    with bars:
        failures = run_sweep(cells, jobs, bars, ExecutorChoice(on, threads=1))
    return cells, bars, time.perf_counter() - start, [f"{one.cell}: {one.reason}" for one in failures]


def kill_when_at_work(nodes: Nodes, node: Any, runs: Path, facts: dict[str, Any]) -> None:
    """Kill a node once some cells are done and it trains one."""
    until = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < until:
        time.sleep(0.1)
        if len(list(runs.glob("*/metrics.json"))) < KILL_AFTER:
            continue
        cells = {process: cell for process, cell in at_work(runs).items() if nodes.runs(node, process)}
        if cells:
            nodes.kill(node)
            facts.update({"killed after cells": KILL_AFTER, "cells at work on it": sorted(cells.values())})
            return
    facts["killed after cells"] = None


def at_work(runs: Path) -> dict[int, str]:
    """Cells with a finished task that are at work, by the process that runs them."""
    found = {}
    for state in runs.glob("*/task_01"):
        lock = look(state.parent.parent / f".{state.parent.name}.lock")
        if lock is not None and lock.holder is not None:
            found[lock.holder.process] = state.parent.name
    return found


def outcome(cell: RunConfig) -> dict[str, Any]:
    """Matrix and weights of a finished cell."""
    weights = sorted(cell.folder.glob("task_*/weights/*.safetensors"))
    return {
        "matrix": json.loads((cell.folder / "matrix.json").read_text()),
        "weights": [sha256_file(path) for path in weights],
    }


def compared(scratch: Path) -> dict[str, Any]:
    """Both sweeps, and what differs."""
    facts: dict[str, Any] = {}
    for name in ("cluster", "here"):
        (scratch / name).mkdir()
    with cluster_of(1) as nodes:
        second = nodes.cluster.add_node(num_cpus=1)
        watch = (nodes, second, scratch / "cluster" / "runs" / "plan", facts)
        killer = threading.Thread(target=kill_when_at_work, args=watch, daemon=True)
        killer.start()
        cells, bars, seconds, failures = swept(scratch / "cluster", nodes.cluster.address, None)
        killer.join()
    same, _, seconds_here, _ = swept(scratch / "here", "", 2)
    pairs = list(zip(cells, same, strict=True))
    both = {one.cell: (outcome(one), outcome(other)) for one, other in pairs}
    trainings = Counter({what: count for what, count in bars.begun.items() if what.endswith(" train")})
    return {
        "cells": len(cells),
        **facts,
        "failures": failures,
        "cells ended": dict(Counter(Counter(bars.done).values())),
        "trainings begun more than once": {what: count for what, count in trainings.items() if count > 1},
        "trainings begun": sum(trainings.values()),
        "said": [line for line in bars.said if "lost" in line or "going on" in line or "left to" in line],
        "matrices that differ": [cell for cell, (one, other) in both.items() if one["matrix"] != other["matrix"]],
        "weights that differ": [cell for cell, (one, other) in both.items() if one["weights"] != other["weights"]],
        "seconds on the cluster": round(seconds, 1),
        "seconds without Ray": round(seconds_here, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    quiet_environment()
    quiet_libraries()
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with tempfile.TemporaryDirectory() as scratch:
        results = compared(Path(scratch))
    command = " ".join(["python -m benchmarks.ray_sweep", *(arguments or sys.argv[1:])])
    import ray

    found = {**versions(), "ray": ray.__version__}
    record = {
        "command": command,
        "versions": found,
        "hardware": hardware(),
        "code": code_identity(),
        "results": results,
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    wrong = results["failures"] or results["matrices that differ"] or results["cells ended"] != {1: results["cells"]}
    return 1 if wrong or not results.get("cells at work on it") else 0


if __name__ == "__main__":
    sys.exit(main())
