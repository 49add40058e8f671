"""A table, and what stands beside it: one form that the terminal, Markdown, CSV, LaTeX and the report's page show.

Texts are plain texts, whoever wrote them: what shows them escapes them (``clrft.analysis.render``, the page's
templates). Light to import.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eval.metrics import Value, metric_of

DASH = "–"
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
Medium = Literal["terminal", "markdown", "report"]
EVERYWHERE: tuple[Medium, ...] = ("terminal", "markdown", "report")


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric of one method over class orders, as fractions."""

    values: Mapping[int, Value]  # value by seed of the class order
    mean: float | None  # arithmetic mean; None when an order is undefined
    std: float | None  # sample standard deviation (n - 1); None for one order or without a mean
    reason: str | None = None  # why there is no mean

    def known(self) -> dict[int, float]:
        """The values that are defined, by seed of the class order."""
        return {seed: value.value for seed, value in self.values.items() if value.value is not None}


@dataclass(frozen=True, slots=True)
class TableCell:
    """One cell of a table."""

    text: str  # what is shown
    value: float | None = None  # the number that it is sorted by and that CSV holds; None = the text itself
    spread: float | None = None  # standard deviation beside the value, for CSV
    orders: tuple[tuple[str, str], ...] = ()  # every class order's value as shown, shown on demand


@dataclass(frozen=True, slots=True)
class Column:
    """One column; cells of the kind ``summary`` hold a mean with its spread."""

    name: str  # its header
    kind: Literal["text", "number", "summary"] = "number"
    explained: str = ""  # what the name means
    short: str = ""  # header in the terminal, where the name is too wide for it
    places: tuple[Medium, ...] = EVERYWHERE  # where the column is shown


@dataclass(frozen=True, slots=True)
class Table:
    """A table."""

    title: str  # caption
    columns: Sequence[Column]  # the first one names the rows
    rows: Sequence[Sequence[TableCell]]  # cells by row
    key: str = ""  # its file name without ending, and its place in the report; empty for a table that the report lacks
    note: str = ""  # a sentence below it
    folded: bool = False  # shown on demand on the page
    places: tuple[Medium, ...] = EVERYWHERE  # where the table is shown

    @property
    def has_orders(self) -> bool:
        """Whether cells have values of single class orders, which the page's template shows on demand."""
        return any(cell.orders for row in self.rows for cell in row)

    def for_medium(self, place: Medium) -> "Table":
        """The table with the columns that one place shows."""
        kept = [number for number, column in enumerate(self.columns) if place in column.places]
        columns = tuple(self.columns[number] for number in kept)
        return replace(self, columns=columns, rows=tuple(tuple(row[number] for number in kept) for row in self.rows))


@dataclass(frozen=True, slots=True)
class Sentence:
    """A paragraph; ``weight``: a heading, an answer, ordinary text, a note, or that something is missing."""

    text: str
    weight: Literal["heading", "answer", "text", "note", "missing"] = "text"
    places: tuple[Medium, ...] = EVERYWHERE


Part = Sentence | Table


def percent(value: float | None, sign: bool = False) -> str:
    """A fraction in percent, a difference of fractions with its sign; a dash where there is none."""
    return number_cell(value, scale=100, sign=sign).text


def short(value: float) -> str:
    """A number in three digits with a prefix: ``1.23 T``; below a thousand as it is."""
    place = 0
    while abs(value) >= 999.5 and place + 1 < len(PREFIXES):
        value, place = value / 1000, place + 1
    return f"{value:.3g} {PREFIXES[place]}".strip()


def in_unit(key: str, value: float | None, spread: float | None = None) -> str:
    """A metric's value in its unit, percent or as it is, with its standard deviation."""
    digits, scale = (1, 100.0) if metric_of(key).unit == "%" else (4, 1.0)
    return number_cell(value, digits, scale, spread=spread).text


def show(summary: Summary | None, key: str = "last_acc") -> str:
    """Mean ± standard deviation in a metric's unit, percent by default; a dash when undefined, no ± for one order."""
    return DASH if summary is None else in_unit(key, summary.mean, summary.std)


def cells(*values: str | int | TableCell) -> list[TableCell]:
    """A row: texts and whole numbers as cells, beside cells that were made before."""
    return [
        value
        if isinstance(value, TableCell)
        else TableCell(str(value), float(value) if isinstance(value, int) else None)
        for value in values
    ]


def text_columns(*names: str) -> list[Column]:
    """Columns that hold texts."""
    return [Column(name, "text") for name in names]


def number_cell(
    value: float | None, digits: int = 1, scale: float = 1.0, sign: bool = False, spread: float | None = None
) -> TableCell:
    """A number as shown, scaled (100 for percent), with its standard deviation; a dash where it is None or NaN."""
    if value is None or math.isnan(value):
        return TableCell(DASH)
    text = f"{scale * value + 0.0:{'+' if sign else ''}.{digits}f}"  # plus 0: no negative zero
    text += "" if spread is None else f" ± {scale * spread:.{digits}f}"
    return TableCell(text.replace("-", "−"), float(value), None if spread is None else float(spread))


def summary_cell(summary: Summary | None, key: str = "last_acc") -> TableCell:
    """Mean ± standard deviation in a metric's unit, percent by default, with every class order's value."""
    if summary is None:
        return TableCell(DASH)
    orders = tuple((str(seed), in_unit(key, value.value)) for seed, value in summary.values.items())
    return TableCell(show(summary, key), summary.mean, summary.std, orders)
