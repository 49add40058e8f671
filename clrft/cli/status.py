"""``clrft status``: what of a sweep is done, running, failed, stopped or waiting, and how long the rest takes."""

import argparse
import json

from rich.console import Console

from clrft.sweep.status import counts_line, estimate, estimate_line, statuses, to_json, to_table


def status_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft status``: 1 if a cell failed."""
    cells = statuses(options.words)
    rest = estimate(cells)
    if options.json:
        text = json.dumps(to_json(cells, rest), indent=2, ensure_ascii=False)
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        console.print(to_table(cells))
        console.print(counts_line(cells), highlight=False, soft_wrap=True)
        console.print(estimate_line(rest), highlight=False, soft_wrap=True)
    return 1 if any(cell.state == "failed" for cell in cells) else 0
