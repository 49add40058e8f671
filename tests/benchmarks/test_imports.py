"""Every benchmark can be imported: none of them rots unseen while what it measures moves on."""

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_under_benchmarks_can_be_imported(name: str) -> None:
    assert import_module(name).__doc__


def test_the_modules_are_found() -> None:
    # One of the folder and one below it, known to be there; a search that finds nothing would pass the test above.
    assert {"benchmarks.domain_accuracy", "benchmarks.engine.step"} <= set(MODULES)
