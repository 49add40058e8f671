"""``clrft rewards``, ``kinds``, ``costs`` and ``drift``: what runs show. Imports nothing that trains."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType

from clrft.analysis.compare import Comparison, compare
from clrft.analysis.cost_figures import write_costs
from clrft.analysis.cost_tables import costs_to_terminal
from clrft.analysis.costs import cost_report
from clrft.analysis.drift_figures import write_drift
from clrft.analysis.drift_study import drift_study
from clrft.analysis.drift_tables import drift_to_terminal
from clrft.analysis.mixing import ALL
from clrft.analysis.reward_figures import write_rewards
from clrft.analysis.reward_tables import rewards_to_terminal
from clrft.analysis.rewards import reward_report
from clrft.analysis.taxonomy import kind_report
from clrft.analysis.taxonomy_figures import write_kinds
from clrft.analysis.taxonomy_tables import kinds_to_terminal
from clrft.runs.read import LeftOut, complete_runs
from clrft.utils.files import check_writable, comparison_folder
from task_streams.errors import UserError


@dataclass(frozen=True, slots=True)
class _Asked:
    """The runs that a command is to look at, and the folder that its files go to."""

    comparison: Comparison
    left_out: tuple[LeftOut, ...]
    output: Path


def rewards_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write what the rewards of the runs in some folders were made of.

    Raises:
        UserError: no runs, or none that has rewards.
    """
    asked = _asked(options, [ALL])  # each method's own rewards: nothing is set against another
    report = reward_report(asked.comparison)
    if not report.groups:
        raise UserError(*report.without, "Expected a run of a method that learns from rewards, e.g. grpo or rapo.")
    return _show(console, asked, rewards_to_terminal(report), lambda: write_rewards(report, asked.output))


def kinds_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write what kinds of forgetting the runs in some folders show.

    Raises:
        UserError: no runs, or none whose predictions could be read.
    """
    asked = _asked(options, [ALL])  # each method's own answers: nothing is set against another
    report = kind_report(asked.comparison)
    if not report.groups:
        raise UserError(*report.without)
    return _show(console, asked, kinds_to_terminal(report), lambda: write_kinds(report, asked.output))


def costs_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write what the runs in some folders cost, beside how good they are.

    Raises:
        UserError: no runs, runs that may not be compared, or none that counted what it cost.
    """
    asked = _asked(options, options.mix)
    report = cost_report(asked.comparison)
    if not report.groups:
        raise UserError(*report.without, "Expected runs of this version, which count what they cost.")
    return _show(console, asked, costs_to_terminal(report), lambda: write_costs(report, asked.output))


def drift_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write how far the runs in some folders moved their policies, and whether that goes with forgetting.

    Raises:
        UserError: no runs, runs that may not be compared, or none whose drift was measured.
    """
    asked = _asked(options, options.mix)
    study = drift_study(asked.comparison)
    if not study.streams:
        raise UserError(*study.without, "Expected a run of a method that trains, with evaluate.drift_prompts above 0.")
    return _show(console, asked, drift_to_terminal(study), lambda: write_drift(study, asked.output))


def _asked(options: argparse.Namespace, mix: Sequence[str]) -> _Asked:
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output)
    found = complete_runs(paths)
    return _Asked(compare(found.runs, mix=mix), found.left_out, output)


def _show(console: Console, asked: _Asked, table: RenderableType, write: Callable[[], Sequence[Path]]) -> int:
    """Print a table and which runs were left out; write the files and print where they are."""
    check_writable(asked.output)
    console.print(table)
    for left_out in asked.left_out:
        console.print(f"left out: {left_out}", highlight=False, markup=False, soft_wrap=True)
    for path in write():
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0
