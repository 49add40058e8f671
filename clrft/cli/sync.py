"""``clrft sync``: feed MLflow what it lacks of runs, from their files."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.runs.read import find_runs
from clrft.tracking.store import redacted_uri, tracking_uri
from clrft.tracking.sync import sync_root


def sync_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft sync``: tells what was added, run by run. Exit code 1 if a run is damaged."""
    found = find_runs(Path(path) for path in options.paths)
    folders = [run.folder for run in found.runs]
    unfinished = [left.folder for left in found.left_out if left.fault == "incomplete"]
    folders += [one for one in unfinished if (one / "config.yaml").is_file() and (one / "manifest.json").is_file()]
    damaged = [left for left in found.left_out if left.fault == "damaged"]

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    for root in sorted({folder.resolve().parent.parent for folder in folders}):
        say(f"MLflow at {redacted_uri(tracking_uri(root))}")
        sync_root(root, [one for one in folders if one.resolve().parent.parent == root], options.dry_run, say)
    for left in damaged:
        say(f"left out: {left}")
    return 1 if damaged else 0
