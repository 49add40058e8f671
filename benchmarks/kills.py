"""Kill runs again and again, go on, and see whether they end as if never stopped.

    python benchmarks/kills.py --kills 100 --output benchmarks/results/kills.json

Each trial runs two tasks on the embedded model in a process that is killed (SIGKILL): before or after one of its writes
(every rename, flush, link, new folder and removal counts), or at a random time, and sometimes again after it went on.
The next process goes on from the folder. Weights, states, predictions, matrix and figures must be those of a run that
was never stopped, to the bit; and no run may go on from a wrong parent, which would show as other bits.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrft.config import RunConfig, build_config
from clrft.progress import Silent
from clrft.provenance import code_identity, hardware, versions
from clrft.run import run

METHODS = ("sft", "grpo", "rapo")
WRITES = ("fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir")
SMALL: dict[str, Any] = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 8, "test_per_class": 2},
    "train": {"updates": 4, "prompts_per_update": 4},
    "evaluate": {"probe": 0},
}
OTHER = ("manifest.json", "config.yaml", "mlflow.json")  # what describes a run
TIMES = ("seconds", "peak_memory_mb", "step_seconds")  # what differs from run to run


@dataclass(frozen=True, slots=True)
class Kill:
    """When a process is killed: at its n-th write (before or after it), or after some seconds."""

    write: int = 0
    after: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.seconds:
            return f"after {self.seconds:.2f} s"
        return f"{'after' if self.after else 'before'} write {self.write}"


def config_of(method: str, output: Path) -> RunConfig:
    """The settings of a trial."""
    groups = {"method": {"group_size": 4}} if method != "sft" else {}
    own = {"run": {"output": str(output), "mlflow": False, "checkpoint_every": 1}}
    return build_config("digits_cil", method, "tiny", 1993, SMALL, groups, own)


def run_in_child(config: RunConfig, kill: Kill | None, count: Path | None = None) -> int:
    """Run in a forked process; returns its exit status, -9 for a killed one."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            counter = counted_writes(kill)
            if kill is not None and kill.seconds:
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, kill.seconds)
            run(config, Silent())
            if count is not None:
                count.write_text(str(counter()))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def counted_writes(kill: Kill | None) -> Callable[[], int]:
    """Count every write of this process from now on, and kill it at the one that is asked for."""
    lock, done = threading.Lock(), [0]

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            with lock:
                done[0] += 1
                mine = kill is not None and kill.write == done[0]
            if mine and kill is not None and not kill.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **named)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    for name in WRITES:
        setattr(os, name, counting(getattr(os, name)))
    return lambda: done[0]


def outcome(folder: Path) -> dict[str, str]:
    """Digest of every file that a run left, times left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in OTHER:
            found[name] = hashlib.sha256(content(path)).hexdigest()
    return found


def content(path: Path) -> bytes:
    """A file's bytes; of JSON without what differs from run to run."""
    if path.suffix == ".json":
        return json.dumps(timeless(json.loads(path.read_text()))).encode()
    if path.suffix == ".jsonl":
        return json.dumps([timeless(json.loads(line)) for line in path.read_text().splitlines()]).encode()
    return path.read_bytes()


def timeless(values: Any) -> Any:
    """JSON values without times and memory."""
    return {k: v for k, v in values.items() if k not in TIMES} if isinstance(values, dict) else values


def trial(method: str, kills: list[Kill], expected: dict[str, str], folder: Path) -> list[str]:
    """One run, killed and gone on with; returns what is not as it should be, empty if nothing."""
    config = config_of(method, folder)
    for kill in kills:
        status = run_in_child(config, kill)
        if status not in (0, -signal.SIGKILL):
            return [f"exit status {status} after {kill}"]
    status = run_in_child(config, None)
    if status != 0:
        return [f"exit status {status} when it went on after {kills}"]
    found = outcome(config.folder)
    return [
        f"{name} after {kills}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def campaign(methods: list[str], kills: int, seed: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """So many kills of runs of each method in turn; one row per trial."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        whole = {method: never_stopped(method, root / f"whole-{method}") for method in methods}
        while sum(len(row["kills"]) for row in rows) < kills:
            method = methods[len(rows) % len(methods)]
            expected, writes, seconds = whole[method]
            asked = [drawn(rng, writes, seconds) for _ in range(rng.choice((1, 1, 2)))]
            folder = root / f"trial-{len(rows)}"
            faults = trial(method, asked, expected, folder)
            shutil.rmtree(folder, ignore_errors=True)
            rows.append({"method": method, "kills": [str(kill) for kill in asked], "faults": faults})
            say(f"{len(rows):4d} {method:5s} {'; '.join(map(str, asked))}: {'; '.join(faults) or 'same bits'}")
    return rows


def never_stopped(method: str, folder: Path) -> tuple[dict[str, str], int, float]:
    """What a run leaves that is not killed, how many writes it makes, and how long it takes."""
    folder.mkdir()
    start = time.perf_counter()
    if run_in_child(config_of(method, folder), None, folder / "writes") != 0:
        raise RuntimeError(f"{method} fails without any kill")
    seconds = time.perf_counter() - start
    return outcome(config_of(method, folder).folder), int((folder / "writes").read_text()), seconds


def drawn(rng: random.Random, writes: int, seconds: float) -> Kill:
    """A kill at a random write in two of three cases, else at a random time."""
    if rng.random() < 2 / 3:
        return Kill(write=rng.randint(1, writes), after=rng.random() < 0.5)
    return Kill(seconds=rng.uniform(0.05, seconds))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = campaign(options.methods, options.kills, options.seed, lambda line: print(line, flush=True))
    faults = [row for row in rows if row["faults"]]
    kills = sum(len(row["kills"]) for row in rows)
    print(
        f"{kills} kills in {len(rows)} runs: {len(rows) - len(faults)} ended with the same bits, {len(faults)} did not"
    )
    if options.output:
        facts = {"versions": versions(), "hardware": hardware(), "code": code_identity()}
        words = " ".join(["python", *sys.argv])
        body = {"command": words, **facts, "kills": kills, "runs": len(rows), "faults": faults, "trials": rows}
        options.output.write_text(json.dumps(body, indent=1) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
