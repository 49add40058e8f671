"""What the pages say of the code is so: what they name exists, and the examples run as their pages say, in short."""

import ast
import csv
import json
import re
import runpy
import shlex
import tomllib
from collections import Counter
from pathlib import Path
from pkgutil import resolve_name  # raises where there is no such thing

import pytest
import yaml

from clrft.cli.main import main, parsed
from clrft.cli.run import chosen_config
from methods import METHODS
from task_streams import STREAMS
from tests.task_streams.streams import write_tree
from tests.test_layers import ORDER

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FOLDERS = (*ORDER, "configs", "scripts", "examples", "benchmarks", "tests")
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What a link can point to on a page: its headings in small letters, without punctuation, with hyphens."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and not (target.is_file() and (not heading or heading in anchors(target))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [one for one in PAGES if one.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_and_folders_of_the_repository_that_a_page_names_exist(page: Path) -> None:
    # the changelog tells what was, too
    named = re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", page.read_text(encoding="utf-8"))
    assert [name for name in sorted(set(named)) if not (ROOT / name).exists()] == []


def test_the_architecture_page_has_every_folder_and_functions_that_are_in_the_files_beside_them() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"\| `([\w/]+\.py)` \| `([\w.]+)` \|$", page, re.M)
    assert len(rows) > 10
    for path, name in rows:
        resolve_name(f"{path.removesuffix('.py').replace('/', '.')}:{name}")
    told = set(re.findall(r"^\| `([\w/]+)/` \|", page, re.M))
    there = {str(path.parent.relative_to(ROOT)) for name in ORDER for path in (ROOT / name).rglob("*.py")}
    assert there - told == {"clrft"}


def test_tests_that_the_page_of_rapo_names_exist() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs/rapo.md").read_text(encoding="utf-8"))
    assert named and [name for name in named if f"def {name}(" not in written] == []


@every_page
def test_python_on_a_page_imports_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ORDER:
                for alias in node.names:
                    resolve_name(f"{node.module}:{alias.name}")


def commands(page: Path) -> list[list[str]]:
    """The ``clrft`` commands in a page's indented blocks, and in code spans that set something; without comments."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ {4,}clrft ([a-z].*?)(?: && .*| \| .*)?$|`clrft ([a-z][^`\n]*=[^`\n]*)`", text, re.M)
    return [shlex.split("".join(line), comments=True) for line in lines]


@every_page
def test_commands_on_a_page_are_commands(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        options = parsed(words)
        if page.name == "README.md" and words[0] == "run" and not options.plugin:  # elsewhere with files of one's own
            chosen_config(options.words)


def test_the_readme_counts_streams_and_methods() -> None:
    text = (ROOT / "README.md").read_text()
    kinds = Counter(name.rpartition("_")[2] for name in STREAMS)
    families = Counter(METHODS[name].family for name in METHODS)
    rows = {f"{kind}-incremental": kinds[f"{kind[0]}il"] for kind in ("class", "domain", "task")}
    rows |= {"by group rollouts": families["reinforcement"], "parts that join them": families["part"]}
    rows["supervised, frozen"] = families["supervised"] + families["frozen"]
    assert [row for row, count in rows.items() if f"| {row} | {count} |" not in text] == []


def test_published_figures_are_those_of_the_table_and_measured_ones_those_of_the_results() -> None:
    text = (ROOT / "REPRODUCIBILITY.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    with (ROOT / "clrft/analysis/paper/tables.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            main_result = int(row["table"]) <= 4
            begins = f"| {row['dataset']}, {row['tasks']} |" if main_result else f"| {row['table']} | {row['method']} |"
            figure = f"| {row['acc']} / {row['forget']} |" if row["forget"] else f"| {row['acc']} |"
            assert any(line.startswith(begins) and figure in line for line in lines), row
    measured = [re.split(r" *\| *", line)[1:8] for line in lines if "| none |" in line]
    assert len(measured) > 50
    for method, _, orders, last, learned, forgotten, command in measured:
        table = (ROOT / "benchmarks/results" / command.strip("`").split()[-1] / "table.md").read_text()
        found = re.search(rf"^\| {re.escape(method)} \| {orders} \| (.*?) \| (.*?) \| .*? \| (.*?) \|", table, re.M)
        assert found is not None and found.groups() == (last, learned, forgotten), method


def test_the_version_is_the_same_everywhere_and_every_page_is_on_the_site() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M).group(1) == version
    assert set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())) == set(NAMES)


def test_the_api_page_names_what_exists() -> None:
    for name in re.findall(r"^::: (.+)$", (ROOT / "docs/api.md").read_text(), re.M):
        resolve_name(name)


SHORT = ["train.updates=1", "stream.tasks=2", "stream.shots=8", "stream.test_per_class=4"]
PLAIN = ["run.mlflow=false", "evaluate.probe=0", "evaluate.drift_prompts=0"]


def test_the_method_is_on_its_page_has_at_most_forty_lines_and_holds_weights_from_the_second_task_on(
    tmp_path: Path,
) -> None:
    file = ROOT / "examples/root_ewc.py"
    assert file.read_text() in blocks(ROOT / "docs/own-method.md", "python")
    assert len(file.read_text().splitlines()) <= 40
    words = ["run", "stream=digits_cil", "method=sft+root_ewc", *SHORT, *PLAIN, f"run.output={tmp_path}"]
    assert main([*words, "--plugin", str(file)]) == 0
    folder = tmp_path / "single" / "digits_cil-sft+root_ewc-1993"
    steps = [json.loads((folder / f"task_0{task}" / "steps.jsonl").read_text()) for task in (1, 2)]
    assert ["root_ewc" in step for step in steps] == [False, True]


def test_two_methods_are_run_and_compared_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(ROOT / "examples/compare_two.py"))
    script["main"]([*SHORT, *PLAIN[1:], f"run.output={tmp_path}"])
    said = capsys.readouterr().out
    assert "grpo − sft" in said and said.count("after task") == 2


def test_the_streams_are_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", f"stream={ROOT / 'examples/unequal_tasks.yaml'}", f"run.output={tmp_path}"]) == 0
    write_tree(tmp_path / "photos", ("ant", "bee", "cat", "dog", "emu", "fox"), 15)
    words = [f"stream.root={tmp_path / 'photos'}", f"run.output={tmp_path}"]
    assert main(["data", "check", str(ROOT / "examples/photos.yaml"), *words]) == 0
    said = capsys.readouterr().out
    assert "unequal_tasks: no problems found" in said and "photos: no problems found" in said
