"""The ledger of published and measured figures as tables: for the terminal, Markdown and CSV.

Terminal and Markdown show percent; CSV holds fractions. Deliberately absent: a measured figure without its differences.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.formatting import DASH, Rows, raw
from clrft.analysis.published_results import SOURCE, Departure, Entry, Measured, Planned, Published, published_rows
from clrft.analysis.tables import csv_text, markdown_table, rich_table, show

HEADER = ["table", "data", "tasks", "method", "published acc", "published F"]
HEADER += ["measured acc", "measured F", "n", "not as published in"]
_SHOWN = 64  # characters of a value in a sentence
CSV = (
    "source", "table", "dataset", "tasks", "method", "stream", "published_acc", "published_acc_std",
    "published_forgetting", "published_forgetting_std", "label", "n", "acc", "acc_std", "forgetting", "forgetting_std",
    "departures",
)  # fmt: skip


def ledger_to_terminal(entries: Sequence[Entry], plans: Sequence[Planned]) -> RenderableType:
    """Rows that something was measured of, or all if nothing was, the differences, and what the sweeps would run."""
    chosen = [entry for entry in entries if entry.measured] or list(entries)
    parts: list[RenderableType] = [rich_table(_title(entries), HEADER, ledger_rows(chosen))]
    parts += [Text(sentence) for sentence in sentences(chosen)]
    parts.append(rich_table("Published rows that the shipped sweeps run", PLANS, plan_rows(plans)))
    return RichGroup(*parts)


def ledger_to_markdown(entries: Sequence[Entry], plans: Sequence[Planned]) -> str:
    """Every published row with what was measured of it, the differences, and what the sweeps would run."""
    lines = ["# Published figures beside measured ones", "", f"{_title(entries)}.", ""]
    lines += [*markdown_table(HEADER, ledger_rows(entries)), "## Differences", ""]
    lines += [f"- {sentence}" for sentence in sentences(entries)]
    lines += ["", "## What the shipped sweeps run", "", *markdown_table(PLANS, plan_rows(plans))]
    return "\n".join(lines).rstrip() + "\n"


def ledger_to_csv(entries: Sequence[Entry]) -> str:
    """One row per published row and group of runs, as fractions; a published row without runs has one with gaps."""
    rows = []
    for entry in entries:
        one = entry.published
        named = [one.source, str(one.table), one.dataset, str(one.tasks), one.method, one.stream]
        given = [raw(value) for value in (one.acc, one.acc_std, one.forget, one.forget_std)]
        for beside in entry.measured or (None,):
            rows.append([*named, *given, *_raw_measured(beside)])
    return csv_text(CSV, rows)


def ledger_rows(entries: Iterable[Entry]) -> Rows:
    """Rows under ``HEADER``; a published row without runs has dashes."""
    rows = []
    for entry in entries:
        one = entry.published
        named = [str(one.table), one.dataset, str(one.tasks), one.method, _figure(one.acc, one.acc_std)]
        named.append(_figure(one.forget, one.forget_std))
        for beside in entry.measured:
            apart = ", ".join(_kinds(beside.departures))
            rows.append([*named, show(beside.acc), show(beside.forget), str(len(beside.seeds)), apart])
        if not entry.measured:
            rows.append([*named, DASH, DASH, "0", DASH])
    return rows


PLANS = ["sweep", "tables", "rows", "not as published in"]


def plan_rows(plans: Iterable[Planned]) -> Rows:
    """Rows under ``PLANS``."""
    return [
        [plan.sweep, tables_of(plan.rows), _named(plan.rows), "; ".join(map(told, plan.departures))] for plan in plans
    ]


def tables_of(rows: Iterable[Published]) -> str:
    """Which tables some rows are, or are of, and of which they hold none."""
    held, whole = Counter(row.table for row in rows), Counter(row.table for row in published_rows())
    kinds = {
        "whole": [table for table in whole if held[table] == whole[table]],
        "in part": [table for table in whole if 0 < held[table] < whole[table]],
        "none of": [table for table in whole if not held[table]],
    }
    return "; ".join(f"{kind} {', '.join(map(str, some))}" for kind, some in kinds.items() if some)


def sentences(entries: Iterable[Entry]) -> list[str]:
    """For all runs in one sentence each kind of difference, setting by setting."""
    found: dict[tuple[Departure, ...], list[str]] = {}
    for entry in entries:
        for beside in entry.measured:
            name = f"{entry.published.dataset} {entry.published.tasks} {beside.label}"
            found.setdefault(beside.departures, []).append(name)
    return [
        f"{', '.join(names)}: {why}: {'; '.join(told(one) for one in apart if one.why == why)}."
        for apart, names in found.items()
        for why in dict.fromkeys(one.why for one in apart)
    ]


def told(one: Departure) -> str:
    """A difference with both values."""
    return f"{one.name}: {_short(one.here)}, published: {_short(one.published)}"


def _short(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[: _SHOWN - 1]}…"


def _kinds(departures: Iterable[Departure]) -> list[str]:
    return list(dict.fromkeys(one.name.partition(".")[0] for one in departures))


def _named(rows: Iterable[Published]) -> str:
    methods: dict[str, list[str]] = {}
    for row in rows:
        methods.setdefault(f"{row.dataset} {row.tasks}", []).append(row.method)
    by_methods: dict[str, list[str]] = {}
    for name, some in methods.items():
        by_methods.setdefault(", ".join(some), []).append(name)
    return "; ".join(f"{', '.join(names)}: {some}" for some, names in by_methods.items())


def _title(entries: Sequence[Entry]) -> str:
    count = sum(bool(entry.measured) for entry in entries)
    return f"{SOURCE}, percent, three class orders; runs of its streams and methods: {count} of {len(entries)} rows"


def _figure(mean: float | None, std: float | None) -> str:
    if mean is None:
        return DASH
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def _raw_measured(beside: Measured | None) -> list[str]:
    if beside is None:
        return [""] * 7
    numbers = [raw(value) for one in (beside.acc, beside.forget) for value in (one.mean, one.std)]
    return [beside.label, str(len(beside.seeds)), *numbers, "; ".join(told(one) for one in beside.departures)]
