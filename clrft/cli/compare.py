"""``clrft compare``: methods side by side. Imports nothing heavy before the runs are known to be there."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.runs.read import complete_runs
from clrft.utils.files import check_writable, comparison_folder
from clrft.utils.progress import say
from eval.communities import COMMUNITIES
from task_streams.errors import UserError, unknown_name


def compare_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write tables and figures of the runs in some folders, also in the columns of others if asked.

    Raises:
        UserError: unknown communities, all of them at once, or as ``complete_runs`` and ``compare``.
    """
    names = dict.fromkeys(name for word in options.metrics for name in word.split(",") if name)
    unknown = [unknown_name("community", name, COMMUNITIES) for name in names if name not in COMMUNITIES]
    if unknown:
        raise UserError(*unknown)
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output)
    found = complete_runs(paths)
    check_writable(output)
    from clrft.analysis.compare import compare

    comparison = compare(found.runs, options.baseline, options.mix)
    # what draws is imported when all names are known to be right
    from clrft.report.comparison import write_and_print

    _, written = write_and_print(comparison, found.left_out, output, console)
    for community in map(COMMUNITIES.__getitem__, names):
        from clrft.analysis.comparison_tables import community_parts, community_to_csv
        from clrft.analysis.outputs import write_outputs
        from clrft.analysis.render import to_markdown, to_terminal

        parts = community_parts(comparison, community)
        console.print(to_terminal(parts))
        texts = {
            f"metrics_{community.name}.md": to_markdown(parts, f"Metrics as {community.title}"),
            f"metrics_{community.name}.csv": community_to_csv(comparison, community),
        }
        written += write_outputs(output, texts)
    say(console, *written)
    return 0
