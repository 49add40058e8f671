"""A comparison as tables: means, every class order, tasks, paired differences, definitions; CSV files of all of it.

Also in the columns of other suites and papers (``eval.communities``), from the runs' matrices, so that every finished
run has them. Deliberately absent: any other number that ``clrft.analysis.compare`` did not compute.
"""

import statistics
from collections.abc import Sequence

from clrft.analysis.compare import Comparison, Group, Summary, over_n, summarise
from clrft.analysis.pairs import pair_parts
from clrft.analysis.render import long_csv
from clrft.analysis.table import (
    EVERYWHERE,
    Column,
    Medium,
    Part,
    Sentence,
    Table,
    TableCell,
    cells,
    in_unit,
    number_cell,
    summary_cell,
    text_columns,
)
from eval.communities import Column as TheirColumn
from eval.communities import Community
from eval.metrics import metric_of

HEADLINE = (
    *("last_acc", "mean_final_acc", "learning_acc", "avg_incremental_acc", "forgetting", "min_acc", "general_delta"),
)
FINAL = ("last_acc", "mean_final_acc")  # only one of them is shown: Group.final_metric
_NOT_IN_TERMINAL = ("avg_incremental_acc", "min_acc")  # to fit its width


def comparison_parts(comparison: Comparison) -> list[Part]:
    """Everything that the terminal and Markdown show of a comparison."""
    parts: list[Part] = []
    for stream in comparison.streams:
        groups, keys = comparison.streams[stream], headline(comparison, stream)
        main = (groups[0].final_metric, "forgetting")
        parts += [*comparison.heading(stream), means_table(comparison, stream)]
        parts.append(orders_table(comparison, stream, [key for key in keys if key in main], ("terminal",)))
        parts.append(orders_table(comparison, stream, comparison.defined_metrics(stream)))
        parts.append(final_table(groups))
        title = "Paired differences over class orders, percentage points"
        for shown, full in ((main, False), (keys, True)):
            # those of a metric together, in the order of the table of means
            pairs = [pair for pair in comparison.pairs if pair.stream == stream and pair.metric in shown]
            pairs.sort(key=lambda pair: HEADLINE.index(pair.metric.partition("/")[0]))
            parts += pair_parts(pairs, title, full) if pairs else []
        # every metric's definition, and why others are undefined
        texts: dict[str, str] = {}
        for key in comparison.defined_metrics(stream):
            metric = metric_of(key)
            direction = "higher" if metric.higher_is_better else "lower"
            texts[key] = f"{metric.title}, {metric.definition} ({direction} is better)"
        for key, summary in ((key, summary) for group in groups for key, summary in group.metrics.items()):
            if summary.reason:
                texts.setdefault(key, f"undefined here ({summary.reason})")
        parts.append(Sentence("Definitions:", places=("markdown",)))
        parts += [Sentence(f"`{key}`: {text}", "note", ("markdown",)) for key, text in texts.items()]
    return [*parts, *(Sentence(note, "note") for note in comparison.notes)]


def to_csv(comparison: Comparison) -> str:
    """One row per stream, method and metric: mean, standard deviation, and the value of every class order."""
    rows = [(group, [key], summary) for group in comparison.groups for key, summary in group.metrics.items()]
    return long_csv(["metric"], rows, comparison.mixed_by_stream())


def means_table(comparison: Comparison, stream: str) -> Table:
    """Mean ± standard deviation of the metrics one reads first."""
    groups, keys = comparison.streams[stream], headline(comparison, stream)
    columns = [Column("method", "text"), Column("orders", short="n")]
    for key in keys:
        places: tuple[Medium, ...] = ("markdown", "report") if key in _NOT_IN_TERMINAL else EVERYWHERE
        metric, probe = metric_of(key), key.partition("/")[2].replace("_", " ")
        title = f"{metric.title}: {probe}" if probe else metric.title
        columns.append(Column(title, "summary", metric.definition, places=places))
    rows = [
        cells(one.name, len(one.runs), *(summary_cell(one.metrics.get(key), key) for key in keys)) for one in groups
    ]
    return Table(f"{stream}: {over_n(groups)}, percent", columns, rows, comparison.key("headline", stream))


def orders_table(
    comparison: Comparison, stream: str, keys: Sequence[str], places: tuple[Medium, ...] = ("markdown", "report")
) -> Table:
    """Some metrics of every method in every class order."""
    groups = comparison.streams[stream]
    seeds = sorted({run.seed for group in groups for run in group.runs})
    rows = []
    for key in keys:
        unit = metric_of(key).unit
        for group in groups:
            mean = summary_cell(group.metrics.get(key), key)
            each = [TableCell(in_unit(key, value), value) for value in map(group.values(key).get, seeds)]
            name = key if unit == "%" else f"{key} ({unit})"
            rows.append(cells(name, group.label, TableCell(mean.text, mean.value, mean.spread), *each))
    columns = [*text_columns("metric", "method"), Column("mean", "summary"), *(Column(f"order {x}") for x in seeds)]
    title = f"{stream}: {'every metric in ' if 'report' in places else ''}every class order, percent"
    return Table(title, columns, rows, comparison.key("metrics", stream), folded=True, places=places)


def final_table(groups: Sequence[Group]) -> Table:
    """Accuracy after the last task by position of the task, averaged over class orders."""
    rows = []
    for group in groups:
        last = [run.matrix.value[-1] for run in group.runs]
        means = [statistics.fmean(row[j] for row in last) for j in range(len(last[0]))]
        rows.append(cells(group.label, *(number_cell(mean, scale=100) for mean in means)))
    columns = [Column("method", "text"), *(Column(f"task {j}") for j in range(1, len(last[0]) + 1))]
    title = f"Final {groups[0].measure} by position of the task, %"
    return Table(title, columns, rows, places=("terminal", "markdown"))


def headline(comparison: Comparison, stream: str) -> list[str]:
    """Metrics of the first table, in its order, those that the stream has."""
    defined = comparison.defined_metrics(stream)
    names = [name for name in HEADLINE if name not in FINAL or name == comparison.streams[stream][0].final_metric]
    return [key for name in names for key in defined if key.partition("/")[0] == name]


def community_parts(comparison: Comparison, community: Community) -> list[Part]:
    """One table for each stream, what its figures differ in from ours, and every column's definition."""
    parts: list[Part] = [Sentence(f"Source: {community.source}.", places=("markdown",))]
    figures = _in_columns_of(community, comparison.groups)
    for stream, groups in comparison.streams.items():
        own = [one for one in figures if one[0].stream == stream]
        rows = [
            cells(one.name, len(one.runs), *(summary_cell(summary) for group, _, summary in own if group is one))
            for one in groups
        ]
        columns = [Column("method", "text"), Column("n"), *(Column(one.header) for one in community.columns)]
        parts.append(Table(f"{stream} as {community.title} ({community.source}): {over_n(groups)}, %", columns, rows))
        parts.append(Sentence(f"{community.title}: {community.convention}.", "note"))
        # what differs from our metrics, and why there are dashes
        undefined: dict[tuple[str, str], list[str]] = {}
        for group, column, summary in own:
            if summary.reason:
                undefined.setdefault((column.header, summary.reason), []).append(group.label)
        headers: dict[str, list[str]] = {}
        for column in community.columns:
            if column.note:
                headers.setdefault(column.note, []).append(column.header)
        for (header, why), labels in undefined.items():
            headers.setdefault(f"undefined for {', '.join(labels)} ({why})", []).append(header)
        parts += [Sentence(f"{', '.join(names)}: {text}.", "note") for text, names in headers.items()]
    parts.append(Sentence("Definitions:", places=("markdown",)))
    for column in community.columns:
        ours = f"our `{column.by}`" if isinstance(column.by, str) else "not among our metrics"
        direction = "higher" if column.higher_is_better else "lower"
        text = f"{column.header}: {column.definition}, {ours} ({direction} is better)"
        parts.append(Sentence(text, "note", ("markdown",)))
    return [*parts, *(Sentence(note, "note", ("markdown",)) for note in comparison.notes)]


def community_to_csv(comparison: Comparison, community: Community) -> str:
    """One row per stream, method and column, as fractions: mean, standard deviation, value of every class order."""
    rows = [
        (group, [column.header, column.by if isinstance(column.by, str) else ""], summary)
        for group, column, summary in _in_columns_of(community, comparison.groups)
    ]
    return long_csv(["metric", "ours"], rows, comparison.mixed_by_stream(), {"community": community.name})


def _in_columns_of(community: Community, groups: Sequence[Group]) -> list[tuple[Group, TheirColumn, Summary]]:
    """Every column of a community over every group's class orders."""
    return [
        (group, column, summarise({run.seed: column.value(run.matrix) for run in group.runs}))
        for group in groups
        for column in community.columns
    ]
