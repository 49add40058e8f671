"""``clrft costs``: what runs cost, beside how good they are."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.compare import compare
from clrft.cost_figures import write_costs
from clrft.cost_tables import costs_to_terminal
from clrft.costs import cost_report
from clrft.files import check_writable, comparison_folder
from clrft.runs import complete_runs
from task_streams.errors import UserError


def costs_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write the costs of the runs in some folders.

    Raises:
        UserError: no runs, runs that may not be compared, or none that counted what it cost.
    """
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output)
    found = complete_runs(paths)
    comparison = compare(found.runs, mix=options.mix)
    report = cost_report(comparison.groups)
    if not report.groups:
        raise UserError(*report.without, "Expected runs of this version, which count what they cost.")
    check_writable(output)
    console.print(costs_to_terminal(report))
    for mixed in comparison.mixed:
        console.print(f"differs: {mixed}", highlight=False, markup=False, soft_wrap=True)
    for left_out in found.left_out:
        console.print(f"left out: {left_out}", highlight=False, markup=False, soft_wrap=True)
    for path in write_costs(report, output):
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0
