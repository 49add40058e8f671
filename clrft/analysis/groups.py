"""Runs that differ in nothing but the class order, as one group with every metric over the orders.

Runs of one stream and method that differ in their settings are kept apart and named by what differs; a fork is always
named by what it was forked from. A metric that is undefined in one order has no mean over orders. One order has no
spread.
Deliberately absent: which groups may be compared (``mixing.py``), differences (``pairs.py``).
"""

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from clrft.analysis.table import Summary
from clrft.runs.differences import FLOOR, FORK, NO_FORK, differing_settings, flatten, forks
from clrft.runs.read import RunRecord
from eval.matrix import ACCURACY, POOLED_BOX_AP
from eval.metrics import Value, compute_metrics, undefined

Key = TypeVar("Key", bound=Hashable)
_SHOWN_FIRST = (FLOOR, "sft", "grpo", "rapo_rr", "rapo_ctan", "rapo")


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in nothing but the class order."""

    stream: str  # name of the stream
    method: str  # name of the method
    label: str  # the method, with the settings that tell it from other groups of the same method
    settings: dict[str, str]  # those settings, dotted name to value
    runs: tuple[RunRecord, ...]  # one per class order, by seed
    metrics: dict[str, Summary]  # every metric over the orders

    @property
    def measure(self) -> str:
        """What the runs' matrices hold: accuracy or box AP."""
        return self.runs[0].matrix.measure

    @property
    def measure_so_far(self) -> str:
        """What curves over stages show of the tasks so far (``eval.metrics.accuracy_so_far``)."""
        return f"mean {self.measure}" if np.isnan(self.runs[0].matrix.pooled).all() else POOLED_BOX_AP

    @property
    def final_metric(self) -> str:
        """Metric that stands for the end of a run: over all items at once, or the mean over tasks where nothing is."""
        return "last_acc" if self.measure == ACCURACY or self.measure_so_far == POOLED_BOX_AP else "mean_final_acc"

    @property
    def joint(self) -> bool:
        """Whether the method trains on all tasks at once, so that it has a last row only."""
        return self.method.startswith("joint")

    @property
    def name(self) -> str:
        """The label, the floor marked as such."""
        return f"{self.label} (floor)" if self.method == FLOOR else self.label

    def mean(self, key: str) -> float | None:
        """Mean of a metric over class orders; None where it is undefined or absent."""
        summary = self.metrics.get(key)
        return None if summary is None else summary.mean

    def values(self, key: str) -> dict[int, float]:
        """Values of a metric by seed of the class order, of those in which it is defined."""
        return self.metrics[key].known() if key in self.metrics else {}


def summarise(values: Mapping[int, Value]) -> Summary:
    """Mean and sample standard deviation over class orders; none when one of them is undefined."""
    missing = {seed: value.reason for seed, value in values.items() if value.value is None}
    if missing:
        reasons = "; ".join(dict.fromkeys(str(reason) for reason in missing.values()))
        where = "" if len(missing) == len(values) else f" (orders {', '.join(map(str, missing))})"
        return Summary(dict(values), None, None, reasons + where)
    numbers = [value.value for value in values.values() if value.value is not None]
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Summary(dict(values), statistics.fmean(numbers), std)


def summarise_all(values: Mapping[int, Mapping[Key, Value]], absent: str) -> dict[Key, Summary]:
    """Every figure over class orders; where one of them lacks it, it is undefined there for the reason ``absent``."""
    lacks = undefined(absent)
    keys = dict.fromkeys(key for one in values.values() for key in one)
    return {key: summarise({seed: one.get(key, lacks) for seed, one in values.items()}) for key in keys}


def with_joint_row(groups: Sequence[Group]) -> list[Group]:
    """Groups whose intransigence is measured against the stream's joint runs of the same class order.

    Only when there is one joint method: of two, neither is the upper bound by itself.
    """
    joint = [group for group in groups if group.joint]
    if len(joint) != 1:
        return list(groups)
    rows = {run.seed: run.matrix.value[-1] for run in joint[0].runs}
    absent = undefined("not evaluated: J_j: joint training in this order")
    found = []
    for group in groups:
        values = {}
        for run in () if group.joint else group.runs:
            cells = {j: float(x) for j, x in enumerate(rows.get(run.seed, ()), start=1) if not math.isnan(x)}
            with_joint = run.matrix.with_rows(joint=cells)
            known = run.seed in rows
            values[run.seed] = compute_metrics(with_joint, ["intransigence"])["intransigence"] if known else absent
        found.append(replace(group, metrics=group.metrics | {"intransigence": summarise(values)}) if values else group)
    return found


def grouped(records: Iterable[RunRecord]) -> list[Group]:
    """Runs as groups: streams as they come, the floor first, then the known ladder, joint training last."""
    by_method: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        by_method.setdefault((record.stream, record.method), []).append(record)
    streams = list(dict.fromkeys(stream for stream, _ in by_method))
    ranks = {method: place for place, method in enumerate(_SHOWN_FIRST)}
    keys = sorted(
        by_method,
        key=lambda key: (streams.index(key[0]), key[1].startswith("joint"), ranks.get(key[1], len(ranks)), key[1]),
    )
    return [group for key in keys for group in _by_settings(*key, by_method[key])]


def _by_settings(stream: str, method: str, records: Sequence[RunRecord]) -> list[Group]:
    """One group, or one per combination of the settings in which the runs differ."""
    differing = [FORK, *differing_settings(records)]
    parts: dict[tuple[str, ...], list[RunRecord]] = {}
    for record, fork in zip(records, forks(records), strict=True):
        flat = {**flatten(record.config), FORK: fork}
        parts.setdefault(tuple(flat.get(name, "-") for name in differing), []).append(record)
    usual = {**_usual(list(parts), differing), FORK: NO_FORK}  # a fork is always named
    told = {
        values: {name: value for name, value in zip(differing, values, strict=True) if usual.get(name) != value}
        for values in parts
    }
    order = sorted(parts, key=lambda values: ([name not in told[values] for name in differing], values))
    order.sort(key=lambda values: (FORK in told[values], bool(told[values])))  # what differs in nothing comes first
    groups = []
    for values in order:
        runs = tuple(sorted(parts[values], key=lambda record: record.seed))
        metrics = summarise_all({run.seed: run.metrics for run in runs}, "not measured in this run")
        groups.append(Group(stream, method, labelled(method, told[values]), told[values], runs, metrics))
    return groups


def _usual(rows: Sequence[tuple[str, ...]], names: Sequence[str]) -> dict[str, str]:
    """Values from which rows differ in one setting each, as in an ablation; none where there are no such rows.

    There are, if each setting has a value that rows share, one row has all of these, and the others all but one.
    """
    counts = [Counter(column).most_common(1)[0] for column in zip(*rows, strict=True)]
    common = tuple(value for value, _ in counts)
    apart = [sum(value != one for value, one in zip(row, common, strict=True)) for row in rows]
    if 0 not in apart or max(apart) > 1 or min((count for _, count in counts), default=0) < 2:
        return {}
    return dict(zip(names, common, strict=True))


def labelled(method: str, settings: Mapping[str, str]) -> str:
    """A method's name with settings behind it."""
    described = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"{method} [{described}]" if settings else method
