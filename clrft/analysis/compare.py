"""Compare runs: mean and spread over class orders, every order's value, paired differences between methods.

Runs that differ in what a comparison must hold equal are refused, unless the user allows it
(``clrft.analysis.mixing``). Deliberately absent: tables and files (``clrft.analysis.tables``), pictures
(``clrft.analysis.figures``), published figures (``clrft.analysis.published_results``).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clrft.analysis.groups import Group, Summary, grouped, summarise, with_joint_row
from clrft.analysis.mixing import Mixed, check_words, sort_out
from clrft.analysis.paired_tests import FEWEST, t_interval
from clrft.analysis.pairs import Paired, is_named, pairs_of
from clrft.analysis.updates import held_apart, lost_updates
from clrft.runs.differences import FLOOR, unlike, unrecorded
from clrft.runs.read import RunRecord, metric_rank
from task_streams.errors import UserError, unknown_name

__all__ = ["FLOOR", "Comparison", "Group", "Mixed", "Paired", "Summary", "compare", "summarise", "t_interval"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that the tables and figures show.

    Attributes:
        groups: methods in the order in which they are shown.
        pairs: paired differences.
        notes: sentences a reader needs to judge the numbers.
        mixed: in what the runs differ although they should not, as was allowed.
    """

    groups: tuple[Group, ...]
    pairs: tuple[Paired, ...]
    notes: tuple[str, ...]
    mixed: tuple[Mixed, ...] = ()

    def streams(self) -> list[str]:
        """Names of the streams, in order of appearance."""
        return list(dict.fromkeys(group.stream for group in self.groups))

    def of_stream(self, stream: str) -> list[Group]:
        """Groups of one stream."""
        return [group for group in self.groups if group.stream == stream]

    def mixed_in(self, stream: str) -> list[str]:
        """Names of what is mixed in one stream."""
        return [one.name for one in self.mixed if one.stream == stream]

    def defined_metrics(self, stream: str) -> list[str]:
        """Metrics that at least one method of a stream has, in the order of ``METRICS``."""
        keys = dict.fromkeys(key for group in self.of_stream(stream) for key in group.metrics)
        has = [key for key in keys if any(_known(group, key) for group in self.of_stream(stream))]
        return sorted(has, key=metric_rank)


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
    groups = grouped(records)
    problems = [*_twice(groups), *_lengths(groups)]
    shown: list[Group] = []
    mixed: list[Mixed] = []
    for stream in _streams(groups):
        try:
            named, found = sort_out(_of(groups, stream), mix)
        except UserError as error:
            problems += [problem for problem in error.problems if problem not in problems]
        else:
            shown += with_joint_row(named)
            mixed += found
    if baseline is not None and not problems:
        problems += _check_baseline(shown, baseline)
    if problems:
        raise UserError(*problems)
    pairs = [pair for stream in _streams(shown) for pair in pairs_of(_of(shown, stream), baseline)]
    notes = [f"mixed on request: {one}." for one in mixed]
    notes += [note for stream in _streams(shown) for note in _notes(stream, _of(shown, stream))]
    return Comparison(tuple(shown), tuple(pairs), tuple(notes), tuple(mixed))


def _twice(groups: Iterable[Group]) -> list[str]:
    problems = []
    for group in groups:
        by_seed: dict[int, list[str]] = {}
        for run in group.runs:
            by_seed.setdefault(run.seed, []).append(str(run.folder))
        problems += [
            f"{group.stream}, {group.label}, order {seed} was given {len(folders)} times with the same "
            f"settings: {', '.join(folders)}. Name one of them."
            for seed, folders in by_seed.items()
            if len(folders) > 1
        ]
    return problems


def _lengths(groups: Sequence[Group]) -> list[str]:
    problems = []
    for stream in _streams(groups):
        sizes = sorted({len(run.matrix) for group in _of(groups, stream) for run in group.runs})
        if len(sizes) > 1:
            problems.append(f"runs of {stream} have {' and '.join(map(str, sizes))} tasks; compare them apart.")
    return problems


def _check_baseline(groups: Sequence[Group], baseline: str) -> list[str]:
    problems = []
    for stream in _streams(groups):
        fitting = [group.label for group in _of(groups, stream) if is_named(group, baseline)]
        if not fitting:
            names = {group.label for group in _of(groups, stream)}
            problems.append(f"{stream}: {unknown_name('baseline', baseline, names)}")
        elif len(fitting) > 1 and baseline not in fitting:
            problems.append(f"{stream}: baseline {baseline!r} could be any of {', '.join(fitting)}. Name one.")
    return problems


def _notes(stream: str, groups: Sequence[Group]) -> list[str]:
    notes = [] if any(group.method == FLOOR for group in groups) else [f"{stream}: no {FLOOR} run, so no floor."]
    if len({tuple(run.seed for run in group.runs) for group in groups}) > 1:
        orders = "; ".join(f"{g.label}: {', '.join(str(run.seed) for run in g.runs)}" for g in groups)
        notes.append(f"{stream}: the methods were run in different class orders ({orders}).")
    runs = [run for group in groups for run in group.runs]
    if also := unlike(runs):
        notes.append(f"{stream}: the runs also differ in {', '.join(also)}, which change no result by themselves.")
    notes += [
        f"{stream}: {count} of {len(runs)} runs do not record their {kind}, so that it was not compared for them."
        for kind, count in unrecorded(runs).items()
    ]
    machines = {repr(run.manifest["hardware"]) for run in runs if run.manifest.get("hardware")}
    if len(machines) > 1:
        notes.append(f"{stream}: the runs come from {len(machines)} kinds of machine (manifest.hardware).")
    notes += [f"{stream}: {note}" for note in (*lost_updates(groups), *held_apart(groups))]
    most = max(len(group.runs) for group in groups)
    if 1 < most < FEWEST and len(groups) > 1:
        notes.append(
            f"{stream}: {most} class orders cannot reach p < 0.05 by the exact test (the smallest p is "
            f"{2.0 ** (1 - most):.2g}), nor a 95 % interval by bootstrap; {FEWEST} can."
        )
    joint = [group.label for group in groups if group.joint]
    if len(joint) == 1:
        notes.append(f"{stream}: intransigence is measured against {joint[0]}.")
    return notes


def _streams(groups: Iterable[Group]) -> list[str]:
    return list(dict.fromkeys(group.stream for group in groups))


def _of(groups: Iterable[Group], stream: str) -> list[Group]:
    return [group for group in groups if group.stream == stream]


def _known(group: Group, key: str) -> bool:
    return key in group.metrics and any(value.value is not None for value in group.metrics[key].values.values())
