"""What a page is made of: sections of sentences, tables, pictures, and blocks that have a template of their own.

Texts are plain texts, whoever wrote them: the templates escape them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from matplotlib.figure import Figure

from clrft.analysis.compare import Comparison, Group, Summary
from clrft.analysis.formatting import DASH, in_unit
from clrft.analysis.rewards import RewardReport, reward_report
from clrft.analysis.tables import show
from clrft.analysis.taxonomy import KindReport, kind_report
from clrft.runs.read import LeftOut

_NO_KEY = re.compile(r"[^A-Za-z0-9._]+")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        value: the number that it is sorted by and that CSV holds; None = the text itself.
        spread: standard deviation beside the value, for CSV.
        orders: every class order's value as shown, shown on demand.
    """

    text: str
    value: float | None = None
    spread: float | None = None
    orders: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, what its cells hold, and what the name means.

    ``summary`` cells hold a mean with its spread, ``number`` cells a number, ``text`` cells a text.
    """

    name: str
    kind: Literal["text", "number", "summary"] = "number"
    explained: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page, also written as CSV and LaTeX.

    Attributes:
        key: its file name without ending, and its place in the page.
        title: caption.
        columns: the first one names the rows.
        rows: cells by row.
        note: a sentence below it.
        folded: shown on demand.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False

    @property
    def has_orders(self) -> bool:
        """Whether cells have values of single class orders."""
        return any(cell.orders for row in self.rows for cell in row)


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the page, also written as PDF and PNG.

    Attributes:
        key: its file name without ending, and its place in the page.
        title: caption.
        described: what it shows, for those who cannot see it.
        figure: the drawing.
        table: the numbers behind it; None only where another table of the section holds them (then ``note`` says so).
        note: a sentence below it.
    """

    key: str
    title: str
    described: str
    figure: Figure
    table: Table | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section, e.g. the stream that follows."""

    text: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """A paragraph; ``weight``: an answer, ordinary text, a note in small print, or that something is missing."""

    text: str
    weight: Literal["answer", "text", "note", "missing"] = "text"


@dataclass(frozen=True, slots=True)
class Block:
    """A part with a template of its own, ``page/<template>.html``.

    Attributes:
        template: its name.
        values: what the template shows.
        picture: its figure and table for the files beside the page.
    """

    template: str
    values: Mapping[str, Any]
    picture: Picture | None = None


Part = Table | Picture | Heading | Sentence | Block


@dataclass(frozen=True, slots=True)
class Section:
    """One section; what was not measured is said in a sentence, never left out."""

    key: str
    title: str
    parts: tuple[Part, ...] = field(default=())

    @property
    def tables(self) -> list[Table]:
        """Its tables, those behind pictures among them."""
        behind = [picture.table for picture in self.pictures if picture.table is not None]
        return [*(part for part in self.parts if isinstance(part, Table)), *behind]

    @property
    def pictures(self) -> list[Picture]:
        """Its pictures, those of blocks among them."""
        own = [part.picture if isinstance(part, Block) else part for part in self.parts]
        return [picture for picture in own if isinstance(picture, Picture)]


@dataclass(frozen=True)
class Subject:
    """What tables, pictures and a report are about; what they share is computed when it is first asked for, and once.

    Attributes:
        comparison: the runs, compared.
        left_out: folders that are not compared, and why.
    """

    comparison: Comparison
    left_out: tuple[LeftOut, ...] = ()

    @cached_property
    def kinds(self) -> KindReport:
        """The kinds of forgetting; they are read from every single answer, 20 ms or more a run."""
        return kind_report(self.comparison)

    @cached_property
    def rewards(self) -> RewardReport:
        """What rewards were made of.

        Raises:
            UserError: a file of steps is damaged.
        """
        return reward_report(self.comparison)

    @property
    def streams(self) -> list[str]:
        """Names of the streams, in order of appearance."""
        return self.comparison.streams()

    def groups(self, stream: str) -> list[Group]:
        """The stream's methods, in the order in which they are shown."""
        return self.comparison.of_stream(stream)

    def key(self, name: str, stream: str) -> str:
        """File name of a part of a stream, without ending; the stream is named where there are several."""
        if len(self.streams) == 1:
            return name
        return f"{name}-{self.streams.index(stream) + 1}-{_NO_KEY.sub('-', stream)[:40]}"

    def heading(self, stream: str) -> list[Part]:
        """A heading that names the stream where there are several."""
        return [Heading(stream)] if len(self.streams) > 1 else []


def text_cells(texts: Sequence[str]) -> tuple[Cell, ...]:
    """Cells that hold texts."""
    return tuple(Cell(text) for text in texts)


def number_cell(value: float | None, digits: int = 1, scale: float = 1.0, sign: bool = False) -> Cell:
    """A number as shown, scaled (100 for percent); a dash where there is none."""
    if value is None:
        return Cell(DASH)
    text = f"{scale * value:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return Cell(text, float(value))


def summary_cell(summary: Summary | None, key: str = "last_acc") -> Cell:
    """Mean ± standard deviation in a metric's unit, percent by default, with every class order's value."""
    if summary is None:
        return Cell(DASH)
    orders = [(str(seed), _minus(in_unit(key, value.value))) for seed, value in summary.values.items()]
    return Cell(_minus(show(summary, key)), summary.mean, summary.std, tuple(orders))


def _minus(text: str) -> str:
    return text.replace("-", "−")
