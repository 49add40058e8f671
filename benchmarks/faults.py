"""Inject faults into real runs, and see how they end and whether the same command then ends as if nothing had been.

    python benchmarks/faults.py --output benchmarks/results/faults.json

Each fault is the real thing: a small disk that is filled or made read-only, memory that is not granted, signals, a
server that is killed or stopped, flipped bits, values that are not numbers, clocks that are set. Every run is the
command line in a process of its own, on the embedded model.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script: its own package comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import faults_disk, faults_process, faults_shared, faults_values
from benchmarks.fault_lab import Lab, Skipped, Trial
from clrft.runs.provenance import circumstances

COMMAND = "python benchmarks/faults.py --output benchmarks/results/faults.json"
Fault = Callable[[Lab], Trial]
FAULTS: tuple[Fault, ...] = (*faults_disk.FAULTS, *faults_process.FAULTS, *faults_values.FAULTS, *faults_shared.FAULTS)


def campaign(chosen: list[str], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every fault in turn; one row each."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        lab = Lab(Path(scratch), say)
        for fault in FAULTS:
            if not chosen or fault.__name__ in chosen:
                rows.append(tried(fault, lab))
                say(line(rows[-1]))
    return rows


def tried(fault: Fault, lab: Lab) -> dict[str, Any]:
    """One fault's row."""
    start = time.perf_counter()
    name = fault.__name__
    try:
        values = asdict(fault(lab))
    except Skipped as reason:
        return {"fault": name, "skipped": str(reason)}
    except Exception:  # of the trial itself; the other faults are tried still
        values = asdict(Trial(fault.__doc__ or "", problems=[traceback.format_exc()]))
    return {"fault": name, **values, "seconds": round(time.perf_counter() - start, 1)}


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    if "skipped" in row:
        return f"{row['fault']:22s} skipped: {row['skipped']}"
    bits = {True: "same bits", False: "OTHER BITS", None: "-"}[row["same_bits"]]
    ends = "; ".join(f"{one['code']}: {one['message']}" for one in row["ended"])
    faults = f"\n    PROBLEMS: {'; '.join(row['problems'])}" if row["problems"] else ""
    return f"{row['fault']:22s} {row['injected']}\n    ended {ends}\n    then {row['went_on'] or '-'}, {bits}{faults}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faults", nargs="*", help=f"of {', '.join(one.__name__ for one in FAULTS)} (default: all)")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if os.geteuid() != 0 and shutil.which("unshare"):  # mounts need a name space of one's own
        os.execvp("unshare", ["unshare", "-rm", sys.executable, *sys.argv])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and their children
    unknown = sorted(set(options.faults) - {one.__name__ for one in FAULTS})
    if unknown:
        parser.error(f"no fault is called {', '.join(unknown)}")
    rows = campaign(options.faults, lambda text: print(text, flush=True))
    bad = [row for row in rows if row.get("problems")]
    skipped = [row for row in rows if "skipped" in row]
    well = len(rows) - len(bad) - len(skipped)
    print(f"{len(rows)} faults: {well} as they should, {len(bad)} not, {len(skipped)} skipped")
    if options.output:
        write(options.output, rows)
    return 1 if bad else 0


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows; those of faults that were not tried now stay as they are in the file."""
    tried_now = {row["fault"] for row in rows}
    earlier = json.loads(path.read_text())["faults"] if path.exists() else []
    known = {row["fault"]: row for row in [*(row for row in earlier if row["fault"] not in tried_now), *rows]}
    order = [one.__name__ for one in FAULTS if one.__name__ in known]
    facts = circumstances()
    body = {"command": COMMAND, **facts, "faults": [known[name] for name in order]}
    path.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
