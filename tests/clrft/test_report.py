"""The report: a page that is well formed and escapes what anybody wrote, its answers, and the files beside it."""

import csv
import shutil
import subprocess
from pathlib import Path
from typing import Any

import html5lib
import pytest
from PIL import Image

from clrft.analysis.compare import compare
from clrft.analysis.render import latex, to_csv, to_latex
from clrft.analysis.table import Column, Table, TableCell
from clrft.cli.main import main
from clrft.report.headline import answers
from clrft.report.page import policy
from clrft.report.vector import PAPER, contrast, recoloured
from clrft.runs.read import RunRecord, read_run
from tests.clrft.run_folders import EVIL, write_run

SECTIONS = (
    *("answer", "matrices", "curves", "plane", "pairs", "kinds", "why", "ability", "costs", "samples", "ledger"),
    *("settings", "origin", "left-out", "definitions"),
)


def run(sweep: Path, method: str, seed: int, forgotten: int) -> RunRecord:
    """A run of two tasks that learns 90 % of both and then forgets so many points of the first."""
    return read_run(write_run(sweep, method, seed, [[90, None], [90 - forgotten, 90]]))


def parsed(report: Path, strict: bool = False) -> Any:
    parser = html5lib.HTMLParser(strict=strict, namespaceHTMLElements=False)
    return parser.parse((report / "index.html").read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_has_every_section_in_order(report: Path) -> None:
    page = parsed(report, strict=True)
    assert [section.get("id") for section in page.iter("section")] == list(SECTIONS)
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(svg.get("aria-label") for svg in page.iter("{http://www.w3.org/2000/svg}svg"))


def test_what_anybody_wrote_is_text_and_never_markup(report: Path) -> None:
    page = parsed(report)
    assert len(list(page.iter("script"))) == 1
    assert all(image.get("src", "").startswith("data:image/") for image in page.iter("img"))
    assert not [name for element in page.iter() for name in element.attrib if str(name).startswith("on")]
    assert not [element for element in page.iter() if element.get("style")]  # the policy would block it
    texts = ["".join(element.itertext()) for element in page.iter("td")]
    assert EVIL in texts  # shown as it is: the setting of sft


def test_nothing_in_the_page_points_outside_of_its_folder(report: Path) -> None:
    page = parsed(report)
    links = [element.get("href") for element in page.iter("a")]
    inside, files = [link[1:] for link in links if link.startswith("#")], [x for x in links if not x.startswith("#")]
    assert set(inside) <= {element.get("id") for element in page.iter()}
    assert files and all((report / link).is_file() for link in files)
    assert {Path(link).suffix for link in files} == {".csv", ".tex", ".pdf", ".png"}


def test_sections_say_what_was_not_measured(report: Path) -> None:
    text = (report / "index.html").read_text(encoding="utf-8")
    assert "no run counted what it cost" in text
    assert "was compared with the policies before it" in text
    assert "the images cannot be shown" in text.lower() or "no images are shown" in text.lower()
    assert "half-done" in text and "incomplete" in text


def test_a_report_beside_runs_is_no_foreign_folder(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(report.parent), "-o", str(report.parent.parent / "elsewhere")]) == 0
    assert "foreign" not in capsys.readouterr().out


def test_pictures_open_and_tables_have_the_numbers(report: Path) -> None:
    assert (report / "figures" / "curves.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(report / "figures" / "curves.png") as image:
        assert image.width > 800
    rows = list(csv.DictReader((report / "tables" / "headline.csv").open(encoding="utf-8")))
    # grpo forgets 0 in order 1 and 100 points in order 2: mean 0.5, s = sqrt((0.25 + 0.25) / 1) = 0.7071
    (grpo,) = [row for row in rows if row["method"] == "grpo"]
    assert float(grpo["forgetting"]) == pytest.approx(0.5)
    assert float(grpo["forgetting std"]) == pytest.approx(0.70711, abs=1e-5)
    caption = r"\caption{digits\_cil: paired differences over class orders, percentage points, 95 \% interval}"
    assert caption in (report / "tables" / "pairs.tex").read_text(encoding="utf-8")


def test_csv_holds_numbers_and_latex_what_is_shown_in_which_no_character_is_a_command() -> None:
    columns = (Column("method", "text"), Column("forgetting", "summary"), Column("tasks"))
    rows = (
        (TableCell("a_b"), TableCell("50.0 ± 1.0", 0.5, 0.01), TableCell("2", 2.0)),
        (TableCell("x, y"), TableCell("–"), TableCell("–")),
    )
    table = Table("100 % of A & B", columns, rows, "t")
    assert to_csv(table) == 'method,forgetting,forgetting std,tasks\na_b,0.5,0.01,2.0\n"x, y",,,\n'
    assert r"a\_b & 50.0 $\pm$ 1.0 & 2 \\" in to_latex(table)
    assert r"\caption{100 \% of A \& B}" in to_latex(table)
    assert r"\begin{tabular}{lrr}" in to_latex(table)
    assert latex(r"\input{x}$_%#&~^") == r"\textbackslash{}input\{x\}\$\_\%\#\&\textasciitilde{}\textasciicircum{}"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_table_compiles_as_latex(report: Path, tmp_path: Path) -> None:
    names = sorted((report / "tables").glob("*.tex"))
    body = "\n".join(path.read_text(encoding="utf-8") + "\\clearpage" for path in names)
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage[utf8]{inputenc}\\usepackage{booktabs}"
    (tmp_path / "all.tex").write_text(f"{head}\\begin{{document}}{body}\\end{{document}}", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(
    ("grpo", "answer", "more"),
    [
        ([30], "Undecided: in 1 class order grpo forgets 10.0 points less than sft", ""),
        # grpo - sft: -10, +5, -5: mean -3.3, s = 7.6, half = 4.3027 * 7.638 / sqrt 3 = 18.97, from -22.3 to +15.6
        ([30, 45, 35], "Undecided: grpo forgets 3.3 points less than sft", "−22.3 to +15.6"),
        ([21, 22, 23], "Probably grpo, but from few class orders: it forgets 18.0", ""),
        # -19, -18, …, -14: mean -16.5; all of one sign: p = 2 / 2^6 = 0.03125
        ([21, 22, 23, 24, 25, 26], "grpo forgets least: 16.5 points less than sft", "p = 0.031"),
    ],
)
def test_the_answer_is_as_sure_as_the_class_orders_allow(
    grpo: list[int], answer: str, more: str, tmp_path: Path
) -> None:
    records = [run(tmp_path / "s", "sft", seed, 40) for seed in range(len(grpo))]
    records += [run(tmp_path / "s", "grpo", seed, forgotten) for seed, forgotten in enumerate(grpo)]
    found = answers(compare(records).groups)
    assert found[0].startswith(answer) and more in " ".join(found[:2])


def test_dark_colours_are_readable() -> None:
    for colour in ("#000000", "#222222", "#0072b2", "#332288", "#882255", "#d55e00"):
        dark = recoloured(colour)
        assert contrast(tuple(int(dark[at : at + 2], 16) for at in (1, 3, 5)), PAPER) >= 4.5  # type: ignore[arg-type]
    assert recoloured("#ffffff") == "#14171c"  # what was paper stays paper


def test_the_policy_allows_the_pages_own_style_and_script_only() -> None:
    # sha256 of the empty text in base64
    empty = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert policy("", "").startswith(f"default-src 'none'; style-src '{empty}'; script-src '{empty}'; img-src data:;")
