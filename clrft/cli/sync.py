"""``clrft sync``: feed MLflow what it lacks of runs, from their files."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.runs.read import find_runs
from clrft.tracking.store import redacted_uri, tracking_uri
from clrft.tracking.sync import sync_root
from clrft.utils.progress import say


def sync_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft sync``: tells what was added, run by run. Exit code 1 if a run is damaged."""
    found = find_runs(Path(path) for path in options.paths)
    folders = [run.folder for run in found.runs]
    unfinished = [left.folder for left in found.left_out if left.fault == "incomplete"]
    folders += [one for one in unfinished if (one / "config.yaml").is_file() and (one / "manifest.json").is_file()]
    damaged = [left for left in found.left_out if left.fault == "damaged"]

    for root in sorted({folder.resolve().parent.parent for folder in folders}):
        say(console, f"MLflow at {redacted_uri(tracking_uri(root))}")
        own = [one for one in folders if one.resolve().parent.parent == root]
        sync_root(root, own, options.dry_run, lambda text: say(console, text))
    say(console, *(f"left out: {left}" for left in damaged))
    return 1 if damaged else 0
