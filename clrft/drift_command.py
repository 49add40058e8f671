"""``clrft drift``: how far runs moved their policies, and whether that goes with what they forgot."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.compare import compare
from clrft.drift_figures import write_drift
from clrft.drift_study import drift_study
from clrft.drift_tables import drift_to_terminal
from clrft.files import check_writable, comparison_folder
from clrft.runs import complete_runs
from task_streams.errors import UserError


def drift_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write the study of drift of the runs in some folders.

    Raises:
        UserError: no runs, or none whose drift was measured.
    """
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output)
    found = complete_runs(paths)
    study = drift_study(compare(found.runs).groups)
    if not study.streams:
        raise UserError(*study.without, "Expected a run of a method that trains, with evaluate.drift_prompts above 0.")
    check_writable(output)
    console.print(drift_to_terminal(study))
    for left_out in found.left_out:
        console.print(f"left out: {left_out}", highlight=False, markup=False, soft_wrap=True)
    for path in write_drift(study, output):
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0
