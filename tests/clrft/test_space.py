"""A run that the disk has no room for is refused before any work, with bytes needed and free."""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from clrft.config.run_config import build_config
from clrft.runner.disk_check import needed_bytes
from clrft.runner.prepare import prepare
from clrft.runner.run import run
from clrft.utils.progress import Silent
from task_streams.errors import UserError

Usage = namedtuple("Usage", "total used free")
PARAMETERS = 1_410_400  # of the embedded model, 4 bytes each


def config(output: Path, **own: Any) -> Any:
    place = {"run": {"output": str(output), "mlflow": False, **own.pop("run", {})}}
    small = {"stream": {"tasks": 3, "shots": 8, "test_per_class": 1}, "evaluate": {"probe": 0, "drift_prompts": 0}}
    return build_config("digits_cil", "sft", "tiny", 1993, small, own, place)


def needed(tmp_path: Path, **own: Any) -> float:
    """Bytes over those of the weights, without the margin."""
    return needed_bytes(prepare(config(tmp_path, **own), Silent()), left=3) / 1.1 / (4 * PARAMETERS)


def test_the_bytes_that_are_needed_by_hand(tmp_path: Path) -> None:
    # three tasks' weights; two states and one that is written, each of weights and two moments
    assert needed(tmp_path) == pytest.approx(3 + 3 * 3, rel=1e-6)
    assert needed(tmp_path, run={"checkpoint_every": 0}) == pytest.approx(3, rel=1e-6)
    assert needed(tmp_path, run={"checkpoint_every": 0, "keep_weights": "last"}) == pytest.approx(2, rel=1e-6)
    carried = needed(tmp_path, run={"checkpoint_every": 0}, train={"carry_optimizer": True})
    assert carried == pytest.approx(3 * 3, rel=1e-6)


def test_a_disk_without_room_is_named_and_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**7, 10**7))
    # 12 times 5.64 MB and a tenth: 74.5 MB
    with pytest.raises(UserError, match=r"0.01 GB are free at .*, and the 3 tasks to come need about 0.0745 GB"):
        run(config(tmp_path), Silent())
    assert not list(tmp_path.glob("single/*/task_*"))
