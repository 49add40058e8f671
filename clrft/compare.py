"""Compare runs: mean and spread over class orders, every order's value, paired differences between methods.

Runs of one stream and method that differ in their settings are kept apart and named by what differs.
A metric that is undefined in one order has no mean over orders. One order has no spread.
Deliberately absent: tables and files (``clrft.tables``) and pictures (``clrft.figures``).
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy import stats

from clrft.differences import differing_settings, flatten, unlike
from clrft.runs import RunRecord
from eval.metrics import METRICS, Value, compute_metrics, undefined
from task_streams.errors import UserError, unknown_name

FLOOR = "zero_shot"  # the frozen base: what is known without learning
_SHOWN_FIRST = (FLOOR, "sft", "grpo", "rapo_rr", "rapo_ctan", "rapo")


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric of one method over class orders, as fractions.

    Attributes:
        values: value by seed of the class order.
        mean: arithmetic mean; None when an order is undefined.
        std: sample standard deviation (n - 1); None for one order or without a mean.
        reason: why there is no mean.
    """

    values: dict[int, Value]
    mean: float | None
    std: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in nothing but the class order.

    Attributes:
        stream: name of the stream.
        method: name of the method.
        label: the method, with the settings that tell it from other groups of the same method.
        settings: those settings, dotted name to value.
        runs: one per class order, by seed.
        metrics: every metric over the orders.
    """

    stream: str
    method: str
    label: str
    settings: dict[str, str]
    runs: tuple[RunRecord, ...]
    metrics: dict[str, Summary]

    @property
    def measure(self) -> str:
        """What the runs' matrices hold: accuracy or box AP."""
        return self.runs[0].matrix.measure

    @property
    def final_metric(self) -> str:
        """Metric that stands for the end of a run: micro-averaged accuracy, or the mean over tasks where there are no
        counts of items.
        """
        return "last_acc" if self.measure == "accuracy" else "mean_final_acc"

    @property
    def joint(self) -> bool:
        """Whether the method trains on all tasks at once, so that it has a last row only."""
        return self.method.startswith("joint")


@dataclass(frozen=True, slots=True)
class Paired:
    """Difference ``first`` - ``second`` of one metric over the class orders that both were run in.

    Attributes:
        mean: mean difference.
        std: sample standard deviation of the differences; None for one order.
        low, high: 95 % interval of the mean difference by Student's t; None for one order.
    """

    stream: str
    metric: str
    first: str
    second: str
    differences: dict[int, float]
    mean: float
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that the tables and figures show.

    Attributes:
        groups: methods in the order in which they are shown.
        pairs: paired differences.
        notes: sentences a reader needs to judge the numbers.
    """

    groups: tuple[Group, ...]
    pairs: tuple[Paired, ...]
    notes: tuple[str, ...]

    def streams(self) -> list[str]:
        """Names of the streams, in order of appearance."""
        return list(dict.fromkeys(group.stream for group in self.groups))

    def of_stream(self, stream: str) -> list[Group]:
        """Groups of one stream."""
        return [group for group in self.groups if group.stream == stream]

    def defined_metrics(self, stream: str) -> list[str]:
        """Metrics that at least one method of a stream has, in the order of ``METRICS``."""
        keys = dict.fromkeys(key for group in self.of_stream(stream) for key in group.metrics)
        has = [key for key in keys if any(_known(group, key) for group in self.of_stream(stream))]
        return sorted(has, key=_metric_rank)


def compare(records: Sequence[RunRecord], baseline: str | None = None) -> Comparison:
    """Group runs by stream, method and settings, and compare the groups over class orders.

    Args:
        records: complete runs.
        baseline: label or method that all others are paired with; by default each method with each other.

    Raises:
        UserError: no runs, the same run twice, an unknown or ambiguous baseline, runs of one stream with
            different numbers of tasks; all of them at once.
    """
    if not records:
        raise UserError("nothing to compare: no complete run was found.")
    groups = _grouped(records)
    problems = [*_twice(groups), *_lengths(groups)]
    if baseline is not None:
        problems += _check_baseline(groups, baseline)
    if problems:
        raise UserError(*problems)
    groups = [group for stream in _streams(groups) for group in with_joint_row(_of(groups, stream))]
    pairs = [pair for stream in _streams(groups) for pair in _pairs(_of(groups, stream), baseline)]
    notes = [note for stream in _streams(groups) for note in _notes(stream, _of(groups, stream))]
    return Comparison(tuple(groups), tuple(pairs), tuple(notes))


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


def t_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Interval of the mean of paired differences, mean ± t(n-1) s/√n; None for fewer than two."""
    count = len(differences)
    if count < 2:
        return None
    quantile = float(stats.t.ppf(0.5 + level / 2, count - 1))
    half = quantile * statistics.stdev(differences) / math.sqrt(count)
    mean = statistics.fmean(differences)
    return mean - half, mean + half


def paired(first: Group, second: Group, metric: str) -> Paired | None:
    """Paired difference over the class orders in which both methods have the metric; None without one."""
    ours, theirs = (group.metrics[metric].values if metric in group.metrics else {} for group in (first, second))
    differences = {
        seed: left - right
        for seed in sorted(ours.keys() & theirs.keys())
        if (left := ours[seed].value) is not None and (right := theirs[seed].value) is not None
    }
    if not differences:
        return None
    numbers = list(differences.values())
    low, high = t_interval(numbers) or (None, None)
    return Paired(
        stream=first.stream,
        metric=metric,
        first=first.label,
        second=second.label,
        differences=differences,
        mean=statistics.fmean(numbers),
        std=statistics.stdev(numbers) if len(numbers) > 1 else None,
        low=low,
        high=high,
    )


def with_joint_row(groups: Sequence[Group]) -> list[Group]:
    """Groups whose intransigence is measured against the stream's joint runs of the same class order.

    Only when there is one joint method: of two, neither is the upper bound by itself.
    """
    joint = [group for group in groups if group.joint]
    if len(joint) != 1:
        return list(groups)
    rows = {run.seed: run.matrix.value[-1] for run in joint[0].runs}
    return [group if group.joint else _against_joint(group, rows) for group in groups]


def _against_joint(group: Group, rows: Mapping[int, Any]) -> Group:
    values = {}
    for run in group.runs:
        if run.seed in rows:
            cells = {j: float(x) for j, x in enumerate(rows[run.seed], start=1) if not math.isnan(x)}
            values[run.seed] = compute_metrics(run.matrix.with_joint(cells), ["intransigence"])["intransigence"]
        else:
            values[run.seed] = undefined("not evaluated: J_j: joint training in this order")
    return replace(group, metrics=group.metrics | {"intransigence": summarise(values)})


def _grouped(records: Iterable[RunRecord]) -> list[Group]:
    by_method: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        by_method.setdefault((record.stream, record.method), []).append(record)
    streams = list(dict.fromkeys(stream for stream, _ in by_method))
    keys = sorted(by_method, key=lambda key: (streams.index(key[0]), *_method_rank(key[1])))
    return [group for key in keys for group in _by_settings(*key, by_method[key])]


def _by_settings(stream: str, method: str, records: Sequence[RunRecord]) -> list[Group]:
    """One group, or one per combination of the settings in which the runs differ."""
    differing = differing_settings(records)
    parts: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        flat = flatten(record.config)
        parts.setdefault(tuple(flat.get(name, "-") for name in differing), []).append(record)
    usual = _usual(list(parts), differing)
    told = {
        values: {name: value for name, value in zip(differing, values, strict=True) if usual.get(name) != value}
        for values in parts
    }
    order = sorted(parts, key=lambda values: ([name not in told[values] for name in differing], values))
    order.sort(key=lambda values: bool(told[values]))  # what differs in nothing comes first
    return [_group(stream, method, told[values], parts[values]) for values in order]


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


def _group(stream: str, method: str, settings: dict[str, str], records: Sequence[RunRecord]) -> Group:
    runs = sorted(records, key=lambda record: record.seed)
    described = ", ".join(f"{name}={value}" for name, value in settings.items())
    keys = dict.fromkeys(key for run in runs for key in run.metrics)
    absent = undefined("not measured in this run")
    metrics = {key: summarise({run.seed: run.metrics.get(key, absent) for run in runs}) for key in keys}
    label = f"{method} [{described}]" if settings else method
    return Group(stream, method, label, settings, tuple(runs), metrics)


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
        fitting = [group.label for group in _of(groups, stream) if _is_named(group, baseline)]
        if not fitting:
            names = {group.label for group in _of(groups, stream)}
            problems.append(f"{stream}: {unknown_name('baseline', baseline, names)}")
        elif len(fitting) > 1 and baseline not in fitting:
            problems.append(f"{stream}: baseline {baseline!r} could be any of {', '.join(fitting)}. Name one.")
    return problems


def _pairs(groups: Sequence[Group], baseline: str | None) -> list[Paired]:
    """Later methods minus earlier ones, or all others minus the baseline."""
    if baseline is None:
        couples = [(later, earlier) for i, later in enumerate(groups) for earlier in groups[:i]]
    else:
        exact = [group for group in groups if group.label == baseline]
        base = (exact or [group for group in groups if _is_named(group, baseline)])[0]
        couples = [(group, base) for group in groups if group is not base]
    found = (paired(first, second, key) for first, second in couples for key in first.metrics)
    return [pair for pair in found if pair is not None]


def _notes(stream: str, groups: Sequence[Group]) -> list[str]:
    notes = [] if any(group.method == FLOOR for group in groups) else [f"{stream}: no {FLOOR} run, so no floor."]
    if len({tuple(run.seed for run in group.runs) for group in groups}) > 1:
        orders = "; ".join(f"{g.label}: {', '.join(str(run.seed) for run in g.runs)}" for g in groups)
        notes.append(f"{stream}: the methods were run in different class orders ({orders}).")
    named = {name for group in groups for name in group.settings}
    also = [name for name in unlike([run for group in groups for run in group.runs]) if name not in named]
    if also:
        notes.append(f"{stream}: the methods also differ in {', '.join(also)}.")
    joint = [group.label for group in groups if group.joint]
    if len(joint) == 1:
        notes.append(f"{stream}: intransigence is measured against {joint[0]}.")
    return notes


def _is_named(group: Group, name: str) -> bool:
    return name in (group.label, group.method)


def _streams(groups: Iterable[Group]) -> list[str]:
    return list(dict.fromkeys(group.stream for group in groups))


def _of(groups: Iterable[Group], stream: str) -> list[Group]:
    return [group for group in groups if group.stream == stream]


def _known(group: Group, key: str) -> bool:
    return key in group.metrics and any(value.value is not None for value in group.metrics[key].values.values())


def _method_rank(method: str) -> tuple[bool, int, str]:
    """The floor first, then the known ladder, others by name, joint training last."""
    place = _SHOWN_FIRST.index(method) if method in _SHOWN_FIRST else len(_SHOWN_FIRST)
    return method.startswith("joint"), place, method


def _metric_rank(key: str) -> tuple[int, str]:
    names = list(METRICS)
    name = key.partition("/")[0]
    return (names.index(name) if name in names else len(names), key)
