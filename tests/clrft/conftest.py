"""What takes a while to make and several files of tests look at."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import pytest

from clrft.cli.main import main
from tests.clrft.run_folders import hostile_sweep


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a report of a hostile sweep and a folder that is no run, written by the command."""
    sweep = hostile_sweep(tmp_path_factory.mktemp("report") / "runs" / "quick")
    (sweep / "half-done").mkdir()
    (sweep / "half-done" / "config.yaml").write_text("seed: 1\n")
    assert main(["report", str(sweep)]) == 0
    return sweep / "report"


@pytest.fixture(scope="module")
def fresh() -> Iterator[Executor]:
    """A process in which nothing was computed yet: one with torch's threads at work cannot be forked."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as one:
        yield one
