"""One run on several processes, killed and gone on with by others: how far its end is from that of one process.

    python benchmarks/processes.py --output benchmarks/results/processes.json

RaPO learns two tasks of the embedded model, in float32, by one process and by several, started as by ``torchrun``. Told
are the largest difference of a weight after each task, the answers that differ, and the seconds of each run. Runs with
ZeRO-3 need the package deepspeed.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from clrft.runs.provenance import circumstances
from clrft.utils.quiet import quiet_environment

CELL = "digits_cil-rapo-1993"
WORDS = (
    "stream=digits_cil",
    "method=rapo",
    "seed=1993",
    "model.dtype=float32",
    "stream.tasks=2",
    "stream.shots=8",
    "stream.test_per_class=6",
    "train.updates=4",
    "run.checkpoint_every=2",
    "run.mlflow=false",
    "evaluate.probe=32",
)
TASKS = (1, 2)
SECONDS = 300
Kind = tuple[int, str]  # processes, and how weights are split among them
# Name: what starts; and what goes on after a kill inside task 2.
RUNS: dict[str, tuple[Kind, Kind | None]] = {
    "2 processes": ((2, ""), None),
    "4 processes": ((4, ""), None),
    "2 processes, split": ((2, "fsdp"), None),
    "2 processes, ZeRO-3": ((2, "zero3"), None),
    "2 processes, killed, then 2": ((2, ""), (2, "")),
    "2 processes, killed, then 1": ((2, ""), (1, "")),
    "2 processes, split, killed, then 2, split": ((2, "fsdp"), (2, "fsdp")),
    "2 processes, split, killed, then 1": ((2, "fsdp"), (1, "")),
    "2 processes, ZeRO-3, killed, then 2, ZeRO-3": ((2, "zero3"), (2, "zero3")),
    "2 processes, ZeRO-3, killed, then 1": ((2, "zero3"), (1, "")),
    "2 processes, split, killed, then 2, ZeRO-3": ((2, "fsdp"), (2, "zero3")),
}
ASKED = {  # what accelerate launch says of its configuration
    "": {},
    "fsdp": {"ACCELERATE_USE_FSDP": "true"},
    "zero3": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}


def launched(processes: int, split: str, output: Path) -> subprocess.Popen[bytes]:
    """Start the run; with its processes in a group of their own."""
    words = ["-m", "clrft", "run", *WORDS, f"run.output={output}"]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **ASKED[split]}
    log = (output.parent / f"{output.name}.log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def finished(processes: int, split: str, output: Path) -> None:
    """Run to the end.

    Raises:
        RuntimeError: it failed.
    """
    if launched(processes, split, output).wait(SECONDS):
        raise RuntimeError((output.parent / f"{output.name}.log").read_text()[-4000:])


def killed(processes: int, split: str, output: Path) -> str:
    """Run until task 2 has kept a state, then kill every process; returns the newest state's folder."""
    process = launched(processes, split, output)
    states = output / "single" / CELL / "unfinished" / "task_02"
    until = time.monotonic() + SECONDS
    while not list(states.glob("step_*/state.json")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.01)
    alive = process.poll() is None
    group = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    for one in (process.pid, *map(int, group.stdout.split())):
        os.kill(one, signal.SIGKILL)
    process.wait()
    if not alive:
        raise RuntimeError(f"{output} ended before it was killed")
    return str(sorted(path.name for path in states.glob("step_*"))[-1])


def differences(one: Path, other: Path) -> dict[str, Any]:
    """Largest difference of a weight after each task, and answers that differ."""
    found: dict[str, Any] = {"weights": [], "answers": 0, "of": 0}
    for task in TASKS:
        folders = [place / "single" / CELL / f"task_{task:02d}" for place in (one, other)]
        first, second = (load_file(folder / "weights" / "model.safetensors") for folder in folders)
        if first.keys() != second.keys():
            raise RuntimeError(f"{other} has other weights than {one}")
        found["weights"].append(max((first[name] - second[name]).abs().max().item() for name in first))
        lines = [(folder / "predictions.jsonl").read_text().splitlines() for folder in folders]
        found["answers"] += sum(a != b for a, b in zip(*lines, strict=True))
        found["of"] += len(lines[0])
    return found


def tried(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """All of the runs, each beside that of one process."""
    alone = folder / "alone"
    began = time.monotonic()
    finished(1, "", alone)
    results: dict[str, Any] = {"1 process": {"seconds": round(time.monotonic() - began, 1)}}
    for number, name in enumerate(names):
        start, then = RUNS[name]
        output = folder / f"run{number}"
        began = time.monotonic()
        state = killed(*start, output) if then else None
        finished(*(then or start), output)
        results[name] = {"seconds": round(time.monotonic() - began, 1), **differences(alone, output)}
        if state:
            results[name]["killed_with_state"] = state
        print(f"{name}: {results[name]}", flush=True)
        shutil.rmtree(output)
    return results


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    quiet_environment()
    with tempfile.TemporaryDirectory() as scratch:
        results = tried(Path(scratch), options.runs)
    if options.output:
        facts = circumstances()
        body = {"command": " ".join(["python", *sys.argv]), **facts, "results": results}
        options.output.write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
