"""Generated configurations, data folders and damaged run folders, each given to the real command line.

    python -m benchmarks.fuzz --configs 1000 --data 1000 --folders 200 --output benchmarks/results/fuzz.json

Every call must end with exit code 0, 1 or 2 and sentences: no traceback, and no file changes outside the folder that
the call was given. Of a damaged run, the figures that a comparison shows, and those that a resumed run ends with, must
be those of the run before it was damaged, or it must be refused. Of a data folder, every item must be used as it is
meant or be named (``fuzz_truth.py``).
"""

import argparse
import collections
import csv
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from benchmarks.fuzz_bases import BASES, make_base
from benchmarks.fuzz_call import Outcome, Place
from benchmarks.fuzz_configs import Given, calls, lay
from benchmarks.fuzz_folders import damage
from benchmarks.fuzz_truth import trial as data_trial
from clrft.runs.provenance import circumstances

COMMANDS = (("status",), ("compare",), ("rewards",), ("sync", "--dry-run"), ("sync",), ("run", "--resume"))
NUMBERS = ("matrix.json", "metrics.json")  # what a run ends with

Row = dict[str, Any]
Say = Callable[[str], None]


def fuzz_configs(count: int, number: int, say: Say = lambda line: None) -> list[Row]:
    """So many generated calls; one row per call."""
    rows: list[Row] = []

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls())
    def trial(one: Given) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            place = Place(Path(scratch))
            lay(one, place.work)
            outcome = place.call(one.words)
        faults = list(outcome.faults)
        if one.refused and outcome.code == 0:
            faults.append("taken, but must be refused")
        if one.shows and (outcome.code, one.shows in outcome.out) != (0, True):
            faults.append(f"expected to show {one.shows!r}: {outcome.err[:500] or outcome.out[:500]}")
        rows.append({"command": command_of(one), "code": outcome.code, "words": list(one.words), "faults": faults})
        rows[-1]["files"] = {name: data.decode("utf-8", "backslashreplace")[:500] for name, data in one.files.items()}
        if faults:
            say(f"config {len(rows)} {one.words!r:.300}: {faults[0]}")

    trial()
    return rows


def fuzz_data(count: int, number: int, say: Say = lambda line: None) -> list[Row]:
    """So many generated data folders; one row each."""
    rows = []
    for index in range(count):
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(data_trial(Place(Path(scratch)), random.Random(f"{number} {index}")))
        if rows[-1]["faults"]:
            say(f"data {index + 1} {rows[-1]}")
    return rows


def command_of(one: Given) -> str:
    """The command of a call, without what it is given."""
    words = {"data": 2, "run": 2 if "--resume" in one.words else 1}.get(one.words[0], 1)
    return " ".join(one.words[:words])


def remove(folder: Path, tries: int = 100) -> None:
    """Remove a folder into which a queue of the last call may still write for a moment."""
    for _ in range(tries):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    raise RuntimeError(f"{folder} does not go away")


class Folders:
    """Damaged copies of small real runs, one after another in the same place.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.place = Place(root / "place")
        self.kept = root / "kept"
        for base in BASES:
            make_base(base, self.place.output)
        shutil.copytree(self.place.output, self.kept, symlinks=True)
        self.outside = root / "outside"
        shutil.copytree(self.place.outside, self.outside)
        self.expected = {base: self.untouched(base) for base in BASES}

    def fresh(self) -> None:
        """Put all runs back to what they were, and MLflow's open store with them."""
        for engine in SqlAlchemyStore._engine_map.values():
            engine.dispose()
        for folder, kept in ((self.place.output, self.kept), (self.place.outside, self.outside)):
            remove(folder)
            shutil.copytree(kept, folder, symlinks=True)

    def run_folder(self, base: str) -> Path:
        """The folder of one of the runs."""
        return next(path for path in (self.place.output / base).glob("digits_cil-*") if path.is_dir())

    def untouched(self, base: str) -> dict[str, Any]:
        """What the commands show of a run that nobody damaged."""
        self.fresh()
        found = self.figures(base, [self.place.call((*command, str(self.run_folder(base)))) for command in COMMANDS])
        if "resumed" not in found:
            raise RuntimeError(f"the run {base} cannot be gone on with, undamaged")
        return found

    def figures(self, base: str, outcomes: list[Outcome]) -> dict[str, Any]:
        """Numbers that a comparison and a resumed run came to, where they came to any."""
        done = dict(zip(COMMANDS, outcomes, strict=True))
        folder = self.run_folder(base)
        found: dict[str, Any] = {}
        if done[("compare",)].code == 0 and "left out" not in done[("compare",)].out:
            found["compared"] = table_of(folder / "comparison" / "table.csv")
        if done[("rewards",)].code == 0 and "left out" not in done[("rewards",)].out:
            found["rewards"] = table_of(folder / "comparison" / "rewards.csv")
        if done[("run", "--resume")].code == 0:
            found["resumed"] = [json.loads((folder / name).read_text()) for name in NUMBERS]
        return found

    def trial(self, base: str, rng: random.Random) -> Row:
        """One damaged copy, and what every command made of it."""
        self.fresh()
        folder = self.run_folder(base)
        words = damage(folder, self.place.outside, rng)
        outcomes = [self.place.call((*command, str(folder))) for command in COMMANDS]
        faults = [f"{' '.join(one.arguments[:-1])}: {fault}" for one in outcomes for fault in one.faults]
        found = {} if faults else self.figures(base, outcomes)
        faults += [
            f"other figures, taken for right: {name}" for name in found if found[name] != self.expected[base].get(name)
        ]
        codes = {" ".join(command): one.code for command, one in zip(COMMANDS, outcomes, strict=True)}
        return {"base": base, "damage": words, "codes": codes, "faults": faults}


def table_of(path: Path) -> list[list[str]]:
    """Rows of a table; folder names left out."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def fuzz_folders(count: int, number: int, root: Path, say: Say = lambda line: None) -> list[Row]:
    """So many damaged copies; one row each."""
    folders = Folders(root)
    rng = random.Random(number)
    rows = []
    for index in range(count):
        row = folders.trial(BASES[index % len(BASES)], rng)
        rows.append(row)
        codes, faults = list(row["codes"].values()), " | ".join(row["faults"])
        say(f"folder {index + 1} {row['base']}: {row['damage']}: {codes} {faults}")
    return rows


def counted(rows: list[Row], folders: list[Row], data: list[Row]) -> Row:
    """How many calls ended how, by command."""
    by_command: dict[str, collections.Counter[str]] = {}
    for row in rows:
        by_command.setdefault(row["command"], collections.Counter())[str(row["code"])] += 1
    damaged: dict[str, collections.Counter[str]] = {}
    for row in folders:
        for command, code in row["codes"].items():
            damaged.setdefault(command, collections.Counter())[str(code)] += 1
    befallen: dict[str, collections.Counter[str]] = {}
    for row in data:
        for name in row["befallen"] or ["nothing"]:
            befallen.setdefault(name, collections.Counter()).update(map(str, row["codes"]))
    return {
        "configs": {name: dict(one) for name, one in sorted(by_command.items())},
        "data": {name: dict(one) for name, one in sorted(befallen.items())},
        "folders": {name: dict(one) for name, one in damaged.items()},
    }


def quiet_machine() -> None:
    """No network and no folder outside the scratch one for caches of libraries."""
    os.environ.update(HF_HUB_OFFLINE="1", MPLBACKEND="Agg", MLFLOW_DISABLE_TELEMETRY="true")
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=int, default=1000)
    parser.add_argument("--data", type=int, default=1000)
    parser.add_argument("--folders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    quiet_machine()

    def say(line: str) -> None:
        print(line.encode("utf-8", "backslashreplace").decode(), file=sys.__stdout__, flush=True)

    rows = fuzz_configs(options.configs, options.seed, say) if options.configs else []
    with tempfile.TemporaryDirectory() as scratch:
        folders = fuzz_folders(options.folders, options.seed, Path(scratch), say) if options.folders else []
    data = fuzz_data(options.data, options.seed, say)
    counts = counted(rows, folders, data)
    faults = [row for row in [*rows, *data, *folders] if row["faults"]]
    say(json.dumps(counts, indent=1))
    kinds = f"{len(rows)} calls, {len(data)} data folders and {len(folders)} damaged run folders"
    say(f"{kinds}: {len(faults)} with faults")
    if options.output:
        facts = circumstances()
        words = " ".join(["python -m benchmarks.fuzz", *sys.argv[1:]])
        damages = [{name: row[name] for name in ("base", "damage", "codes")} for row in folders]
        body = {"command": words, **facts, "calls": len(rows), "data": len(data), "counts": counts, "faults": faults}
        body["folders"] = damages
        options.output.write_text(json.dumps(body, indent=1) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
