"""What the pages say of the code is so: links, files, functions, imports and commands that they name exist."""

import ast
import re
import shlex
from argparse import ArgumentParser
from functools import cache
from pathlib import Path

import pytest

from clrft.cli.main import build_parser
from clrft.cli.run import chosen_config
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


@cache
def defined(path: Path) -> set[str]:
    """Names that a module defines at its top, and the methods of its classes as ``Class.method``."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{one.name}" for one in ast.walk(node) if isinstance(one, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def module(name: str) -> Path | None:
    """File of a dotted module of ours."""
    path = ROOT / name.replace(".", "/")
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


@every_page
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and not (target.exists() and (not heading or heading in anchors(target))):
            broken.append(link)
    assert broken == []


@every_page
def test_files_and_folders_of_the_repository_that_a_page_names_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # tells what was, too
    named = re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", page.read_text(encoding="utf-8"))
    assert [name for name in sorted(set(named)) if not (ROOT / name).exists()] == []


def test_functions_on_the_architecture_page_are_in_the_files_beside_them() -> None:
    rows = re.findall(r"\| `([\w/]+\.py)` \| `([\w.]+)` \|$", (ROOT / "docs/architecture.md").read_text(), re.M)
    assert len(rows) > 10
    assert [(path, name) for path, name in rows if name not in defined(ROOT / path)] == []


def test_every_folder_of_the_packages_is_on_the_architecture_page() -> None:
    told = set(re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "docs/architecture.md").read_text(), re.M))
    there = {str(path.parent.relative_to(ROOT)) for name in ORDER for path in (ROOT / name).rglob("*.py")}
    assert there - told == {"clrft"}


@every_page
def test_python_on_a_page_imports_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ORDER:
                path = module(str(node.module))
                assert path is not None, node.module
                assert {alias.name for alias in node.names} <= defined(path), node.module


def commands(page: Path) -> list[list[str]]:
    """The ``clrft`` commands in a page's indented blocks and code spans, without comments."""
    lines = re.findall(r"^ {4,}clrft ([a-z].*)$|`clrft ([a-z][^`]*)`", page.read_text(encoding="utf-8"), re.M)
    return [shlex.split("".join(line), comments=True) for line in lines]


@pytest.mark.parametrize("name", ["README.md", "examples/README.md"])
def test_commands_of_the_readme_are_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parser: ArgumentParser = build_parser()
    monkeypatch.chdir(ROOT)
    for words in commands(ROOT / name):
        options = parser.parse_args(words)
        if words[0] == "run" and not getattr(options, "plugin", None):
            chosen_config(options.overrides)


def test_the_method_on_its_page_is_the_example() -> None:
    assert (ROOT / "examples/root_ewc.py").read_text() in blocks(ROOT / "docs/own-method.md", "python")
