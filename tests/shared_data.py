"""The small real datasets that some tests use: they lie beside the repository on the project's own machines only."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    """Folder of a real sample; the test is skipped where it is missing."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"the real sample {name} is not on this machine")
    return path
