"""Small real runs to be damaged: a finished one, and two that were stopped inside their last task."""

import contextlib
from pathlib import Path
from typing import Any

from clrft.config.run_config import RunConfig, build_config
from clrft.runner.run import run
from clrft.utils.progress import Silent

SMALL: dict[str, Any] = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 8, "test_per_class": 2},
    "train": {"updates": 2, "prompts_per_update": 4},
    "evaluate": {"probe": 4, "drift_prompts": 0},
}
BASES = ("done", "training", "testing")  # a finished run; stopped in the last task's training; stopped in its test


class StopAt(Silent):
    """Interrupts a run when an activity begins, or after a number of its units."""

    def __init__(self, activity: str, units: int) -> None:
        self.activity, self.units, self.now = activity, units, ""

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.now = activity
        self.advance(cell, 0)

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.units -= units if self.now == self.activity else 0
        if self.now == self.activity and self.units <= 0:
            raise KeyboardInterrupt


def small_config(base: str, output: Path) -> RunConfig:
    """The settings of one of the ``BASES``."""
    method = "sft" if base == "testing" else "rapo"
    groups = {"method": {"group_size": 4}} if method == "rapo" else {}
    own = {"run": {"output": str(output), "sweep": base, "checkpoint_every": 1}}
    return build_config("digits_cil", method, "tiny", 1993, SMALL, groups, own)


def make_base(base: str, output: Path) -> Path:
    """Run one of the ``BASES`` to where it is to stop; returns its folder."""
    config = small_config(base, output)
    stops = {"training": StopAt("task 2/2 train", 2), "testing": StopAt("task 2/2 test", 0)}
    with contextlib.suppress(KeyboardInterrupt):
        run(config, stops.get(base, Silent()))
    return config.folder
