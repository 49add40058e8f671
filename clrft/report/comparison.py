"""A comparison on the screen and as files: tables, pictures, and the report beside them."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from clrft.analysis.compare import compare
from clrft.analysis.figures import figures, of_stream
from clrft.analysis.outputs import write_outputs
from clrft.analysis.reward_tables import rewards_section
from clrft.analysis.tables import pairs_to_csv, to_csv, to_markdown, to_terminal
from clrft.analysis.taxonomy_figures import write_kinds
from clrft.report.headline import headline_note
from clrft.report.page import title_of, write_report
from clrft.report.parts import Subject
from clrft.runs.read import FoundRuns
from clrft.utils.files import REPORT


def write_and_print(
    found: FoundRuns,
    baseline: str | None,
    output: Path,
    console: Console,
    mix: Sequence[str] = (),
    kinds: bool = False,
) -> tuple[Subject, list[Path]]:
    """Compare runs, print the comparison, write its tables and figures; returns what was compared, and the files.

    ``kinds``: write those of forgetting too, where any answer can be read. A comparison of many runs leaves them out.
    """
    subject = Subject(compare(found.runs, baseline, mix), found.left_out)
    console.print(to_terminal(subject.comparison))
    for left_out in subject.left_out:
        console.print(f"left out: {left_out}", highlight=False, markup=False, soft_wrap=True)
    written = write_comparison(subject, output)
    return subject, written + (write_kinds(subject.kinds, output) if kinds and subject.kinds.groups else [])


def write_comparison(subject: Subject, out_dir: Path) -> list[Path]:
    """Write tables and figures of a comparison; returns the files in the order in which one reads them.

    Args:
        subject: what was compared.
        out_dir: made if absent; older files of the same names are replaced.
    """
    comparison = subject.comparison
    texts = {
        "table.md": to_markdown(comparison) + rewards_section(subject.rewards),
        "table.csv": to_csv(comparison),
        "pairs.csv": pairs_to_csv(comparison),
    }
    pictures = (
        of_stream(name, figure, stream, comparison)
        for stream in comparison.streams()
        for name, figure in figures(comparison.of_stream(stream), stream).items()
    )
    return write_outputs(out_dir, texts, pictures)


def reported(subject: Subject, folder: Path) -> tuple[Path, str]:
    """Write the report of a sweep that was compared; returns its folder, and the answer in Markdown."""
    write_report(subject, title_of([folder]), folder / REPORT)
    return folder / REPORT, headline_note(subject)
