"""``clrft report``: the report of the runs in some folders."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from clrft.runs.read import FoundRuns, complete_runs
from clrft.utils.files import REPORT, check_writable, comparison_folder
from clrft.utils.progress import say


def report_command(options: argparse.Namespace, console: Console) -> int:
    """Write the report and tell where it is.

    Raises:
        UserError: no runs, or a folder that can't be written.
    """
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output, REPORT)
    found = complete_runs(paths)
    check_writable(output)
    page, *others = report_of(found, paths, output, options.baseline, options.mix)
    say(console, *(f"left out: {one}" for one in found.left_out))
    size = f"{page.stat().st_size / 1e6:.1f} MB"
    about = f"{size}, opens in any browser; {len(others)} files of tables and pictures"
    say(console, f"report: {page.resolve()}   ({about})")
    return 0


def report_of(
    found: FoundRuns, paths: Sequence[Path], output: Path, baseline: str | None = None, mix: Sequence[str] = ()
) -> list[Path]:
    """Compare runs and write their report; returns its files, the page first."""
    from clrft.analysis.compare import compare

    comparison = compare(found.runs, baseline, mix)
    # what draws is imported when all names are known to be right
    from clrft.report.page import title_of, write_report
    from clrft.report.parts import Subject

    return write_report(Subject(comparison, found.left_out), title_of(paths), output)
