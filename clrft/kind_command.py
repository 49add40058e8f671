"""``clrft kinds``: what kind of forgetting runs show."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.compare import compare
from clrft.files import check_writable, comparison_folder
from clrft.kind_figures import write_kinds
from clrft.kind_tables import kinds_to_terminal
from clrft.kinds import kind_report
from clrft.runs import complete_runs
from task_streams.errors import UserError


def kinds_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write the kinds of forgetting of the runs in some folders.

    Raises:
        UserError: no runs, or none whose predictions could be read.
    """
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output)
    found = complete_runs(paths)
    comparison = compare(found.runs, mix=["all"])  # each method's own answers: nothing is set against another
    report = kind_report(comparison.groups)
    if not report.groups:
        raise UserError(*report.left_out)
    check_writable(output)
    console.print(kinds_to_terminal(report))
    told = [*(f"the runs differ in this too: {one}" for one in comparison.mixed)]
    for sentence in (*told, *(f"left out: {left_out}" for left_out in found.left_out)):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for path in write_kinds(report, output):
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0
