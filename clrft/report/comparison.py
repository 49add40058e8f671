"""A comparison on the screen and as files: tables, pictures, and the report beside them."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from clrft.analysis.compare import Comparison
from clrft.analysis.comparison_tables import comparison_parts, to_csv
from clrft.analysis.figures import comparison_figures
from clrft.analysis.outputs import pictures_of, write_outputs
from clrft.analysis.pairs import pairs_to_csv
from clrft.analysis.render import to_markdown, to_terminal
from clrft.analysis.rewards import reward_parts
from clrft.analysis.table import Sentence
from clrft.analysis.taxonomy import taxonomy_parts, taxonomy_to_csv
from clrft.report.parts import Subject, missing
from clrft.runs.read import LeftOut
from clrft.utils.files import REPORT
from clrft.utils.progress import say


def write_and_print(
    comparison: Comparison, left_out: Sequence[LeftOut], output: Path, console: Console, taxonomy: bool = False
) -> tuple[Subject, list[Path]]:
    """Print a comparison, write its tables and figures; returns what was compared, and the files.

    ``taxonomy``: write that of forgetting too, where any answer can be read. A comparison of many runs leaves it out.
    """
    subject = Subject(comparison, tuple(left_out))
    console.print(to_terminal(comparison_parts(comparison)))
    say(console, *(f"left out: {one}" for one in left_out))
    written = write_comparison(subject, output)
    return subject, written + (write_taxonomy(subject, output) if taxonomy and subject.taxonomy.streams else [])


def write_comparison(subject: Subject, out_dir: Path) -> list[Path]:
    """Write tables and figures of a comparison; returns the files in the order in which one reads them."""
    comparison, parts = subject.comparison, comparison_parts(subject.comparison)
    if subject.rewards.streams:
        parts += [Sentence("Rewards", "heading"), *reward_parts(subject.rewards)]
        parts += map(missing, subject.rewards.without)
    texts = {
        "table.md": to_markdown(parts, "Comparison"),
        "table.csv": to_csv(comparison),
        "pairs.csv": pairs_to_csv(comparison.pairs, comparison.mixed_by_stream()),
    }
    streams = comparison.streams
    pictures = pictures_of(comparison, streams, lambda one: comparison_figures(comparison.streams[one], one))
    return write_outputs(out_dir, texts, pictures)


def write_taxonomy(subject: Subject, out_dir: Path) -> list[Path]:
    """Write ``kinds.md``, ``kinds.csv`` and the pictures of every stream; returns the files."""
    from clrft.analysis.study_figures import taxonomy_figures

    report = subject.taxonomy
    text = to_markdown(taxonomy_parts(report), "Kinds of forgetting")
    texts = {"kinds.md": text, "kinds.csv": taxonomy_to_csv(report)}
    streams = report.streams
    pictures = pictures_of(report.comparison, streams, lambda one: taxonomy_figures(report.streams[one], one))
    return write_outputs(out_dir, texts, pictures)


def reported(subject: Subject, folder: Path) -> tuple[Path, str]:
    """Write the report of a sweep that was compared; returns its folder, and the answer in Markdown."""
    from clrft.report.headline import headline_note
    from clrft.report.page import title_of, write_report

    write_report(subject, title_of([folder]), folder / REPORT)
    return folder / REPORT, headline_note(subject.comparison)
