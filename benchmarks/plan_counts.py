"""How right a plan's counts are where work is shared: images behind the class list, several processes, split weights.

    python -m benchmarks.plan_counts [--cells NAME …] [--output benchmarks/results/plan_counts.json]

Each small cell of the embedded model is planned by ``clrft plan --devices-per-cell``, and run by ``torchrun`` (gloo).
Set side by side: what its stages' metrics.json has, of all processes together, and the bytes that a process gets from
the others by torch's collectives of gradients and weights. Those are counted by ``benchmarks/counted_run.py`` around
the calls, and leave out states and weights that are put together for the disk; so does the plan's figure here. Lengths
of completions are given to the plan as the run had them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.plan import compared
from clrft.runs.layout import COUNTS, DRIFT, EVALUATE, TRAIN
from clrft.runs.provenance import circumstances
from clrft.utils.files import write_json_atomic

RESULT = Path(__file__).parent / "results" / "plan_counts.json"
LIMIT = 0.25  # that a ratio may be from 1
SEED = 1993
SPREAD = 1.3  # the longest of a batch's completions to their mean, as calibrations take it
SMALL = (
    *("stream.tasks=2", "stream.shots=16", "stream.test_per_class=30", "train.updates=4", "train.warmup=0"),
    *("train.prompts_per_update=20", "evaluate.batch_size=20", "evaluate.probe=40", "evaluate.drift_prompts=9"),
    *("run.mlflow=false", "run.checkpoint_every=0", "model.dtype=float32"),
)
LAST = "model.media=last"
GENERATED = [f"{activity} tokens_generated" for activity in (TRAIN, EVALUATE, DRIFT)]  # given to the plan, but for one
# Method, processes, whether weights are split, more words.
CELLS: dict[str, tuple[str, int, bool, tuple[str, ...]]] = {
    "1 process, images last": ("rapo", 1, False, (LAST,)),
    "1 process, images last, checkpointed": ("rapo", 1, False, (LAST, "model.gradient_checkpointing=true")),
    "1 process, accumulated": ("rapo", 1, False, ("train.accumulation=8",)),
    "2 processes": ("rapo", 2, False, ()),
    "2 processes, images last, accumulated, two updates on a batch": (
        *("rapo", 2, False),
        (LAST, "train.accumulation=4", "method.updates_per_batch=2"),
    ),
    "2 processes, estimates of weights, a last batch of few rows": (
        *("sft+ewc", 2, False),
        ("train.epochs=1.0", "train.prompts_per_update=6", "train.accumulation=6"),
    ),
    "2 processes, split": ("rapo", 2, True, ()),
    "2 processes, split, checkpointed, images last, accumulated": (
        *("rapo", 2, True),
        (LAST, "model.gradient_checkpointing=true", "train.accumulation=4"),
    ),
    "2 processes, split, supervised": ("sft", 2, True, ()),
}


def words_of(name: str) -> list[str]:
    """Settings of a cell."""
    return [*SMALL, *CELLS[name][3]]


def run_costs(name: str, folder: Path) -> dict[str, float]:
    """What a run of a cell comes to.

    Raises:
        RuntimeError: it failed.
    """
    method, processes, split, _ = CELLS[name]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["run", "stream=digits_cil", f"method={method}", f"seed={SEED}", f"run.output={folder}", *words_of(name)]
    command = [sys.executable, *(several if processes > 1 else []), "-m", "benchmarks.counted_run", *words]
    counts = folder / "exchanged"
    counts.mkdir(parents=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_FSDP": str(split).lower(),
        "COUNTED_RUN": str(counts),
    }
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(ended.stderr[-4000:])
    found: dict[str, float] = defaultdict(float)
    for file in sorted(folder.glob("single/*/task_*/metrics.json")):
        for activity, cost in json.loads(file.read_text(encoding="utf-8"))["cost"].items():
            for count in COUNTS:
                found[count] += cost[count]
            for count in ("prompt_tokens_computed", "tokens_generated"):
                found[f"{activity} {count}"] += cost[count]
    each = [json.loads(file.read_text(encoding="utf-8")) for file in counts.glob("*.json")]
    if processes > 1:
        found["exchanged_bytes"] = float(max(each))
    return dict(found)


def planned(name: str, run: dict[str, float]) -> dict[str, float]:
    """The same of the cell's plan; completions are as long as the run's, by its tokens that were generated."""
    import torch

    from clrft.config.run_config import build_config, parse_overrides
    from clrft.memory.phases import Sharing
    from clrft.planning.stage_work import Cell, Lengths

    method, processes, split, _ = CELLS[name]
    sharing = Sharing(processes, split)
    config = build_config("digits_cil", method, "tiny", SEED, parse_overrides(words_of(name)))

    def work_of(train: float, test: float) -> pd.DataFrame:
        work = Cell(config, torch.device("cpu"), Lengths(train, test, SPREAD), sharing).work()
        return work.groupby(level="activity").sum()

    once = work_of(1.0, 1.0).tokens_generated
    train, test = (
        run[f"{name} tokens_generated"] / once[name] if once.get(name) else 1.0 for name in (TRAIN, EVALUATE)
    )
    work = work_of(train, test)
    found = work.sum()[[*COUNTS, "exchanged"]].rename({"exchanged": "exchanged_bytes"}).to_dict()
    found |= {
        f"{activity} {count}": work.loc[activity, count]
        for activity in work.index
        for count in ("prompt_tokens_computed", "tokens_generated")
    }
    return {count: found[count] for count in run if run[count] and count not in GENERATED}


def known(file: Path) -> dict[str, Any]:
    """The figures that a file has already: those of cells that are not run again stay."""
    return dict(json.loads(file.read_text(encoding="utf-8"))["figures"]) if file.exists() else {}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS), metavar="NAME")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file for the figures")
    options = parser.parse_args()
    figures = known(options.output)
    for name in options.cells:
        with tempfile.TemporaryDirectory() as place:
            run = run_costs(name, Path(place) / "runs")
        figures[name] = compared(planned(name, run), run)
        print(name, flush=True)
        for count, one in figures[name].items():
            print(f"  {count:32} {one['predicted']:>16,.0f} {one['measured']:>16,.0f} {one['ratio']:6.3f}", flush=True)
    body = {
        "command": "python -m benchmarks.plan_counts",
        "settings": [f"stream=digits_cil seed={SEED}", *SMALL],
        "cells": {name: " ".join((CELLS[name][0], *CELLS[name][3])) for name in figures},
        "limit": LIMIT,
        "within_limit": all(abs(one["ratio"] - 1) <= LIMIT for each in figures.values() for one in each.values()),
        "figures": figures,
    }
    write_json_atomic(options.output, {"schema": 1, **body, **circumstances()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
