"""Kill runs again and again, go on, and see whether they end as if never stopped.

    python benchmarks/kills.py --kills 100 --output benchmarks/results/kills.json

Each trial runs two tasks on the embedded model in a process that is killed (SIGKILL): before, during or after one of
its writes (every rename, flush, link, new folder and removal counts), or at a random time, and sometimes again after it
went on. Writes have names (what is done to which file); every name is taken in turn, each with all three moments,
before any is taken again. The next process goes on from the folder. Weights, states, predictions, matrix and figures
must be those of a run that was never stopped, to the bit; and no run may go on from a wrong parent, which would show as
other bits.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrft.config.run_config import RunConfig, build_config
from clrft.runner.fork import Source
from clrft.runner.run import run
from clrft.runs.provenance import circumstances
from clrft.utils.progress import Silent

METHODS = ("sft", "grpo", "rapo")
MOMENTS = ("before", "during", "after")
DURING_SECONDS = 0.02  # a kill during a write comes within so long of its start
WRITES = ("fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir")
SMALL: dict[str, Any] = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 8, "test_per_class": 2},
    "train": {"updates": 4, "prompts_per_update": 4},
    "evaluate": {"probe": 0, "drift_prompts": 1},
}
OTHER = ("manifest.json", "config.yaml", "mlflow.json", ".mlflow.lock")  # what describes a run, and the lock of that
TIMES = ("seconds", "memory_mb", "digest", "steps.jsonl")  # ends of the names of what differs from run to run


@dataclass(frozen=True, slots=True)
class Kill:
    """When a process is killed: at its n-th write, or after some seconds.

    Attributes:
        write: number of the write, from 1; 0 for a kill by time.
        moment: before, during or after the write.
        seconds: until the kill by time, or from the start of a write until the kill during it.
        name: of the write.
    """

    write: int = 0
    moment: str = "before"
    seconds: float = 0.0
    name: str = ""

    def __str__(self) -> str:
        if not self.write:
            return f"after {self.seconds:.2f} s"
        return f"{self.moment} write {self.write}" + (f" ({self.name})" if self.name else "")


def config_of(method: str, output: Path) -> RunConfig:
    """The settings of a trial."""
    groups = {"method": {"group_size": 4}} if method != "sft" else {}
    own = {"run": {"output": str(output), "mlflow": False, "checkpoint_every": 1}}
    return build_config("digits_cil", method, "tiny", 1993, SMALL, groups, own)


def run_in_child(config: RunConfig, kill: Kill | None, count: Path | None = None, source: Source | None = None) -> int:
    """Run in a forked process, from ``source`` on if it is a fork; returns its exit status, -9 for a killed one."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            names = named_writes(kill)
            if kill is not None and not kill.write:
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, kill.seconds)
            run(config, Silent(), source)
            if count is not None:
                count.write_text("\n".join(names))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def named_writes(kill: Kill | None) -> list[str]:
    """Name every write of this process from now on, and kill it at the one that is asked for; the list grows."""
    lock, done = threading.Lock(), list[str]()

    def watching(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            with lock:
                done.append(write_name(name, arguments))
                mine = kill is not None and kill.write == len(done)
            if mine and kill is not None and kill.moment == "before":
                kill_me()
            if mine and kill is not None and kill.moment == "during":
                threading.Timer(kill.seconds, kill_me).start()
            result = call(*arguments, **named)
            if mine and kill is not None and kill.moment == "after":
                kill_me()
            return result

        return watched

    for name in WRITES:
        setattr(os, name, watching(name, getattr(os, name)))
    return done


def kill_me() -> None:
    """End this process as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)


def write_name(call: str, arguments: Sequence[Any]) -> str:
    """What is done to which file, numbers of tasks, steps and processes left out: ``rename task``."""
    place = arguments[0]
    path = Path(os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.fspath(place))
    named = path.name.lstrip(".").split(".partial-")[0]
    return f"{call} {re.sub(r'[_-]?[0-9]+', '', named)}"


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
    """JSON values without times and memory, at any depth, and without a record's digest, which is of them too."""
    if isinstance(values, list):
        return [timeless(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {name: timeless(value) for name, value in values.items() if not name.endswith(TIMES)}


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
        turns = {method: in_turn(rng, names) for method, (_, names, _) in whole.items()}
        while sum(len(row["kills"]) for row in rows) < kills:
            method = methods[len(rows) % len(methods)]
            expected, _, seconds = whole[method]
            asked = [drawn(rng, turns[method], seconds) for _ in range(rng.choice((1, 1, 2)))]
            folder = root / f"trial-{len(rows)}"
            faults = trial(method, asked, expected, folder)
            shutil.rmtree(folder, ignore_errors=True)
            rows.append({"method": method, "kills": [str(kill) for kill in asked], "faults": faults})
            say(f"{len(rows):4d} {method:5s} {'; '.join(map(str, asked))}: {'; '.join(faults) or 'same bits'}")
    return rows


def never_stopped(method: str, folder: Path) -> tuple[dict[str, str], list[str], float]:
    """What a run leaves that is not killed, the names of its writes, and how long it takes."""
    folder.mkdir()
    start = time.perf_counter()
    if run_in_child(config_of(method, folder), None, folder / "writes") != 0:
        raise RuntimeError(f"{method} fails without any kill")
    seconds = time.perf_counter() - start
    return outcome(config_of(method, folder).folder), (folder / "writes").read_text().splitlines(), seconds


def in_turn(rng: random.Random, names: list[str]) -> Iterator[Kill]:
    """Kills at writes without end: every name with every moment, in a random order, then again."""
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names, start=1):
        numbers.setdefault(name, []).append(number)
    while True:
        points = [(name, moment) for name in numbers for moment in MOMENTS]
        rng.shuffle(points)
        for name, moment in points:
            yield Kill(rng.choice(numbers[name]), moment, rng.uniform(0, DURING_SECONDS), name)


def drawn(rng: random.Random, turn: Iterator[Kill], seconds: float) -> Kill:
    """The next kill at a write in four of five cases, else one at a random time."""
    return next(turn) if rng.random() < 4 / 5 else Kill(seconds=rng.uniform(0.05, seconds))


def points(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How often a process was to be killed at each named write and moment."""
    words = [re.sub(r"write \d+ ", "", kill) for row in rows for kill in row["kills"] if "write" in kill]
    return dict(sorted(Counter(words).items()))


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
        facts = circumstances()
        words = " ".join(["python", *sys.argv])
        body = {"command": words, **facts, "kills": kills, "runs": len(rows), "faults": faults}
        body |= {"points": points(rows), "trials": rows}
        options.output.write_text(json.dumps(body, indent=1) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
