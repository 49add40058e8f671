"""What takes a while to make and several files of tests look at."""

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
