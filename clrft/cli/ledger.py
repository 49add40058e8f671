"""``clrft ledger``: published figures beside measured ones."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.analysis.groups import grouped
from clrft.analysis.published_results import ledger, planned
from clrft.analysis.published_tables import ledger_to_csv, ledger_to_markdown, ledger_to_terminal
from clrft.runs.read import find_runs
from clrft.utils.files import check_writable, config_root, write_text_atomic


def ledger_command(options: argparse.Namespace, console: Console) -> int:
    """Print the ledger of the runs in some folders, and write it where an output is named.

    Raises:
        UserError: a folder without runs, or an output that can't be written.
    """
    found = find_runs([Path(path) for path in options.paths])
    output = Path(options.output) if options.output else None
    if output is not None:
        check_writable(output)
    entries = ledger(grouped(found.runs))
    plans = planned(sorted(path.stem for path in (config_root() / "sweeps").glob("*.yaml")))
    console.print(ledger_to_terminal(entries, plans))
    for left_out in found.left_out:
        console.print(f"left out: {left_out}", highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        for name, text in (("ledger.md", ledger_to_markdown(entries, plans)), ("ledger.csv", ledger_to_csv(entries))):
            write_text_atomic(output / name, text)
            console.print(str(output / name), highlight=False, markup=False, soft_wrap=True)
    return 0
