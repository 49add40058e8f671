"""``clrft compare``: methods side by side. Imports nothing that trains, so that it is there at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from clrft.files import check_writable, comparison_folder
from clrft.report.parts import Subject
from clrft.runs import FoundRuns, complete_runs
from clrft.study.community_tables import (
    communities_of,
    community_to_csv,
    community_to_markdown,
    community_to_terminal,
)
from clrft.study.compare import compare
from clrft.study.figures import figures, of_stream
from clrft.study.kind_figures import write_kinds
from clrft.study.outputs import write_outputs
from clrft.study.reward_tables import rewards_section
from clrft.study.tables import pairs_to_csv, to_csv, to_markdown, to_terminal


def compare_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft compare``: tables and figures of the runs in some folders, also in the columns of others if asked."""
    communities = communities_of(options.metrics)
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output)
    found = complete_runs(paths)
    check_writable(output)
    subject, written = write_and_print(found, options.baseline, output, console, options.mix)
    for community in communities:
        console.print(community_to_terminal(subject.comparison, community))
        texts = {
            f"metrics_{community.name}.md": community_to_markdown(subject.comparison, community),
            f"metrics_{community.name}.csv": community_to_csv(subject.comparison, community),
        }
        written += write_outputs(output, texts, ())
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
