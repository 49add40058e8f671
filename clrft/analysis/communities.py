"""A comparison in the columns of other suites and papers (``eval.communities``): for the terminal, Markdown and CSV.

The figures come from the runs' matrices, so that every finished run has them. Deliberately absent: paired differences
and pictures, which are of our own metrics.
"""

from collections.abc import Sequence

from clrft.analysis.compare import Comparison, Group, over_n, summarise
from clrft.analysis.render import long_csv
from clrft.analysis.table import Column, Part, Sentence, Summary, Table, cells, summary_cell
from eval.communities import Community


def community_parts(comparison: Comparison, community: Community) -> list[Part]:
    """One table for each stream, what its figures differ in from ours, and every column's definition."""
    parts: list[Part] = [Sentence(f"Source: {community.source}.", places=("markdown",))]
    for stream in comparison.streams():
        groups = comparison.of_stream(stream)
        rows = [cells(one.name, len(one.runs), *map(summary_cell, _summaries(one, community))) for one in groups]
        columns = [Column("method", "text"), Column("n"), *(Column(one.header) for one in community.columns)]
        parts.append(Table(f"{stream} as {community.title} ({community.source}): {over_n(groups)}, %", columns, rows))
        parts += [Sentence(text, "note") for text in _footnotes(groups, community)]
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
        for group in comparison.groups
        for column, summary in zip(community.columns, _summaries(group, community), strict=True)
    ]
    return long_csv(["metric", "ours"], rows, comparison.mixed_by_stream(), {"community": community.name})


def _summaries(group: Group, community: Community) -> list[Summary]:
    """Every column of a community over a group's class orders."""
    return [summarise({run.seed: column.value(run.matrix) for run in group.runs}) for column in community.columns]


def _footnotes(groups: Sequence[Group], community: Community) -> list[str]:
    """How figures are written there, what differs from our metrics, and why there are dashes."""
    undefined: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        for column, summary in zip(community.columns, _summaries(group, community), strict=True):
            if summary.reason:
                undefined.setdefault((column.header, summary.reason), []).append(group.label)
    told = [(column.header, column.note) for column in community.columns if column.note]
    told += [(header, f"undefined for {', '.join(labels)} ({why})") for (header, why), labels in undefined.items()]
    headers: dict[str, list[str]] = {}
    for header, text in told:
        headers.setdefault(text, []).append(header)
    lines = [f"{', '.join(names)}: {text}." for text, names in headers.items()]
    return [f"{community.title}: {community.convention}.", *lines]
