"""Paired differences of two methods over class orders, with their intervals and tests, and tables of them.

Tests of one metric in one stream are a family: p is corrected for all pairs of methods in it. Two methods that gave the
same answers in every order are told as such: a difference of 0 between them is no measurement. Tables show percentage
points, CSV fractions. Deliberately absent: the statistics (``clrft.analysis.paired_tests``), a verdict.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clrft.analysis.groups import Group
from clrft.analysis.paired_tests import CAPTION, FEWEST, TOO_MANY, PairedTests, holm, paired_tests
from clrft.analysis.render import csv_text
from clrft.analysis.table import DASH, Column, Medium, Sentence, Table, cells, number_cell, percent, text_columns
from clrft.runs.layout import PREDICTIONS_FILE, stage_folder
from clrft.runs.read import RunRecord
from clrft.utils.files import sha256_file
from eval.metrics import metric_of

Differences = dict[int, float]  # by seed of the class order
SAME = "same answers"  # in place of a difference of 0
MOST_SHOWN = 120  # rows of a table that a reader can go through; CSV has all
PAIRS_CSV = (
    "stream", "metric", "first", "second", "n", "mean", "std", "low_95", "high_95", "bootstrap_low_95",
    "bootstrap_high_95", "bootstrap_undefined", "sign_flip_p", "smallest_p", "holm_p", "orders_for_interval",
    "orders_for_interval_undefined", "orders_for_power_80", "orders_for_power_80_undefined", "mixed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Paired:
    """Difference ``first`` - ``second`` of one metric over the class orders that both were run in."""

    stream: str
    metric: str
    first: str
    second: str
    differences: Differences  # by seed of the class order
    mean: float
    std: float | None  # sample standard deviation of the differences; None for one order
    tests: PairedTests
    same: bool = False  # the two gave the same answers in every order, and the metric is the same in all of them

    @property
    def orders(self) -> int:
        """Class orders that both methods were run in."""
        return len(self.differences)

    @property
    def name(self) -> str:
        """The two methods."""
        return f"{self.first} − {self.second}"


def pairs_of(groups: Sequence[Group], baseline: str | None) -> list[Paired]:
    """Later methods minus earlier ones, or all others minus the baseline; groups of one stream.

    Only what both methods have in at least one class order.
    """
    if baseline is None:
        couples = [(later, earlier) for i, later in enumerate(groups) for earlier in groups[:i]]
    else:
        exact = [group for group in groups if group.label == baseline]
        base = (exact or [group for group in groups if group.method == baseline])[0]
        couples = [(group, base) for group in groups if group is not base]
    return paired(couples)


def paired(couples: Sequence[tuple[Group, Group]], metrics: Sequence[str] = ()) -> list[Paired]:
    """First minus second of each couple, in some metrics or all that the first has; tested together by metric."""
    known: list[tuple[Group, Group, str, Differences]] = []
    for first, second in couples:
        for metric in metrics or first.metrics:
            ours, theirs = first.values(metric), second.values(metric)
            if shared := sorted(ours.keys() & theirs.keys()):
                known.append((first, second, metric, {seed: ours[seed] - theirs[seed] for seed in shared}))
    tests = paired_tests([list(differences.values()) for *_, differences in known])
    for family in dict.fromkeys(metric for _, _, metric, _ in known):
        places = [i for i, (_, _, metric, _) in enumerate(known) if metric == family and tests[i].p is not None]
        for i, corrected in zip(places, holm([p for i in places if (p := tests[i].p) is not None]), strict=True):
            tests[i] = replace(tests[i], holm=corrected)
    found = []
    alike: dict[tuple[str, str], bool] = {}
    for (first, second, metric, differences), test in zip(known, tests, strict=True):
        values = list(differences.values())
        mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
        couple = (first.label, second.label)
        if not any(values) and couple not in alike:
            alike[couple] = same_answers(first, second)
        same = not any(values) and alike[couple]
        found.append(Paired(first.stream, metric, *couple, differences, mean, std, test, same))
    return found


def same_answers(first: Group, second: Group) -> bool:
    """Whether two methods answered every test of every class order that both have alike, word for word."""
    theirs = {run.seed: run for run in second.runs}
    shared = [(run, theirs[run.seed]) for run in first.runs if run.seed in theirs]
    return bool(shared) and all(_answers(one) == _answers(other) is not None for one, other in shared)


def _answers(run: RunRecord) -> dict[int, str] | None:
    """SHA-256 of a run's answers by stage; None if some of them are not there."""
    files = {stage: stage_folder(run.folder, stage) / PREDICTIONS_FILE for stage in run.stages()}
    if not all(file.is_file() for file in files.values()):
        return None
    return {stage: sha256_file(file) for stage, file in files.items()}


def alike_notes(pairs: Sequence[Paired]) -> list[str]:
    """A sentence for each set of methods of one stream that gave the same answers."""
    known: dict[str, list[str]] = defaultdict(list)  # by the first of a set
    for pair in pairs:
        if pair.same and not any(pair.first in others for others in known.values()):
            first = next((one for one, others in known.items() if pair.second in others), pair.second)
            known[first].append(pair.first)
    return [
        f"{', '.join(others)} and {first} gave the same answers in every order: what tells them apart changed nothing."
        for first, others in known.items()
    ]


def pair_parts(pairs: Sequence[Paired], title: str, full: bool = False) -> list[Sentence | Table]:
    """A table of paired differences, those of a metric together, or that there are too many to show.

    ``full``: for Markdown, with the standard deviation; else for the terminal.
    """
    place: Medium = "markdown" if full else "terminal"
    if len(pairs) > MOST_SHOWN * (len({pair.metric for pair in pairs}) if full else 1):
        text = f"{len(pairs)} paired differences are too many to be shown: all are in pairs.csv; "
        return [Sentence(f"{text}--baseline METHOD pairs the others with one method.", places=(place,))]
    rows = []
    for pair in pairs:
        tests = pair.tests
        t, boot = (
            DASH if low is None else f"{percent(low, sign=True)} to {percent(high, sign=True)}"
            for low, high in ((tests.t_low, tests.t_high), (tests.boot_low, tests.boot_high))
        )
        p, in_family = (DASH if p is None else f"{p:.2f}" if p >= 0.01 else f"{p:.1g}" for p in (tests.p, tests.holm))
        more = [
            str(max(0, needed - pair.orders)) if isinstance(needed, int) else ">1000" if needed == TOO_MANY else DASH
            for needed in (tests.for_interval, tests.for_power)
        ]
        told = DASH if more == [DASH, DASH] else " / ".join(more)
        tested = (t, boot, DASH if tests.p is None else f"{p} ({in_family})", told, str(pair.orders))
        if pair.same:
            tested = (DASH, DASH, DASH, DASH, str(pair.orders))
        mean = SAME if pair.same else percent(pair.mean, sign=True)
        rows.append(cells(pair.metric, pair.name, mean, percent(pair.std), *tested))
    columns = [*text_columns("metric", "difference"), Column("mean"), Column("std", places=("markdown",))]
    columns += map(Column, ("t", "bootstrap", "p (Holm)", "more", "n"))
    return [Table(title, columns, rows, note=_caption(pairs), places=(place,))]


def pairs_table(key: str, title: str, pairs: Sequence[Paired], folded: bool = False) -> Table:
    """Every difference with its interval, in percentage points, for the report."""
    seeds = sorted({seed for pair in pairs for seed in pair.differences})
    columns = (
        *text_columns("metric", "difference"),
        *(Column("mean"), Column("std")),
        Column("low", explained="lower end of the 95 % interval by Student's t"),
        Column("high", explained="upper end of the 95 % interval by Student's t"),
        Column("bootstrap low", explained="lower end of the 95 % bootstrap interval; needs 6 class orders"),
        Column("bootstrap high", explained="upper end of the 95 % bootstrap interval; needs 6 class orders"),
        Column("p", explained="exact sign-flip test, two-sided"),
        Column("p (Holm)", explained="corrected for all pairs of methods of this metric"),
        Column("orders"),
        Column("orders needed", explained="to find such a difference 4 times in 5, at 5 %"),
        *(Column(f"order {seed}") for seed in seeds),
    )
    rows = []
    for pair in pairs:
        tests = pair.tests
        enough = pair.orders >= FEWEST  # fewer give an interval that is not what it is named after
        bootstrap = (tests.boot_low, tests.boot_high) if enough else (None, None)
        probe = pair.metric.partition("/")[2].replace("_", " ")
        row = cells(metric_of(pair.metric).title + (f": {probe}" if probe else ""), pair.name)
        mean = number_cell(pair.mean, scale=100, sign=True)
        row += [replace(mean, text=SAME) if pair.same else mean, number_cell(pair.std, scale=100)]
        interval = (None,) * 4 if pair.same else (tests.t_low, tests.t_high, *bootstrap)
        row += [number_cell(value, scale=100, sign=True) for value in interval]
        row += [number_cell(None if pair.same else value, 3) for value in (tests.p, tests.holm)]
        needed = tests.for_power
        row += [number_cell(pair.orders, 0), number_cell(needed if isinstance(needed, int) else None, 0)]
        row += [number_cell(pair.differences.get(seed), scale=100, sign=True) for seed in seeds]
        rows.append(row)
    return Table(title, columns, rows, key, folded=folded)


def pairs_to_csv(pairs: Sequence[Paired], mixed: Mapping[str, str]) -> str:
    """One row per paired difference: intervals, tests, orders needed, every order's; ``mixed`` by stream."""
    seeds = sorted({seed for pair in pairs for seed in pair.differences})
    rows = []
    for pair in pairs:
        tests, needed = pair.tests, (pair.tests.for_interval, pair.tests.for_power)
        rows.append(
            [
                *(pair.stream, pair.metric, pair.first, pair.second, pair.orders, pair.mean, pair.std),
                *(tests.t_low, tests.t_high, tests.boot_low, tests.boot_high, tests.boot_reason),
                *(tests.p, tests.smallest_p, tests.holm),
                *(part for one in needed for part in ((one, None) if isinstance(one, int) else (None, one))),
                *(mixed[pair.stream], *map(pair.differences.get, seeds)),
            ]
        )
    return csv_text([*PAIRS_CSV, *(f"order_{seed}" for seed in seeds)], rows)


def _caption(pairs: Sequence[Paired]) -> str:
    """What the columns mean, and what so few orders can't tell."""
    fewest = min(pair.orders for pair in pairs)
    if fewest >= FEWEST:
        return CAPTION
    least = 2 / 2**fewest
    return (
        f"{CAPTION} With {fewest} order{'s' * (fewest > 1)} p is never below {least:.2g}, and at most "
        f"{100 * (1 - least):.0f} % of bootstrap intervals can hold the mean: below {FEWEST} orders they are too "
        "narrow to inform."
    )
