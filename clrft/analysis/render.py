"""Tables and sentences as text: for the terminal (rich), Markdown, CSV and LaTeX. The page's templates are HTML.

Terminal, Markdown and LaTeX show percent where a table does; CSV holds fractions, to be computed with.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich import table as rich
from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from clrft.analysis.groups import Group
from clrft.analysis.table import Part, Sentence, Summary, Table

FORMULA = tuple("=+-@\t\r")  # what a spreadsheet takes for the beginning of one
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|nan)", re.IGNORECASE | re.ASCII)
_LABEL_WIDTH = 32  # longer labels are wrapped
_WHOLE = ("method", "difference", "shaper", "but")  # columns of labels, beside the first
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{"|": r"\textbar{}", '"': r"\textquotedbl{}", "–": "--", "—": "---", "…": r"\ldots{}", "\n": " "},
    **{"±": r"$\pm$", "−": "$-$", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$", "→": r"$\to$", "Σ": r"$\Sigma$"},
    **{"σ": r"$\sigma$", "τ": r"$\tau$", "ρ": r"$\rho$", "Δ": r"$\Delta$", "√": r"$\surd$", "∞": r"$\infty$"},
    **{"₁": "$_1$", "₂": "$_2$"},
}
LATEX_HEAD = "% Needs \\usepackage{booktabs} and, for texts that are not English, UTF-8 input."


class Figures(NamedTuple):
    """What a row of a long CSV file holds: a mean with its spread, and the value of every class order by its seed."""

    n: int
    mean: float | None
    std: float | None
    reason: str | None
    values: Mapping[int, float | None]


def to_terminal(parts: Iterable[Part]) -> RenderableType:
    """Parts one below the other."""
    shown: list[RenderableType] = []
    for part in parts:
        if "terminal" not in part.places:
            continue
        if isinstance(part, Sentence):
            shown.append(Text(part.text, style="bold" if part.weight == "heading" else ""))
            continue
        table = part.for_medium("terminal")
        texts = [[cell.text for cell in row] for row in table.rows]
        kinds = [column.kind == "text" for column in table.columns]
        shown.append(rich_table(table.title, [column.short or column.name for column in table.columns], texts, kinds))
        shown += [Text(table.note, style="dim")] if table.note else []
    return RichGroup(*shown)


def rich_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[bool] = ()
) -> rich.Table:
    """A table for the terminal; a line parts the metrics or, where a first cell is empty, the rows above it.

    ``texts``: which columns hold texts; by default the first, and one called ``but``.
    """
    look: Any = {"title_justify": "left", "title_style": "bold", "pad_edge": False, "collapse_padding": True}
    table = rich.Table(title=title, box=box.SIMPLE_HEAD, **look)
    texts = texts or [number == 0 or name == "but" for number, name in enumerate(header)]
    for number, (name, text) in enumerate(zip(header, texts, strict=True)):
        whole = text and (number == 0 or name in _WHOLE) and all(len(row[number]) <= _LABEL_WIDTH for row in rows)
        table.add_column(escape(name), justify="left" if text else "right", overflow="fold", no_wrap=whole)
    parted = header[0] == "metric" or any(not row[0] for row in rows)
    last = rows[0][0] if rows else ""
    for row in rows:
        if parted and row[0] and row[0] != last:
            table.add_section()
        last = row[0]
        table.add_row(*map(escape, row))
    return table


def to_markdown(parts: Iterable[Part], title: str = "", level: int = 2) -> str:
    """Parts below a title; notes as a list, headings of a level, captions of tables of the next."""
    text = f"# {title}\n" if title else ""
    marks = {"heading": f"{'#' * level} ", "note": "- ", "missing": "- "}
    before = ""
    for part in parts:
        if "markdown" not in part.places:
            continue
        mark = marks.get(part.weight, "") if isinstance(part, Sentence) else ""
        text += "" if mark == before == "- " else "\n"
        before = mark
        if isinstance(part, Table):
            text += "\n".join([f"#{'#' * level} {part.title}", "", *markdown_table(part)])
        else:
            text += f"{mark}{part.text}\n"
    return text.rstrip() + "\n"


def markdown_table(table: Table) -> list[str]:
    """Lines of a Markdown table and its note, with an empty one at the end."""
    table = table.for_medium("markdown")
    rule = ["---" if column.kind == "text" else "---:" for column in table.columns]
    rows = [[column.name for column in table.columns], rule, *([cell.text for cell in row] for row in table.rows)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [*lines, *(["", table.note] if table.note else []), ""]


def to_csv(table: Table) -> str:
    """A table as the report has it: numbers as they are (fractions), a summary's spread in a column of its own."""
    table = table.for_medium("report")
    header: list[str] = []
    for column in table.columns:
        header += [column.name, f"{column.name} std"] if column.kind == "summary" else [column.name]
    rows = []
    for row in table.rows:
        fields: list[str | float | None] = []
        for column, cell in zip(table.columns, row, strict=True):
            fields.append(cell.text if column.kind == "text" else cell.value)
            fields += [cell.spread] if column.kind == "summary" else []
        rows.append(fields)
    return csv_text(header, rows)


def to_latex(table: Table) -> str:
    """The table with booktabs as a ``table`` environment to be included as it is, its note below it."""
    table = table.for_medium("report")
    alignment = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    rows = []
    for texts in ([column.name for column in table.columns], *([cell.text for cell in row] for row in table.rows)):
        first, *more = map(latex, texts)
        first = "{}" * first.startswith("[") + first  # behind a line's end it would be read as an option
        rows.append(" & ".join([first, *more]) + r" \\")
    lines = [
        LATEX_HEAD,
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(table.title)}}}",
        rf"\label{{tab:{table.key}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
    ]
    if table.note:
        lines.append(rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\footnotesize {latex(table.note)}}} \\")
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}", ""])


def latex(text: str) -> str:
    """A text in which no character is a command."""
    return "".join(_LATEX.get(character, character) for character in text if character >= " " or character == "\n")


def long_csv(
    names: Sequence[str],
    rows: Iterable[tuple[Group, Sequence[str | int], Summary | Figures]],
    mixed: Mapping[str, str],
    first: Mapping[str, str] | None = None,
) -> str:
    """One row per stream, method and figure: mean, standard deviation, and the value of every class order.

    Args:
        names: of the columns between the method and its figures.
        rows: group, texts of these columns, figures.
        mixed: by stream, what was mixed on request.
        first: columns before all others, the same in every row.
    """
    first, rows = first or {}, list(rows)
    seeds = sorted({run.seed for group, _, _ in rows for run in group.runs})
    header = [*first, "stream", "method", "label", *names, "n", "mean", "std", "undefined", "mixed"]
    lines = []
    for group, texts, one in rows:
        if isinstance(one, Summary):
            values = {seed: value.value for seed, value in one.values.items()}
            one = Figures(len(values), one.mean, one.std, one.reason, values)
        named = [*first.values(), group.stream, group.method, group.label, *texts]
        lines.append([*named, *one[:4], mixed[group.stream], *map(one.values.get, seeds)])
    return csv_text([*header, *(f"order_{seed}" for seed in seeds)], lines)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A header and rows as CSV: numbers with all of their digits, nothing where there is None.

    A text that a spreadsheet would take for a formula has a ' in front (OWASP, CSV injection).
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([f"'{cell}" if is_formula(cell) else cell for cell in row] for row in (header, *rows))
    return text.getvalue()


def is_formula(cell: object) -> bool:
    """Whether a spreadsheet would work a text out: it begins like a formula and is no number."""
    return isinstance(cell, str) and cell.startswith(FORMULA) and len(cell) > 1 and not _NUMBER.fullmatch(cell)
