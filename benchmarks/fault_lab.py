"""Where faults are tried: real runs by the command line, stopped from outside at a point, and looked at afterwards.

A run is stopped (SIGSTOP) once a file tells that it has come to a point; then the fault is injected, and it goes on.
Nothing of the run's own code is changed for it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.kills import SMALL, outcome

ROOT = Path(__file__).resolve().parents[1]
LONGEST_SECONDS = 900.0
TRACEBACK = "Traceback (most recent call last)"


class Skipped(Exception):
    """A fault that cannot be injected on this machine: the reason."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code (negative: the signal), and what it said on stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """What it said of its end: stderr, or the failed cells of a sweep."""
        failed = [line for line in self.out.splitlines() if line.startswith("failed: ")]
        return " ".join([*dict.fromkeys(failed), *self.err.split()]).strip()


@dataclass(slots=True)
class Trial:
    """One fault: what was injected, how the run ended, and what is not as it should be.

    Attributes:
        injected: the fault in words.
        ended: exit codes and messages of the disturbed commands, in order.
        went_on: how the same command ended afterwards; empty if it was not given again.
        same_bits: whether it ended with the files of an undisturbed run; None if that was not asked.
        problems: what is not as it should be.
        facts: figures, by name.
    """

    injected: str
    ended: list[dict[str, Any]] = field(default_factory=list)
    went_on: str = ""
    same_bits: bool | None = None
    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def disturbed(self, ended: Ended, codes: Sequence[int], says: str = "") -> "Trial":
        """Note a disturbed command; it must end with one of the exit codes, in words, without a traceback."""
        self.ended.append({"code": ended.code, "message": ended.message[-600:]})
        if ended.code not in codes:
            self.problems.append(f"exit code {ended.code}, expected {codes}")
        if says not in ended.message + ended.out:
            self.problems.append(f"does not say {says!r}")
        if TRACEBACK in ended.message + ended.out:
            self.problems.append("a traceback reached the user")
        return self

    def gone_on(self, again: Ended, folder: Path, expected: dict[str, str]) -> "Trial":
        """Note how the same command ended afterwards, and whether with the files of an undisturbed run."""
        self.went_on = f"exit code {again.code}"
        found = outcome(folder)
        other = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
        self.same_bits = again.code == 0 and not other
        if again.code:
            self.problems.append(f"going on: exit code {again.code}: {again.message[-600:]}")
        elif other:
            self.problems.append(f"other bits in {other}")
        return self


class Lab:
    """A folder for trials, and what undisturbed runs leave.

    Args:
        folder: empty; everything is written there.
        tell: told of every command.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self.tell = tell
        self._whole: dict[tuple[str, ...], dict[str, str]] = {}
        self._count = 0

    def place(self, name: str) -> Path:
        """A new folder."""
        self._count += 1
        path = self.folder / f"{self._count:02d}-{name}"
        path.mkdir()
        return path

    def whole(self, settings: "Settings") -> dict[str, str]:
        """Digests of what the same command leaves that is not disturbed."""
        if settings.key not in self._whole:
            output = self.place(f"whole-{settings.cell}")
            ended = Command(settings.words(output), self.folder).end()
            if ended.code != 0:
                raise RuntimeError(f"{settings} fails without any fault: {ended.message}")
            self._whole[settings.key] = outcome(settings.folder(output))
            shutil.rmtree(output)
        return self._whole[settings.key]


@dataclass(frozen=True, slots=True)
class Settings:
    """A run of two small tasks: its method, and settings over those of every trial."""

    method: str = "sft"
    own: tuple[str, ...] = ()
    plugin: Path | None = None
    seed: int = 1993
    sweep: str = "single"

    @property
    def key(self) -> tuple[str, ...]:
        """What tells two apart."""
        return (self.method, str(self.seed), self.sweep, *self.own, str(self.plugin))

    @property
    def cell(self) -> str:
        """Name of its run folder."""
        return f"digits_cil-{self.method}-{self.seed}"

    def folder(self, output: Path) -> Path:
        """Its run folder."""
        return output / self.sweep / self.cell

    def words(self, output: Path) -> list[str]:
        """Its command."""
        named = ["stream=digits_cil", f"method={self.method}", f"seed={self.seed}"]
        values = [f"{group}.{key}={value}" for group, fields in SMALL.items() for key, value in fields.items()]
        groups = ["method.group_size=4"] if self.method.split("+")[0] in ("grpo", "rapo") else []
        own = [f"run.output={output}", f"run.sweep={self.sweep}", "run.mlflow=false", "run.checkpoint_every=1"]
        plugin = ["--plugin", str(self.plugin)] if self.plugin else []
        return ["run", *named, *values, *groups, *own, *self.own, *plugin]


class Command:
    """A command of clrft in a process of its own, on one thread, so that every process has the same bits."""

    def __init__(self, words: Sequence[str], folder: Path, **environment: str) -> None:
        self.words = list(words)
        own = {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        others = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clrft", *words],
            cwd=folder,
            env={**others, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def stopped_when(self, true: Callable[[], bool]) -> bool:
        """Stop it (SIGSTOP) once something is true; False if it ended before."""
        end = time.monotonic() + LONGEST_SECONDS
        while not true():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                self.process.kill()
                raise TimeoutError(f"{self.words} did not come to its point")
            time.sleep(0.001)
        self.process.send_signal(signal.SIGSTOP)
        return True

    def signalled(self, number: signal.Signals) -> None:
        """Send it a signal, and let it go on if it was stopped."""
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> Ended:
        """Let it go on, and wait for its end."""
        self.process.send_signal(signal.SIGCONT)
        try:
            out, err = self.process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGABRT)  # PYTHONFAULTHANDLER tells where it hangs
            out, err = self.process.communicate()
        return Ended(self.process.returncode, out, err)


def in_training(folder: Path, task: int, step: int = 2) -> Callable[[], bool]:
    """Whether a run is inside a task's training, with the state of an update on disk."""
    return lambda: any(
        int(path.name[5:]) >= step for path in (folder / "unfinished" / f"task_{task:02d}").glob("step_*")
    )


def in_test(folder: Path, task: int) -> Callable[[], bool]:
    """Whether a run has trained a task and tests it."""
    trained = folder / "unfinished" / f"task_{task:02d}" / "trained"
    return lambda: trained.is_dir() and bool(list(folder.glob(f".task_{task:02d}.partial-*")))


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory, mounted on a new folder.

    Raises:
        Skipped: this process may not mount.
    """
    place = folder / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise Skipped(f"a small disk cannot be mounted ({made.stderr.strip()}); as root, or under unshare -rm, it can")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, left_megabytes: float) -> Path:
    """Fill a disk but for some megabytes; returns the file that does it."""
    ballast = disk / "ballast"
    size = shutil.disk_usage(disk).free - int(left_megabytes * 2**20)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return ballast


def left_behind(folder: Path) -> list[str]:
    """What should not be in a run folder that nobody works on: half-written files and folders."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*partial-*")]


def flip_a_bit(file: Path, offset: int = -9) -> None:
    """Change one bit of a file."""
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def written_by(folder: Path) -> dict[str, Any]:
    """The manifest of a run."""
    return dict(json.loads((folder / "manifest.json").read_text()))
