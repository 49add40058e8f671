"""Tables as LaTeX with booktabs, each a ``table`` environment to be included as it is; every text escaped."""

from clrft.report.parts import Table

_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "\n": " ",
    **{
        mark: f"${command}$"
        for mark, command in {
            "±": r"\pm",
            "−": "-",
            "×": r"\times",
            "≤": r"\le",
            "≥": r"\ge",
            "→": r"\to",
            "Σ": r"\Sigma",
            "σ": r"\sigma",
            "τ": r"\tau",
            "ρ": r"\rho",
            "Δ": r"\Delta",
            "√": r"\surd",
            "∞": r"\infty",
            "₁": "_1",
            "₂": "_2",
        }.items()
    },
}
HEAD = "% Needs \\usepackage{booktabs} and, for texts that are not English, UTF-8 input."


def to_latex(table: Table) -> str:
    """The table as a ``table`` environment, its note below it."""
    width = len(table.columns)
    alignment = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    lines = [
        HEAD,
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(table.title)}}}",
        rf"\label{{tab:{table.key}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        _row([column.name for column in table.columns]),
        r"\midrule",
        *(_row([cell.text for cell in row]) for row in table.rows),
        r"\bottomrule",
    ]
    if table.note:
        lines.append(rf"\multicolumn{{{width}}}{{l}}{{\footnotesize {escape(table.note)}}} \\")
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}", ""])


def escape(text: str) -> str:
    """A text in which no character is a command."""
    return "".join(_ESCAPES.get(character, character) for character in text if character >= " " or character == "\n")


def _row(texts: list[str]) -> str:
    cells = [escape(text) for text in texts]
    if cells and cells[0].startswith("["):
        cells[0] = "{}" + cells[0]  # behind a line's end it would be read as an option
    return " & ".join(cells) + r" \\"
