"""``clrft compare``: methods side by side. Imports nothing that trains, so that it is there at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from clrft.compare import Comparison, compare
from clrft.figures import write_comparison
from clrft.files import check_writable, comparison_folder
from clrft.kind_figures import write_kinds
from clrft.kinds import kind_report
from clrft.runs import FoundRuns, complete_runs
from clrft.tables import to_terminal


def compare_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft compare``: tables and figures of the runs in some folders."""
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output)
    found = complete_runs(paths)
    check_writable(output)
    written = write_and_print(found, options.baseline, output, console, options.mix)
    for path in written:
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0


def write_and_print(
    found: FoundRuns,
    baseline: str | None,
    output: Path,
    console: Console,
    mix: Sequence[str] = (),
    kinds: bool = False,
) -> list[Path]:
    """Compare runs, print the comparison, write its tables and figures; ``kinds``: those of forgetting too.

    The kinds are read from every single answer, 20 ms or more a run: a comparison of many runs leaves them out.
    """
    comparison = compare(found.runs, baseline, mix)
    console.print(to_terminal(comparison))
    for left_out in found.left_out:
        console.print(f"left out: {left_out}", highlight=False, markup=False, soft_wrap=True)
    written = write_comparison(comparison, found.runs, output)
    return written + (write_kinds_beside(comparison, output) if kinds else [])


def write_kinds_beside(comparison: Comparison, output: Path) -> list[Path]:
    """Tables and figures of the kinds of forgetting beside those of a comparison; none where no answer can be read."""
    report = kind_report(comparison.groups)
    return write_kinds(report, output) if report.groups else []
