"""The files beside a page: every table as CSV and LaTeX, every picture as PDF and PNG."""

from collections.abc import Iterable
from pathlib import Path

from clrft.analysis.outputs import ENDINGS, save_picture
from clrft.analysis.tables import csv_text, raw
from clrft.report.latex import to_latex
from clrft.report.parts import Cell, Column, Section, Table
from clrft.utils.files import write_text_atomic

TABLES, FIGURES = "tables", "figures"


def write_files(sections: Iterable[Section], out_dir: Path) -> list[Path]:
    """Write tables and pictures below a folder; returns the files."""
    paths = []
    for name in (TABLES, FIGURES):
        (out_dir / name).mkdir(parents=True, exist_ok=True)
    for section in sections:
        for table in section.tables:
            for ending, text in (("csv", to_csv(table)), ("tex", to_latex(table))):
                paths.append(out_dir / TABLES / f"{table.key}.{ending}")
                write_text_atomic(paths[-1], text)
        for picture in section.pictures:
            for ending in ENDINGS:
                paths.append(out_dir / FIGURES / f"{picture.key}.{ending}")
                save_picture(picture.figure, paths[-1])
                picture.figure.set_layout_engine("none")  # laid out once
    return paths


def to_csv(table: Table) -> str:
    """A table to be computed with: numbers as they are (fractions), a summary's spread in a column of its own."""
    header = [name for column in table.columns for name in _names(column)]
    rows = [
        [text for column, cell in zip(table.columns, row, strict=True) for text in _texts(column, cell)]
        for row in table.rows
    ]
    return csv_text(header, rows)


def _names(column: Column) -> list[str]:
    return [column.name, f"{column.name} std"] if column.kind == "summary" else [column.name]


def _texts(column: Column, cell: Cell) -> list[str]:
    if column.kind == "text":
        return [cell.text]
    own = raw(cell.value)
    return [own, raw(cell.spread)] if column.kind == "summary" else [own]
