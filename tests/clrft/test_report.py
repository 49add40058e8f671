"""The report: a page that is well formed and escapes what anybody wrote, its answers, its files, and MLflow."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import html5lib
import pytest
from mlflow import MlflowClient
from PIL import Image

from clrft.analysis.compare import compare
from clrft.analysis.render import latex, to_csv, to_latex
from clrft.analysis.table import Column, Table, TableCell
from clrft.cli.main import main
from clrft.report.comparison import reported
from clrft.report.headline import answers
from clrft.report.page import policy
from clrft.report.parts import Subject
from clrft.report.vector import PAPER, contrast, recoloured
from clrft.runs.read import find_runs
from clrft.tracking.runs import Tracker
from clrft.tracking.store import tracking_uri
from tests.clrft.run_folders import EVIL, csv_row, hostile_sweep, record
from tests.clrft.stores import preparation, root

__all__ = ["preparation", "root"]
SECTIONS = (
    "answer matrices curves plane pairs kinds why ability costs samples ledger settings origin left-out definitions"
)


@pytest.fixture(scope="module")
def text(report: Path) -> str:
    return (report / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Any:
    """The elements; a page that is not well formed is refused."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def test_the_page_has_every_section_in_order_and_says_what_was_not_measured(page: Any, text: str) -> None:
    assert [section.get("id") for section in page.iter("section")] == SECTIONS.split()
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(svg.get("aria-label") for svg in page.iter("{http://www.w3.org/2000/svg}svg"))
    assert "no run counted what it cost" in text and "was compared with the policies before it" in text
    assert "the images cannot be shown" in text.lower() or "no images are shown" in text.lower()
    assert "half-done" in text and "incomplete" in text


def test_what_anybody_wrote_is_text_and_never_markup(page: Any) -> None:
    assert len(list(page.iter("script"))) == 1
    assert all(image.get("src", "").startswith("data:image/") for image in page.iter("img"))
    assert not [name for element in page.iter() for name in element.attrib if str(name).startswith("on")]
    assert not [element for element in page.iter() if element.get("style")]  # the policy would block it
    assert EVIL in ["".join(cell.itertext()) for cell in page.iter("td")]  # shown as it is: the setting of sft


def test_nothing_in_the_page_points_outside_of_its_folder(page: Any, report: Path) -> None:
    links = [element.get("href") for element in page.iter("a")]
    files = [link for link in links if not link.startswith("#")]
    assert {link[1:] for link in links if link.startswith("#")} <= {element.get("id") for element in page.iter()}
    assert all((report / link).stat().st_size for link in files)
    assert {Path(link).suffix for link in files} == {".csv", ".tex", ".pdf", ".png"}


def test_a_report_beside_runs_is_no_foreign_folder(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(report.parent), "-o", str(report.parent.parent / "elsewhere")]) == 0
    assert "foreign" not in capsys.readouterr().out


def test_pictures_open_and_tables_have_the_numbers(report: Path) -> None:
    assert (report / "figures" / "curves.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(report / "figures" / "curves.png") as image:
        assert image.width > 800
    # grpo forgets 0 in order 1 and 100 points in order 2: mean 0.5, s = sqrt((0.25 + 0.25) / 1) = 0.7071
    grpo = csv_row((report / "tables" / "headline.csv").read_text(encoding="utf-8"), method="grpo")
    assert [float(grpo[key]) for key in ("forgetting", "forgetting std")] == pytest.approx([0.5, 0.70711], abs=1e-5)
    caption = r"\caption{digits\_cil: paired differences over class orders, percentage points, 95 \% interval}"
    assert caption in (report / "tables" / "pairs.tex").read_text(encoding="utf-8")


def test_csv_holds_numbers_and_latex_what_is_shown_in_which_no_character_is_a_command() -> None:
    columns = (Column("method", "text"), Column("forgetting", "summary"), Column("tasks"))
    measured = (TableCell("a_b"), TableCell("50.0 ± 1.0", 0.5, 0.01), TableCell("2", 2.0))
    table = Table("100 % of A & B", columns, (measured, (TableCell("x, y"), TableCell("–"), TableCell("–"))), "t")
    assert to_csv(table) == 'method,forgetting,forgetting std,tasks\na_b,0.5,0.01,2.0\n"x, y",,,\n'
    for line in (r"a\_b & 50.0 $\pm$ 1.0 & 2 \\", r"\caption{100 \% of A \& B}", r"\begin{tabular}{lrr}"):
        assert line in to_latex(table)
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
    records = [
        record(tmp_path / "s", method, seed, [[90, None], [90 - forgotten, 90]])  # of two tasks, 90 % of both learned
        for method, by_order in (("sft", [40] * len(grpo)), ("grpo", grpo))
        for seed, forgotten in enumerate(by_order)
    ]
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


def test_in_mlflow_it_is_an_artifact_of_its_sweep_fed_once_with_its_answer_and_the_cells_compare_by_key(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = hostile_sweep(root / "quick")
    found = find_runs([sweep])
    folder, note = reported(Subject(compare(found.runs), found.left_out), sweep)
    assert main(["sync", str(sweep)]) == 0
    Tracker(root, "quick").finish([folder], note=note)
    capsys.readouterr()
    assert main(["sync", str(sweep)]) == 0
    assert "added" not in capsys.readouterr().out

    client = MlflowClient(tracking_uri(root))
    experiments = [one.experiment_id for one in client.search_experiments()]
    (parent,) = client.search_runs(experiments, "tags.`clrft.kind` = 'sweep'")
    held = {entry.path for entry in client.list_artifacts(parent.info.run_id, "report")}
    assert held == {"report/index.html", "report/tables", "report/figures"}
    # sft forgets 100 points in both orders, grpo 0 and 100
    said = parent.data.tags["mlflow.note.content"]
    assert said.startswith("**digits_cil**: Undecided: grpo forgets 50.0 points less")
    nested = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    cells = client.search_runs(experiments, nested, order_by=["metrics.forgetting ASC"])
    assert [cell.data.metrics["forgetting"] for cell in cells] == [0.0, 1.0, 1.0, 1.0]
    assert cells[0].info.run_name == "digits_cil-grpo-1" and cells[0].data.params["method.name"] == "grpo"
