"""What methods cost beside how good they are, as tables: for the terminal (rich), Markdown and CSV.

Tables show numbers with a prefix (``1.23 T`` operations) and hours; CSV holds counts and seconds, to be computed with.
Deliberately absent: any number that ``clrft.analysis.costs`` did not compute.
"""

from collections.abc import Sequence

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.compare import Summary
from clrft.analysis.costs import CostReport, GroupCost
from clrft.analysis.formatting import DASH, Rows, raw
from clrft.analysis.study import told_over
from clrft.analysis.tables import csv_text, markdown_table, name_of, rich_table, show
from clrft.runs.cost_names import CPU, EVALUATE, GPU, TRAIN, WALL

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
EXPLAINED = (
    "Per run, added up over its tasks. Prompt tokens are those of every row and pass, beside them those that went "
    "through the model (a group's shared prompt once); operations are floating point operations of the model, forward "
    "and backward; CPU hours are those of all threads, GPU hours the wall hours of a model on a GPU. Hours of runs "
    "from different machines, or that shared one, do not compare; counts do."
)
# Title and figure of every column that is shown of the training.
TRAINED = (
    ("generated", "tokens_generated"),
    ("trained", "tokens_trained"),
    ("prompt tokens", "prompt_tokens"),
    ("computed", "prompt_tokens_computed"),
    ("images", "images"),
    ("operations", "model_flops"),
)


def costs_to_terminal(report: CostReport) -> RenderableType:
    """One table per stream, narrow enough for a terminal."""
    parts: list[RenderableType] = []
    for stream in report.streams():
        groups = report.of_stream(stream)
        header = [
            "method",
            "n",
            "generated",
            "operations",
            f"{_processor(groups)} h",
            "test op.",
            "MB",
            "last",
            "forgotten",
        ]
        rows = [
            [
                *(name_of(one.group), str(len(one.group.runs))),
                *(_count(one, TRAIN, "tokens_generated"), _count(one, TRAIN, "model_flops")),
                *(_hours(one, TRAIN, _clock(groups)), _count(one, EVALUATE, "model_flops"), _memory(one)),
                *_quality(one),
            ]
            for one in groups
        ]
        title = f"{stream}: cost of training and test, {told_over(groups)}; quality in %"
        parts.append(rich_table(title, header, rows))
    parts += [Text(sentence) for sentence in report.sentences()]
    return RichGroup(*parts)


def costs_to_markdown(report: CostReport) -> str:
    """Costs of training, of the other activities, and quality, in two tables per stream."""
    lines = ["# Cost beside quality", "", EXPLAINED, ""]
    for stream in report.streams():
        groups = report.of_stream(stream)
        lines += [f"## {stream}", "", f"{told_over(groups).capitalize()}.", "", "Training:", ""]
        header = [
            "method",
            "orders",
            *(title for title, _ in TRAINED),
            "CPU h",
            "GPU h",
            "wall h",
            "last, %",
            "forgetting, %",
        ]
        rows = [
            [name_of(one.group), str(len(one.group.runs)), *(_count(one, TRAIN, name) for _, name in TRAINED)]
            + [_hours(one, TRAIN, name) for name in (CPU, GPU, WALL)]
            + _quality(one)
            for one in groups
        ]
        lines += markdown_table(header, rows)
        lines += ["Everything else, and memory:", ""]
        header = [
            "method",
            "activity",
            "generated",
            "prompt tokens",
            "images",
            "operations",
            "CPU h",
            "GPU h",
            "peak MB",
        ]
        lines += markdown_table(header, [row for one in groups for row in _other_rows(one)])
    lines += [f"- {sentence}" for sentence in report.sentences()]
    return "\n".join(lines).rstrip() + "\n"


def costs_to_csv(report: CostReport) -> str:
    """One row per stream, method, activity and figure: mean, standard deviation, and every class order's value."""
    seeds = sorted({run.seed for one in report.groups for run in one.group.runs})
    header = ["stream", "method", "label", "activity", "figure", "n", "mean", "std", "undefined", "mixed"]
    rows = [
        [one.group.stream, one.group.method, one.group.label, activity, name, str(len(summary.values))]
        + [raw(summary.mean), raw(summary.std), summary.reason or "", report.mixed(one.group.stream)]
        + [raw(summary.values[seed].value) if seed in summary.values else "" for seed in seeds]
        for one in report.groups
        for (activity, name), summary in one.figures.items()
    ]
    rows += [
        [one.group.stream, one.group.method, one.group.label, "", kind, str(len(one.group.runs)), raw(most), "", ""]
        + [report.mixed(one.group.stream)]
        + [""] * len(seeds)
        for one in report.groups
        for kind, most in one.memory.items()
    ]
    return csv_text([*header, *(f"order_{seed}" for seed in seeds)], rows)


def short(value: float) -> str:
    """A number in three digits with a prefix: ``1.23 T``; below a thousand as it is."""
    place = 0
    while abs(value) >= 999.5 and place + 1 < len(PREFIXES):
        value, place = value / 1000, place + 1
    digits = f"{value:.3g}"
    return f"{digits} {PREFIXES[place]}".strip()


def _other_rows(one: GroupCost) -> Rows:
    rows = []
    for number, activity in enumerate(dict.fromkeys(activity for activity, _ in one.figures if activity != TRAIN)):
        counts = [
            _count(one, activity, name) for name in ("tokens_generated", "prompt_tokens", "images", "model_flops")
        ]
        hours = [_hours(one, activity, name) for name in (CPU, GPU)]
        rows.append([name_of(one.group), activity, *counts, *hours, _memory(one) if number == 0 else ""])
    return rows


def _count(one: GroupCost, activity: str, name: str) -> str:
    return _with_spread(one.figures.get((activity, name)), 1.0)


def _hours(one: GroupCost, activity: str, name: str) -> str:
    return _with_spread(one.figures.get((activity, name)), 3600.0)


def _with_spread(summary: Summary | None, unit: float) -> str:
    if summary is None or summary.mean is None:
        return DASH
    spread = "" if not summary.std else f" ± {short(summary.std / unit)}"
    return short(summary.mean / unit) + spread


def _quality(one: GroupCost) -> list[str]:
    return [show(one.group.metrics.get(key)) for key in (one.group.final_metric, "forgetting")]


def _memory(one: GroupCost) -> str:
    return " + ".join(f"{most:,.0f}" for most in one.memory.values()) or DASH


def _clock(groups: Sequence[GroupCost]) -> str:
    """Seconds that are shown: of the GPU where there is one."""
    return GPU if any((TRAIN, GPU) in one.figures for one in groups) else CPU


def _processor(groups: Sequence[GroupCost]) -> str:
    return "GPU" if _clock(groups) == GPU else "CPU"
