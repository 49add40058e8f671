"""Compare runs: mean and spread over class orders, every order's value, paired differences between methods.

Runs that differ in what a comparison must hold equal are refused, unless the user allows it
(``clrft.analysis.mixing``). Deliberately absent: tables (``clrft.analysis.comparison_tables``), pictures
(``clrft.analysis.figures``), published figures (``clrft.analysis.published_results``).
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from clrft.analysis.groups import Group, grouped, summarise, with_joint_row
from clrft.analysis.mixing import Mixed, check_words, sort_out
from clrft.analysis.paired_tests import FEWEST
from clrft.analysis.pairs import Paired, alike_notes, pairs_of
from clrft.analysis.table import Sentence, Summary
from clrft.config.records import LEAST_APPLIED
from clrft.runs.differences import FLOOR, unlike, unrecorded
from clrft.runs.read import RunRecord, metric_rank
from methods.settings import AUTO, KAHAN, LOST_BELOW, WIDE
from task_streams.errors import UserError, unknown_name

__all__ = ["FLOOR", "Comparison", "Group", "Mixed", "Paired", "Study", "Summary", "compare", "summarise"]

_NO_KEY = re.compile(r"[^A-Za-z0-9._]+")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that the tables and figures show.

    Attributes:
        streams: methods of each stream, in the order in which they are shown.
        pairs: paired differences.
        notes: sentences a reader needs to judge the numbers.
        mixed: in what the runs differ although they should not, as was allowed.
    """

    streams: Mapping[str, Sequence[Group]]
    pairs: tuple[Paired, ...]
    notes: tuple[str, ...]
    mixed: tuple[Mixed, ...] = ()

    @property
    def groups(self) -> list[Group]:
        """The methods of all streams."""
        return [group for groups in self.streams.values() for group in groups]

    def defined_metrics(self, stream: str) -> list[str]:
        """Metrics that at least one method of a stream has, in the order of ``METRICS``."""
        has = {key for group in self.streams[stream] for key in group.metrics if group.values(key)}
        return sorted(has, key=metric_rank)

    def mixed_by_stream(self) -> dict[str, str]:
        """What of each stream was mixed on request, for the column ``mixed`` of a CSV file; empty for nothing."""
        return {name: " ".join(one.name for one in self.mixed if one.stream == name) for name in self.streams}

    def key(self, name: str, stream: str) -> str:
        """File name of a part of a stream, without ending; the stream is named where there are several."""
        if len(self.streams) == 1:
            return name
        return f"{name}-{[*self.streams].index(stream) + 1}-{_NO_KEY.sub('-', stream)[:40]}"

    def closing(self, without: Sequence[str]) -> list[Sentence]:
        """Sentences that close a study of the runs: in what they differ, and what has nothing to show."""
        texts = [*(f"the runs differ: {one}." for one in self.mixed), *without]
        return [Sentence(text, "note") for text in texts]

    def heading(self, stream: str) -> list[Sentence]:
        """A heading that names the stream where there are several."""
        return [Sentence(stream, "heading")] if len(self.streams) > 1 else []


Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Study(Generic[Found]):
    """What was found in the runs of a comparison, e.g. the costs of each group."""

    comparison: Comparison
    streams: Mapping[str, Found]  # of those streams that have something to show
    without: Sequence[str]  # a sentence for each group or run that has nothing to show


def over_n(groups: Iterable[Group], figure: str = "mean ± standard deviation") -> str:
    """Words for what a table's figures are over: the class orders, or the one there is."""
    several = any(len(group.runs) > 1 for group in groups)
    return f"{figure} over n class orders" if several else "one class order"


def compare(records: Sequence[RunRecord], baseline: str | None = None, mix: Sequence[str] = ()) -> Comparison:
    """Group runs by stream, method and settings, and compare the groups over class orders.

    Args:
        records: complete runs.
        baseline: label or method that all others are paired with; by default each method with each other.
        mix: in what runs may differ although a comparison should hold it equal: names of settings or facts of the
            manifest, first parts of them, ``budget``, or ``all``; several may be joined by commas.

    Raises:
        UserError: no runs, the same run twice, runs that must not be mixed, an unknown or ambiguous baseline, runs
            of one stream with different numbers of tasks; all of them at once.
    """
    if not records:
        raise UserError("nothing to compare: no complete run was found.")
    mix = [word for words in mix for word in words.split(",") if word]
    check_words(mix, records)
    problems: list[str] = []
    shown: dict[str, list[Group]] = {}
    mixed: list[Mixed] = []
    for stream, same_stream in itertools.groupby(grouped(records), key=lambda group: group.stream):
        groups = list(same_stream)
        problems += _same_run_twice(groups)
        sizes = sorted({len(run.matrix) for group in groups for run in group.runs})
        if len(sizes) > 1:
            problems.append(f"runs of {stream} have {' and '.join(map(str, sizes))} tasks; compare them apart.")
        try:
            labelled, found = sort_out(groups, mix)
        except UserError as error:
            problems += [problem for problem in error.problems if problem not in problems]
        else:
            shown[stream] = with_joint_row(labelled)
            mixed += found
    if baseline is not None and not problems:
        problems += _check_baseline(shown, baseline)
    if problems:
        raise UserError(*problems)
    pairs = {stream: pairs_of(groups, baseline) for stream, groups in shown.items()}
    notes = [f"mixed on request: {one}." for one in mixed]
    notes += [note for stream, groups in shown.items() for note in _notes(stream, groups)]
    notes += [f"{stream}: {note}" for stream, of_stream in pairs.items() for note in alike_notes(of_stream)]
    return Comparison(
        streams=shown,
        pairs=tuple(pair for of_stream in pairs.values() for pair in of_stream),
        notes=tuple(notes),
        mixed=tuple(mixed),
    )


def _same_run_twice(groups: Iterable[Group]) -> list[str]:
    problems = []
    for group in groups:
        for seed, runs in itertools.groupby(group.runs, key=lambda run: run.seed):
            folders = [str(run.folder) for run in runs]
            if len(folders) > 1:
                twice = f"{group.stream}, {group.label}, order {seed} was given {len(folders)} times"
                problems.append(f"{twice} with the same settings: {', '.join(folders)}. Name one of them.")
    return problems


def _check_baseline(shown: Mapping[str, Sequence[Group]], baseline: str) -> list[str]:
    problems = []
    for stream, groups in shown.items():
        fitting = [group.label for group in groups if baseline in (group.label, group.method)]
        if not fitting:
            problems.append(f"{stream}: {unknown_name('baseline', baseline, {group.label for group in groups})}")
        elif len(fitting) > 1 and baseline not in fitting:
            problems.append(f"{stream}: baseline {baseline!r} could be any of {', '.join(fitting)}. Name one.")
    return problems


def _notes(stream: str, groups: Sequence[Group]) -> list[str]:
    """What a reader of one stream's figures needs to know, with the stream's name before it."""
    notes = [] if any(group.method == FLOOR for group in groups) else [f"no {FLOOR} run, so no floor."]
    if len({tuple(run.seed for run in group.runs) for group in groups}) > 1:
        orders = "; ".join(f"{g.label}: {', '.join(str(run.seed) for run in g.runs)}" for g in groups)
        notes.append(f"the methods were run in different class orders ({orders}).")
    runs = [run for group in groups for run in group.runs]
    if also := unlike(runs):
        notes.append(f"the runs also differ in {', '.join(also)}, which change no result by themselves.")
    notes += [
        f"{count} of {len(runs)} runs do not record their {kind}, so that it was not compared for them."
        for kind, count in unrecorded(runs).items()
    ]
    machines = {repr(run.manifest["hardware"]) for run in runs if run.manifest.get("hardware")}
    if len(machines) > 1:
        notes.append(f"the runs come from {len(machines)} kinds of machine (manifest.hardware).")
    notes += [*_lost_updates(groups), *_optimizers_apart(groups)]
    most = max(len(group.runs) for group in groups)
    if 1 < most < FEWEST and len(groups) > 1:
        notes.append(
            f"{most} class orders cannot reach p < 0.05 by the exact test (the smallest p is {2.0 ** (1 - most):.2g}), "
            f"nor a 95 % interval by bootstrap; {FEWEST} can."
        )
    joint = [group.label for group in groups if group.joint]
    if len(joint) == 1:
        notes.append(f"intransigence is measured against {joint[0]}.")
    return [f"{stream}: {note}" for note in notes]


def _lost_updates(groups: Sequence[Group]) -> list[str]:
    """What learned less than it meant to, since its weights were too coarse (``methods/model/numerics.py``)."""
    found = []
    for group in groups:
        shares = [run.task_metrics(stage).get(LEAST_APPLIED) for run in group.runs for stage in run.stages()]
        least = min((share for share in shares if share is not None), default=1.0)
        if least < LOST_BELOW:
            found.append(
                f"as little as {least:.0%} of an update of {group.label} reached the weights, and the rest was lost to "
                "rounding (update_applied in steps.jsonl), so that its figures are not those of the method."
            )
    return found


def _optimizers_apart(groups: Sequence[Group]) -> list[str]:
    """How ``train.optimizer=auto`` has the weights moved, where memory did not allow the same for all."""
    kinds: dict[str, dict[str, None]] = {}
    for group in (one for one in groups if one.method != FLOOR):
        for run in group.runs:
            optimizer = (run.manifest.get("model") or {}).get("optimizer")
            if (run.config.get("train") or {}).get("optimizer") == AUTO and optimizer in (WIDE, KAHAN):
                kinds.setdefault(optimizer, {})[group.label] = None
    if len(kinds) < 2:
        return []
    told = " and ".join(f"{', '.join(labels)} by {optimizer}" for optimizer, labels in kinds.items())
    return [f"weights were moved in two ways, as memory allowed: {told}. Both keep all of an update."]
