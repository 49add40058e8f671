"""``clrft status``: what of a sweep is done, running, failed, stopped or waiting, and how long the rest takes."""

import argparse
import json

from rich.console import Console

from clrft.sweep.status import estimate, statuses, summary, to_json, to_table
from clrft.utils.progress import say


def status_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft status``: 1 if a cell failed."""
    cells = statuses(options.words)
    rest = estimate(cells)
    if options.json:
        say(console, json.dumps(to_json(cells, rest), indent=2, ensure_ascii=False))
    else:
        console.print(to_table(cells))
        say(console, *summary(cells, rest))
    return 1 if any(cell.state == "failed" for cell in cells) else 0
