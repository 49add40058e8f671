"""A sweep whose method writes down every update, and can be held or killed at one."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from clrft.runner.checkpoint import stage_rng
from clrft.utils.progress import Silent

PLAN = """
streams: [digits_cil]
methods: [sft+counted]
seeds: {seeds}
set:
  run: {{mlflow: false}}
  stream: {{tasks: 2, shots: 4, test_per_class: 1}}
  train: {{updates: 2, prompts_per_update: 4}}
  evaluate: {{probe: 0}}
"""

# Writes down every update; stops at one while a file "hold-SEED-STEP" is there; dies at one if "kill-SEED-STEP" is.
COUNTED = '''
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from methods.base import Method

HERE = Path(os.environ["COUNTED_IN"])

@dataclass(frozen=True)
class Config:
    """Settings."""
    weight: float = 1.0
    """A weight."""

class Counted(Method):
    """Counts updates."""
    name, family, Config = "counted", "part", Config
    joins = frozenset({"supervised"})

    def before_task(self, context):
        self.seed = context.seed

    def before_step(self, model, task_index, step):
        with (HERE / "updates").open("a") as file:
            file.write(f"{self.seed} {step} {os.getpid()}\\n")
        if (HERE / f"kill-{self.seed}-{step}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        while (HERE / f"hold-{self.seed}-{step}").exists():
            time.sleep(0.05)
'''


class Lab:
    """A sweep of some seeds with the counting method."""

    def __init__(self, folder: Path, plugin: Path, seeds: list[int]) -> None:
        self.folder = folder
        self.seeds = seeds
        self.runs = folder / "runs" / "mini"
        (folder / "mini.yaml").write_text(PLAN.format(seeds=seeds))
        self.plugin = plugin
        self.words = [str(folder / "mini.yaml"), f"run.output={folder / 'runs'}", "--plugin", str(plugin)]
        self.sweep = ["sweep", *self.words, "--jobs", "1"]
        self.started: list[subprocess.Popen[bytes]] = []

    def mark(self, what: str, seed: int, task: int, step: int) -> Path:
        """Name of the file that holds or kills at an update."""
        return self.folder / f"{what}-{stage_rng(seed, task)}-{step}"

    def start(self) -> "subprocess.Popen[bytes]":
        """The sweep in a process of its own."""
        with (self.folder / "said").open("ab") as said:
            process = subprocess.Popen([sys.executable, "-m", "clrft", *self.sweep], stdout=said, stderr=said)
        self.started.append(process)
        return process

    def updates(self) -> list[tuple[int, int, int, int]]:
        """Every update that was begun: seed, task, step, process."""
        names = {stage_rng(seed, task): (seed, task) for seed in self.seeds for task in (1, 2)}
        path = self.folder / "updates"
        rows = [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []
        return [(*names[seed], step, process) for seed, step, process in rows]

    def reaches(self, seed: int, task: int, step: int) -> int:
        """Wait until an update has begun; returns its process."""
        until(lambda: any(row[:3] == (seed, task, step) for row in self.updates()))
        return next(row[3] for row in self.updates() if row[:3] == (seed, task, step))

    def cell(self, seed: int) -> Path:
        return self.runs / f"digits_cil-sft+counted-{seed}"


def until(true: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait until something is true; by default as long as several processes on a busy machine may take to start."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


class Says(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
