"""``clrft analyze``: what runs show of rewards, kinds of forgetting, costs and drift, and beside published results.

Imports nothing that trains, and nothing heavy before the runs are known to be there.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from clrft.runs.read import LeftOut, complete_runs, find_runs
from clrft.utils.files import check_writable, comparison_folder, config_root
from clrft.utils.progress import say
from task_streams.errors import UserError

if TYPE_CHECKING:
    from clrft.analysis.compare import Comparison
    from clrft.analysis.table import Part

ALL = ("all",)  # each method's own: nothing is set against another


def rewards_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write what the rewards of the runs in some folders were made of.

    Raises:
        UserError: no runs, or none that has rewards.
    """
    comparison, left_out, output = _compared(options, ALL)

    from clrft.analysis.outputs import pictures_of, write_outputs
    from clrft.analysis.render import to_markdown
    from clrft.analysis.rewards import reward_parts, reward_report, rewards_to_csv
    from clrft.analysis.study_figures import rewards_figure

    report = reward_report(comparison)
    if not report.streams:
        raise UserError(*report.without, "Expected a run of a method that learns from rewards, e.g. grpo or rapo.")
    parts = [*reward_parts(report), *report.comparison.closing(report.without)]
    texts = {"rewards.md": to_markdown(parts, "Rewards"), "rewards.csv": rewards_to_csv(report)}
    pictures = pictures_of(
        comparison, report.streams, lambda one: {"rewards": rewards_figure(report.streams[one], one)}
    )
    return _tell(console, parts, left_out, output, lambda folder: write_outputs(folder, texts, pictures))


def kinds_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write what kinds of forgetting the runs in some folders show.

    Raises:
        UserError: no runs, or none whose predictions could be read.
    """
    comparison, left_out, output = _compared(options, ALL)

    from clrft.analysis.taxonomy import taxonomy_parts
    from clrft.report.comparison import write_taxonomy
    from clrft.report.parts import Subject

    subject = Subject(comparison)
    if not subject.taxonomy.streams:
        raise UserError(*subject.taxonomy.without)
    parts = taxonomy_parts(subject.taxonomy)
    return _tell(console, parts, left_out, output, lambda folder: write_taxonomy(subject, folder))


def costs_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write what the runs in some folders cost, beside how good they are.

    Raises:
        UserError: no runs, runs that may not be compared, or none that counted what it cost.
    """
    comparison, left_out, output = _compared(options, options.mix)

    from clrft.analysis.costs import cost_parts, cost_report, costs_to_csv
    from clrft.analysis.outputs import pictures_of, write_outputs
    from clrft.analysis.render import to_markdown
    from clrft.analysis.study_figures import costs_figure

    report = cost_report(comparison)
    if not report.streams:
        raise UserError(*report.without, "Expected runs of this version, which count what they cost.")
    parts = cost_parts(report)
    texts = {"costs.md": to_markdown(parts, "Cost beside quality"), "costs.csv": costs_to_csv(report)}
    drawn = {stream: costs_figure(report.streams[stream], stream) for stream in report.streams}
    made = {stream: {"costs": figure} for stream, figure in drawn.items() if figure is not None}
    pictures = pictures_of(comparison, made, made.__getitem__)
    return _tell(console, parts, left_out, output, lambda folder: write_outputs(folder, texts, pictures))


def drift_command(options: argparse.Namespace, console: Console) -> int:
    """Print and write how far the runs in some folders moved their policies, and whether that goes with forgetting.

    Raises:
        UserError: no runs, runs that may not be compared, or none whose drift was measured.
    """
    comparison, left_out, output = _compared(options, options.mix)

    from clrft.analysis.drift import drift_parts, drift_study, points_to_csv, relations_to_csv, spreads_to_csv
    from clrft.analysis.outputs import ENDINGS, pictures_of, write_outputs
    from clrft.analysis.render import to_markdown
    from clrft.analysis.study_figures import drift_figures

    study = drift_study(comparison)
    if not study.streams:
        raise UserError(*study.without, "Expected a run of a method that trains, with evaluate.drift_prompts above 0.")
    parts = drift_parts(study)
    texts = {
        "drift.md": to_markdown(parts, "Drift and forgetting"),
        "drift.csv": relations_to_csv(study),
        "drift_runs.csv": points_to_csv(study),
        "drift_spread.csv": spreads_to_csv(study),
    }
    pictures = pictures_of(comparison, study.streams, lambda stream: drift_figures(study.streams[stream]))
    return _tell(console, parts, left_out, output, lambda folder: write_outputs(folder, texts, pictures, ENDINGS))


def ledger_command(options: argparse.Namespace, console: Console) -> int:
    """Print published figures beside those of the runs in some folders; write them where an output is named.

    Raises:
        UserError: a folder without runs, or an output that can't be written.
    """
    found = find_runs([Path(path) for path in options.paths])
    output = Path(options.output) if options.output else None

    from clrft.analysis.groups import grouped
    from clrft.analysis.outputs import write_outputs
    from clrft.analysis.published_results import planned, published_beside, published_parts, published_to_csv
    from clrft.analysis.render import to_markdown

    beside = published_beside(grouped(found.runs))
    plans = planned(sorted(path.stem for path in (config_root() / "sweeps").glob("*.yaml")))
    parts = published_parts(beside, plans)
    title = "Published figures beside measured ones"
    texts = {"ledger.md": to_markdown(parts, title), "ledger.csv": published_to_csv(beside)}
    return _tell(console, parts, found.left_out, output, lambda folder: write_outputs(folder, texts))


def _compared(options: argparse.Namespace, mix: Sequence[str]) -> "tuple[Comparison, tuple[LeftOut, ...], Path]":
    """The comparison of the runs that a command is to look at, what was left out, and the folder for its files."""
    paths = [Path(path) for path in options.paths]
    output = comparison_folder(paths[0], options.output)
    found = complete_runs(paths)

    from clrft.analysis.compare import compare

    return compare(found.runs, mix=mix), found.left_out, output


def _tell(
    console: Console,
    parts: "Sequence[Part]",
    left_out: Sequence[LeftOut],
    output: Path | None,
    write: Callable[[Path], Sequence[Path]],
) -> int:
    """Print what was found and which runs were left out, then write its files, if its folder is one that can be."""
    from clrft.analysis.render import to_terminal

    if output is not None:
        check_writable(output)
    console.print(to_terminal(parts))
    say(console, *(f"left out: {one}" for one in left_out))
    if output is not None:
        say(console, *write(output))
    return 0
