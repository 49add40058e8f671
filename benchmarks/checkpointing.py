"""What it costs to keep a training's states on disk, and to go on from one, as shares of the training's time.

    python benchmarks/checkpointing.py --pairs 5 --output benchmarks/results/checkpointing.json

Keeping: whole runs of five tasks with states every 10 updates and without, in pairs, the order alternating; the ratio
of their training times, median over the pairs. Going on: a run with its first task on disk, and 20 of 30 updates of its
second; the time from the start of the run to the first new update, less that from the start of the same run without
anything on disk to its first update, as a share of a task's training time.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from clrft.config.run_config import RunConfig, build_config
from clrft.runner.run import run
from clrft.runs.layout import METRICS_FILE, stage_folder
from clrft.runs.provenance import circumstances
from clrft.utils.files import read_json
from clrft.utils.progress import Silent
from clrft.utils.quiet import quiet_environment, quiet_libraries

TASKS, EVERY = 5, 10


class Stopped(Exception):
    """Ends a run where it is to be stopped."""


class Watch(Silent):
    """Tells when updates come, and ends the run at one."""

    def __init__(self, stop: Callable[[int], bool]) -> None:
        self.stop = stop
        self.updates = 0
        self.first: float | None = None
        self.training = False

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.training = activity.endswith("train")

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        if not self.training:
            return
        self.updates += 1
        self.first = time.perf_counter() if self.first is None else self.first
        if self.stop(self.updates):
            raise Stopped


def config_of(method: str, output: Path, every: int) -> RunConfig:
    """A run of five tasks at the defaults, untested but for a few items."""
    small = {"stream": {"test_per_class": 1}, "evaluate": {"probe": 0, "drift_prompts": 0, "final_list": False}}
    own = {"run": {"output": str(output), "mlflow": False, "checkpoint_every": every}}
    return build_config("digits_cil", method, "tiny", 1993, small, own)


def training_seconds(config: RunConfig) -> list[float]:
    """Seconds of training of every task of a whole run."""
    folder = run(config, Silent())
    return [read_json(stage_folder(folder, stage) / METRICS_FILE)["seconds"]["train"] for stage in range(1, TASKS + 1)]


def keeping_ratio(method: str, turn: int, root: Path) -> dict[str, float]:
    """Training time with states over that without, of one pair."""
    seconds = {}
    for every in (EVERY, 0) if turn % 2 else (0, EVERY):
        seconds[every] = sum(training_seconds(config_of(method, root / f"keep-{turn}-{every}", every)))
    return {"with": seconds[EVERY], "without": seconds[0], "ratio": seconds[EVERY] / seconds[0]}


def until_first_update(config: RunConfig, stop: Callable[[int], bool]) -> float:
    """Seconds from the start of a run to its first update that is new; the run ends where ``stop`` says."""
    watch = Watch(stop)
    start = time.perf_counter()
    with suppress(Stopped):
        run(config, watch)
    return (watch.first or start) - start


def going_on_share(method: str, turn: int, root: Path, task_seconds: float) -> dict[str, float]:
    """Seconds that it takes to go on inside task 2 beyond what any start takes, over a task's training time."""
    config = config_of(method, root / f"resume-{turn}", EVERY)
    fresh = until_first_update(config, lambda updates: updates == 30 + 22)  # ends in task 2, two updates after a state
    told = 20  # figures of these updates are told again, and are not new
    watch = Watch(lambda updates: updates == told + 1)
    start = time.perf_counter()
    with suppress(Stopped):
        run(config, watch)
    seconds = time.perf_counter() - start - fresh
    return {"fresh": fresh, "beyond": seconds, "share": seconds / task_seconds}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["sft", "rapo"])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    quiet_environment()
    quiet_libraries()
    results: dict[str, Any] = {}
    for method in options.methods:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            pairs = [keeping_ratio(method, turn, root) for turn in range(options.pairs)]
            task = statistics.median(pair["without"] for pair in pairs) / TASKS
            shares = [going_on_share(method, turn, root, task) for turn in range(options.pairs)]
        results[method] = {
            "keeping_ratio": statistics.median(pair["ratio"] for pair in pairs),
            "going_on_share": statistics.median(one["share"] for one in shares),
            "task_seconds": task,
            "pairs": pairs,
            "going_on": shares,
        }
        shown = {name: round(value, 3) for name, value in results[method].items() if isinstance(value, float)}
        print(method, shown, flush=True)
    if options.output:
        facts = circumstances()
        body = {"command": " ".join(["python", *sys.argv]), **facts, "every": EVERY, "results": results}
        options.output.write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
