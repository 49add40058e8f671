"""A comparison in the columns of other suites and papers (``eval.communities``): for the terminal, Markdown and CSV.

The figures come from the runs' matrices, so that every finished run has them. Terminal and Markdown show percent; CSV
holds fractions. Deliberately absent: paired differences and pictures, which are of our own metrics.
"""

from collections.abc import Sequence

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.compare import Comparison, Group, Summary, summarise
from clrft.analysis.formatting import Rows, raw
from clrft.analysis.tables import csv_text, markdown_table, mixed_by_stream, name_of, rich_table, show, spread_words
from eval.communities import COMMUNITIES, Community
from task_streams.errors import UserError, unknown_name


def communities_of(words: Sequence[str]) -> list[Community]:
    """The communities that words name, several of them joined by commas, each once.

    Raises:
        UserError: unknown names, all of them at once.
    """
    names = dict.fromkeys(name for word in words for name in word.split(",") if name)
    unknown = [unknown_name("community", name, COMMUNITIES) for name in names if name not in COMMUNITIES]
    if unknown:
        raise UserError(*unknown)
    return [COMMUNITIES[name] for name in names]


def community_to_terminal(comparison: Comparison, community: Community) -> RenderableType:
    """One table for each stream, with what its figures differ in from ours."""
    parts: list[RenderableType] = []
    for stream in comparison.streams():
        groups = comparison.of_stream(stream)
        title = f"{stream} as {community.title} ({community.source}): {spread_words(groups)}, %"
        parts.append(rich_table(title, *_table(groups, community)))
        parts += [Text(line, style="dim") for line in _footnotes(groups, community)]
    return RichGroup(*parts)


def community_to_markdown(comparison: Comparison, community: Community) -> str:
    """The same tables with every column's definition and our name for it."""
    lines = [f"# Metrics as {community.title}", "", f"Source: {community.source}.", ""]
    for stream in comparison.streams():
        groups = comparison.of_stream(stream)
        lines += [f"## {stream}", "", f"Percent; {spread_words(groups)}.", ""]
        lines += markdown_table(*_table(groups, community))
        lines += [*(f"- {line}" for line in _footnotes(groups, community)), ""]
    lines += ["## Definitions", ""]
    for column in community.columns:
        ours = f"our `{column.by}`" if isinstance(column.by, str) else "not among our metrics"
        direction = "higher" if column.higher_is_better else "lower"
        lines.append(f"- {column.header}: {column.definition}, {ours} ({direction} is better)")
    lines += ["", *(f"- {note}" for note in comparison.notes)]
    return "\n".join(lines).rstrip() + "\n"


def community_to_csv(comparison: Comparison, community: Community) -> str:
    """One row per stream, method and column, as fractions: mean, standard deviation, value of every class order."""
    seeds = sorted({run.seed for group in comparison.groups for run in group.runs})
    header = ["community", "stream", "method", "label", "metric", "ours", "n", "mean", "std", "undefined", "mixed"]
    mixed = mixed_by_stream(comparison)
    rows = []
    for group in comparison.groups:
        for column, summary in zip(community.columns, _summaries(group, community), strict=True):
            ours = column.by if isinstance(column.by, str) else ""
            named = [community.name, group.stream, group.method, group.label, column.header, ours]
            numbers = [str(len(summary.values)), raw(summary.mean), raw(summary.std), summary.reason or ""]
            values = [raw(summary.values[seed].value) if seed in summary.values else "" for seed in seeds]
            rows.append([*named, *numbers, mixed[group.stream], *values])
    return csv_text([*header, *(f"order_{seed}" for seed in seeds)], rows)


def _summaries(group: Group, community: Community) -> list[Summary]:
    """Every column of a community over a group's class orders."""
    return [summarise({run.seed: column.value(run.matrix) for run in group.runs}) for column in community.columns]


def _table(groups: Sequence[Group], community: Community) -> tuple[list[str], Rows]:
    rows = [[name_of(group), str(len(group.runs)), *map(show, _summaries(group, community))] for group in groups]
    return ["method", "n", *(column.header for column in community.columns)], rows


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
