"""``clrft compare``: methods side by side. Imports nothing that trains, so that it is there at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from clrft.compare import Comparison, compare
from clrft.figures import figures, of_stream
from clrft.files import check_writable, comparison_folder
from clrft.kind_figures import write_kinds
from clrft.kinds import kind_report
from clrft.outputs import write_outputs
from clrft.reward_tables import rewards_section
from clrft.rewards import reward_report
from clrft.runs import FoundRuns, RunRecord, complete_runs
from clrft.tables import pairs_to_csv, to_csv, to_markdown, to_terminal


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


def write_comparison(comparison: Comparison, records: Sequence[RunRecord], out_dir: Path) -> list[Path]:
    """Write tables and figures of a comparison; returns the files in the order in which one reads them.

    Args:
        comparison: what ``compare`` made of the records.
        records: the runs; their training steps are read for the training curves.
        out_dir: made if absent; older files of the same names are replaced.
    """
    texts = {
        "table.md": to_markdown(comparison) + rewards_section(reward_report(comparison)),
        "table.csv": to_csv(comparison),
        "pairs.csv": pairs_to_csv(comparison),
    }
    wanted = {record.folder for record in records}
    pictures = (
        of_stream(name, figure, stream, comparison)
        for stream in comparison.streams()
        for name, figure in figures(comparison.of_stream(stream), stream, wanted).items()
    )
    return write_outputs(out_dir, texts, pictures)


def write_kinds_beside(comparison: Comparison, output: Path) -> list[Path]:
    """Tables and figures of the kinds of forgetting beside those of a comparison; none where no answer can be read."""
    report = kind_report(comparison)
    return write_kinds(report, output) if report.groups else []
