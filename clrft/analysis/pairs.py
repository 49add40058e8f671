"""Paired differences of two methods over class orders, with their intervals and tests.

Tests of one metric in one stream are a family: p is corrected for all pairs of methods in it. Deliberately absent: the
statistics (``clrft.analysis.paired_tests``) and tables of them (``clrft.analysis.pair_tables``).
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from clrft.analysis.groups import Group
from clrft.analysis.paired_tests import PairedTests, paired_tests, with_holm

Differences = dict[int, float]  # by seed of the class order


@dataclass(frozen=True, slots=True)
class Paired:
    """Difference ``first`` - ``second`` of one metric over the class orders that both were run in.

    Attributes:
        differences: by seed of the class order.
        mean: mean difference.
        std: sample standard deviation of the differences; None for one order.
        tests: intervals of the mean, p, and how many orders would be needed.
    """

    stream: str
    metric: str
    first: str
    second: str
    differences: Differences
    mean: float
    std: float | None
    tests: PairedTests

    @property
    def orders(self) -> int:
        """Class orders that both methods were run in."""
        return len(self.differences)

    @property
    def low(self) -> float | None:
        """Lower end of Student's 95 % interval of the mean; None for one order."""
        return self.tests.t_low

    @property
    def high(self) -> float | None:
        """Upper end of Student's 95 % interval of the mean; None for one order."""
        return self.tests.t_high


def pairs_of(groups: Sequence[Group], baseline: str | None) -> list[Paired]:
    """Later methods minus earlier ones, or all others minus the baseline; groups of one stream.

    Only what both methods have in at least one class order.
    """
    if baseline is None:
        couples = [(later, earlier) for i, later in enumerate(groups) for earlier in groups[:i]]
    else:
        exact = [group for group in groups if group.label == baseline]
        base = (exact or [group for group in groups if is_named(group, baseline)])[0]
        couples = [(group, base) for group in groups if group is not base]
    known = [
        (first, second, metric, differences)
        for first, second in couples
        for metric in first.metrics
        if (differences := differences_of(first, second, metric))
    ]
    tests = _tested([(metric, list(differences.values())) for _, _, metric, differences in known])
    return [
        Paired(
            stream=first.stream,
            metric=metric,
            first=first.label,
            second=second.label,
            differences=differences,
            mean=statistics.fmean(differences.values()),
            std=statistics.stdev(differences.values()) if len(differences) > 1 else None,
            tests=test,
        )
        for (first, second, metric, differences), test in zip(known, tests, strict=True)
    ]


def differences_of(first: Group, second: Group, metric: str) -> Differences:
    """Differences in the class orders in which both methods have the metric."""
    ours, theirs = (group.metrics[metric].values if metric in group.metrics else {} for group in (first, second))
    return {
        seed: left - right
        for seed in sorted(ours.keys() & theirs.keys())
        if (left := ours[seed].value) is not None and (right := theirs[seed].value) is not None
    }


def is_named(group: Group, name: str) -> bool:
    """Whether a name is the group's label or its method."""
    return name in (group.label, group.method)


def _tested(rows: Sequence[tuple[str, Sequence[float]]]) -> list[PairedTests]:
    """Tests of rows of differences, each with its metric, corrected within the metric."""
    tests = paired_tests([numbers for _, numbers in rows])
    families: dict[str, list[int]] = defaultdict(list)
    for place, (metric, _) in enumerate(rows):
        families[metric].append(place)
    for places in families.values():
        for place, test in zip(places, with_holm([tests[place] for place in places]), strict=True):
            tests[place] = test
    return tests
