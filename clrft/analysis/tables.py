"""A comparison as tables: for the terminal (rich), Markdown and CSV.

Terminal and Markdown show percent; CSV holds fractions, to be computed with.
Deliberately absent: any number that ``clrft.analysis.compare`` did not compute.
"""

import csv
import io
import math
import statistics
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clrft.analysis.compare import FLOOR, Comparison, Group, Paired, Summary
from clrft.analysis.formatting import DASH, Rows, in_unit, named, percent, raw, titled
from clrft.analysis.pair_tables import MOST_SHOWN, caption, pair_rows, pair_table, too_many
from eval.metrics import Value, metric_of

__all__ = ["DASH", "Rows", "csv_text", "headline", "markdown_table", "name_of", "raw", "rich_table", "show"]

HEADLINE = (
    "last_acc",
    "mean_final_acc",
    "learning_acc",
    "avg_incremental_acc",
    "forgetting",
    "min_acc",
    "general_delta",
)
FINAL = ("last_acc", "mean_final_acc")  # only one of them is shown: Group.final_metric
_NOT_IN_TERMINAL = ("avg_incremental_acc", "min_acc")  # to fit its width
TEXT = ("metric", "method", "difference", "shaper", "but")  # columns that are not of numbers
_LABEL_WIDTH = 32  # longer labels are wrapped


def to_terminal(comparison: Comparison) -> RenderableType:
    """All tables of a comparison, narrow enough for a terminal."""
    parts: list[RenderableType] = []
    for stream in comparison.streams():
        groups = comparison.of_stream(stream)
        keys = [key for key in headline(comparison, stream) if key not in _NOT_IN_TERMINAL]
        titles = [titled(key) for key in keys]
        title = f"{stream}: {spread_words(groups)}, %"
        parts.append(rich_table(title, ["method", "n", *titles], _headline_rows(groups, keys)))
        main = (groups[0].final_metric, "forgetting")
        parts.append(rich_table("Every class order, %", *_order_table(groups, main)))
        parts.append(rich_table(f"Final {groups[0].measure} by position of the task, %", *_final_table(groups)))
        if pairs := shown_pairs(comparison, stream, main):
            title = "Paired differences over class orders, percentage points"
            table = rich_table(title, *pair_table(pairs)) if len(pairs) <= MOST_SHOWN else Text(too_many(pairs))
            parts += [table, Text(caption(pairs), style="dim")] if len(pairs) <= MOST_SHOWN else [table]
    parts += [Text(note) for note in comparison.notes]
    return RichGroup(*parts)


def to_markdown(comparison: Comparison) -> str:
    """All tables of a comparison, with every metric, its definition and every order's value."""
    lines: list[str] = ["# Comparison", ""]
    for stream in comparison.streams():
        groups, keys = comparison.of_stream(stream), headline(comparison, stream)
        lines += [f"## {stream}", "", "Percent; mean ± sample standard deviation over class orders.", ""]
        lines += markdown_table(["method", "orders", *keys], _headline_rows(groups, keys))
        lines += ["### Every metric, every class order", ""]
        lines += markdown_table(*_order_table(groups, comparison.defined_metrics(stream)))
        title = f"### Final {groups[0].measure} by position of the task"
        lines += [title, "", *markdown_table(*_final_table(groups))]
        if pairs := shown_pairs(comparison, stream, keys):
            few = len(pairs) <= MOST_SHOWN * len(keys)
            told = [*markdown_table(*pair_table(pairs, full=True)), caption(pairs)] if few else [too_many(pairs)]
            lines += ["### Paired differences, percentage points", "", *told, ""]
        lines += ["### Definitions", "", *_definitions(comparison, stream), ""]
    lines += [f"- {note}" for note in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"


def to_csv(comparison: Comparison) -> str:
    """One row per stream, method and metric: mean, standard deviation, and the value of every class order."""
    seeds = sorted({run.seed for group in comparison.groups for run in group.runs})
    header = [
        "stream",
        "method",
        "label",
        "metric",
        "n",
        "mean",
        "std",
        "undefined",
        "mixed",
        *(f"order_{s}" for s in seeds),
    ]
    rows = []
    mixed = mixed_by_stream(comparison)
    for group in comparison.groups:
        for key, summary in group.metrics.items():
            values = [raw(summary.values[seed].value) if seed in summary.values else "" for seed in seeds]
            numbers = [str(len(summary.values)), raw(summary.mean), raw(summary.std), summary.reason or ""]
            numbers.append(mixed[group.stream])
            rows.append([group.stream, group.method, group.label, key, *numbers, *values])
    return csv_text(header, rows)


def pairs_to_csv(comparison: Comparison) -> str:
    """One row per paired difference ``first`` - ``second``: intervals, tests, orders needed, and every order's."""
    return csv_text(*pair_rows(comparison.pairs, mixed_by_stream(comparison)))


def mixed_by_stream(comparison: Comparison) -> dict[str, str]:
    """What of each stream was mixed on request, in a cell; empty for nothing."""
    return {stream: " ".join(comparison.mixed_in(stream)) for stream in comparison.streams()}


def shown_pairs(comparison: Comparison, stream: str, keys: Sequence[str]) -> list[Paired]:
    """Paired differences of one stream in some metrics, those of a metric together, in the order of ``HEADLINE``."""
    pairs = [pair for pair in comparison.pairs if pair.stream == stream and pair.metric in keys]
    return sorted(pairs, key=lambda pair: HEADLINE.index(pair.metric.partition("/")[0]))


def headline(comparison: Comparison, stream: str) -> list[str]:
    """Metrics of the first table, in its order, those that the stream has."""
    defined = comparison.defined_metrics(stream)
    names = [name for name in HEADLINE if name not in FINAL or name == comparison.of_stream(stream)[0].final_metric]
    return [key for name in names for key in defined if key.partition("/")[0] == name]


def final_accuracies(group: Group) -> list[Value]:
    """Accuracy after the last task by position of the task, averaged over class orders."""
    rows = [run.matrix.value[-1] for run in group.runs]
    means = [statistics.fmean(float(row[j]) for row in rows) for j in range(len(rows[0]))]
    return [Value(None, "not evaluated") if math.isnan(mean) else Value(mean) for mean in means]


def show(summary: Summary | None, key: str = "last_acc") -> str:
    """Mean ± standard deviation in a metric's unit, percent by default; a dash when undefined, no ± for one order."""
    if summary is None or summary.mean is None:
        return DASH
    spread = "" if summary.std is None else f" ± {in_unit(key, summary.std)}"
    return f"{in_unit(key, summary.mean)}{spread}"


def spread_words(groups: Sequence[Group]) -> str:
    """What stands in a table of means."""
    several = any(len(group.runs) > 1 for group in groups)
    return "mean ± standard deviation over n class orders" if several else "one class order, no spread"


def name_of(group: Group) -> str:
    """Label of a method, the floor marked as such."""
    return f"{group.label} (floor)" if group.method == FLOOR else group.label


def _headline_rows(groups: Sequence[Group], keys: Sequence[str]) -> Rows:
    return [[name_of(g), str(len(g.runs)), *(show(g.metrics.get(key), key) for key in keys)] for g in groups]


def _order_table(groups: Sequence[Group], keys: Sequence[str]) -> tuple[list[str], Rows]:
    seeds = sorted({run.seed for group in groups for run in group.runs})
    rows = []
    for key in keys:
        for group in groups:
            summary = group.metrics.get(key)
            if summary is None or all(value.value is None for value in summary.values.values()):
                continue
            values = [in_unit(key, summary.values[seed].value if seed in summary.values else None) for seed in seeds]
            rows.append([named(key), group.label, show(summary, key), *values])
    return ["metric", "method", "mean", *(f"order {seed}" for seed in seeds)], rows


def _final_table(groups: Sequence[Group]) -> tuple[list[str], Rows]:
    tasks = len(groups[0].runs[0].matrix)
    rows = [[group.label, *(percent(value.value) for value in final_accuracies(group))] for group in groups]
    return ["method", *(f"task {j}" for j in range(1, tasks + 1))], rows


def _definitions(comparison: Comparison, stream: str) -> Iterator[str]:
    for key in comparison.defined_metrics(stream):
        metric = metric_of(key)
        direction = "higher" if metric.higher_is_better else "lower"
        yield f"- `{key}`: {metric.title}, {metric.definition} ({direction} is better)"
    absent: dict[str, str] = {}
    for group in comparison.of_stream(stream):
        for key, summary in group.metrics.items():
            if key not in comparison.defined_metrics(stream) and summary.reason:
                absent.setdefault(key, summary.reason)
    for key, reason in absent.items():
        yield f"- `{key}`: undefined here ({reason})"


def rich_table(title: str, header: Sequence[str], rows: Rows) -> Table:
    """A table for the terminal; a line parts the metrics or, where a first cell is empty, the rows above it."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for number, name in enumerate(header):
        text = number == 0 or name in TEXT
        narrow = text and all(len(row[number]) <= _LABEL_WIDTH for row in rows)
        table.add_column(escape(name), justify="left" if text else "right", overflow="fold", no_wrap=narrow)
    parted = header[0] == "metric" or any(not row[0] for row in rows)
    last = rows[0][0] if rows else ""
    for row in rows:
        if parted and row[0] and row[0] != last:
            table.add_section()
        last = row[0]
        table.add_row(*(escape(cell) for cell in row))
    return table


def markdown_table(header: Sequence[str], rows: Rows) -> list[str]:
    """Lines of a Markdown table, with an empty one behind them."""
    rule = ["---" if name in TEXT else "---:" for name in header]
    return [*(_line(cells) for cells in (header, rule, *rows)), ""]


def _line(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def csv_text(header: Sequence[str], rows: Rows) -> str:
    """A header and rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
