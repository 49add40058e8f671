"""``clrft compare``: methods side by side. Imports nothing that trains, so that it is there at once."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.analysis.community_tables import (
    communities_of,
    community_to_csv,
    community_to_markdown,
    community_to_terminal,
)
from clrft.analysis.outputs import write_outputs
from clrft.report.comparison import write_and_print
from clrft.runs.read import complete_runs
from clrft.utils.files import check_writable, comparison_folder


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
