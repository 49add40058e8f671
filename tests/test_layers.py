"""The order of packages and of the folders in them holds, and no module imports in a circle."""

import ast
import tomllib
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ORDER = ("task_streams", "eval", "methods", "clrft")
# Folders of a package in the order in which they may import each other: later ones from earlier ones. The modules at a
# package's top come first.
FOLDERS = {
    "task_streams": "sources probes scenarios datasets",
    "methods": "costs inputs distributed generation model training drift parts algorithms",
    "clrft": "utils base_model config runs tracking memory runner sweep analysis report planning method_check cli",
}
LOOSE = 8  # modules at a package's top; eval is flat


def modules(root: Path) -> dict[str, Path]:
    """Every module of the four packages by its dotted name."""
    found = {}
    for package in ORDER:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def named_imports(tree: ast.AST) -> dict[str, bool]:
    """Dotted names that a module may import, each with whether it does so as it is loaded: outside every function.

    ``from a import b`` names a and a.b; what stands under ``if TYPE_CHECKING`` imports nothing when the program runs.
    """
    late: set[ast.AST] = set()
    never: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            late.update(ast.walk(node))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            never.update(inner for statement in node.body for inner in ast.walk(statement))
    found: dict[str, bool] = {}
    for node in (one for one in ast.walk(tree) if one not in never):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: expected no relative import"
            targets = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for target in targets:
            found[target] = found.get(target, False) or node not in late
    return found


@cache
def imports(root: Path) -> dict[str, dict[str, bool]]:
    """For every module the modules of ours that it imports, and whether it does so as it is loaded."""
    known = modules(root)
    found: dict[str, dict[str, bool]] = {}
    for name, path in known.items():
        seen = named_imports(ast.parse(path.read_text(encoding="utf-8")))
        found[name] = {target: at_load for target, at_load in seen.items() if target in known and target != name}
    return found


def folder_of(name: str, files: dict[str, Path]) -> str:
    """The folder of a module inside its package; empty for what is at the package's top."""
    parts = name.split(".")
    return parts[1] if len(parts) > 2 or (len(parts) == 2 and files[name].name == "__init__.py") else ""


def wrong_arrows(root: Path) -> list[str]:
    """Imports that go up the order of the packages, or of the folders in one, wherever they stand."""
    files = modules(root)

    def place(name: str) -> tuple[int, int]:
        package, folder = name.split(".")[0], folder_of(name, files)
        return ORDER.index(package), FOLDERS.get(package, "").split().index(folder) if folder else -1

    arrows = [(name, target) for name, targets in imports(root).items() for target in targets]
    return [
        f"{name} imports {target}"
        for name, target in arrows
        if place(target)[0] > place(name)[0] or (place(target) > place(name) and place(name)[1] >= 0)
    ]


def circle(root: Path) -> list[str]:
    """One circle of imports made as modules are loaded, empty if there is none.

    A package's own ``__init__`` gathers its modules, so a module's import of ``package.module`` is no import
    of ``package`` here.
    """
    graph = {}
    for module, targets in imports(root).items():
        loaded = {target for target, at_load in targets.items() if at_load}
        graph[module] = {t for t in loaded if not any(other.startswith(f"{t}.") for other in loaded)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_packages_and_their_folders_import_only_from_those_before_them_and_nothing_in_a_circle() -> None:
    assert wrong_arrows(ROOT) == []
    assert circle(ROOT) == []
    # An arrow known to be there: a walk that sees nothing would find nothing wrong.
    assert "task_streams.errors" in imports(ROOT)["clrft.utils.files"]


def test_a_packages_top_has_few_modules_and_imports_no_folder_that_imports_it() -> None:
    files = modules(ROOT)
    top = {name for name, path in files.items() if not folder_of(name, files)}
    counts = Counter(name.split(".")[0] for name in top if files[name].name != "__init__.py")
    assert {package: counts[package] for package in FOLDERS if counts[package] > LOOSE} == {}
    arrows = [(name, target) for name, targets in imports(ROOT).items() for target in targets]
    inside = [(name, target) for name, target in arrows if name.split(".")[0] == target.split(".")[0]]
    above = {name.rpartition(".")[0] for name, target in inside if target in top and name not in top}
    below = {target.rpartition(".")[0] for name, target in inside if name in top and target not in top}
    assert above & below == set()


def written(root: Path, files: dict[str, str]) -> Path:
    """A tree of modules."""
    for name, text in files.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_checker_finds_a_wrong_arrow_in_any_form_of_import(tmp_path: Path) -> None:
    files = {
        "task_streams/a": "import clrft.run",
        "eval/__init__": "def late():\n    from methods import sft",
        "methods/__init__": "",
        "methods/sft": "from eval import score",  # right
        "methods/costs/meter": "import methods.drift.probe",
        "methods/drift/probe": "import methods.costs.meter",  # right
        "eval/score": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import clrft.run",
        "clrft/run": "",
    }
    assert wrong_arrows(written(tmp_path, files)) == [
        "task_streams.a imports clrft.run",
        "eval imports methods",
        "eval imports methods.sft",
        "methods.costs.meter imports methods.drift.probe",
    ]


def test_the_checker_finds_a_circle_and_none_where_a_package_gathers_its_modules(tmp_path: Path) -> None:
    files = {"__init__": "", "a": "from eval import b", "b": "from eval.c import thing", "c": "import eval.a"}
    found = circle(written(tmp_path / "one", {f"eval/{name}": text for name, text in files.items()}))
    assert set(found) == {"eval.a", "eval.b", "eval.c"}
    files = {"__init__": "from methods.sft import Sft", "base": "", "sft": "from methods.base import Method"}
    assert circle(written(tmp_path / "two", {f"methods/{name}": text for name, text in files.items()})) == []


def test_every_package_folder_is_listed_for_the_distribution() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name for name, path in modules(ROOT).items() if path.name == "__init__.py"}
    assert folders | {"clrft.configs"} == set(listed)
