"""``clrft rewards``: what the rewards of runs were made of."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.compare import compare
from clrft.files import check_writable, comparison_folder
from clrft.reward_figures import write_rewards
from clrft.reward_tables import rewards_to_terminal
from clrft.rewards import reward_report
from clrft.runs import complete_runs
from task_streams.errors import UserError


def rewards_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write the rewards of the runs in some folders.

    Raises:
        UserError: no runs, or none that has rewards.
    """
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output)
    found = complete_runs(paths)
    comparison = compare(found.runs, mix=["all"])  # each method's own rewards: nothing is set against another
    report = reward_report(comparison.groups)
    if not report.groups:
        raise UserError(*report.without, "Expected a run of a method that learns from rewards, e.g. grpo or rapo.")
    check_writable(output)
    console.print(rewards_to_terminal(report))
    for left_out in found.left_out:
        console.print(f"left out: {left_out}", highlight=False, markup=False, soft_wrap=True)
    for path in write_rewards(report, output):
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0
