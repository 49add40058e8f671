"""Whether the holder of a lock lives: by its process on this machine, else by the last touch of the lock.

Process numbers are used again and clocks are set, so a holder is gone only if

- on this host its process has ended, or another has its number (the start time tells),
- this host was started anew since, and nothing has touched the lock for some beats,
- or it is on another host and nothing has touched the lock for ``Timing.silent`` seconds by the file system's own
  clock, nor while the taker watched for two beats.
"""

import contextlib
import os
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from clrft.utils.lock_file import Holder, parsed, read
from clrft.utils.process_identity import boot, lives, space, start_of


@dataclass(frozen=True, slots=True)
class Timing:
    """How a lock's life is told, in seconds."""

    beat: float = 20.0
    """Between two touches by the holder."""
    silent: float = 600.0
    """Without a touch, after which a holder on another host counts as gone."""


TIMING = Timing()


@dataclass(frozen=True, slots=True)
class Found:
    """A lock as it lies there.

    Attributes:
        holder: who holds it; None for a file that tells nobody (damaged, or being written).
        token: of the holder, or of the file itself.
        touched: when it was touched last, by the file system's clock, ns.
        gone: why its holder is gone, as half a sentence; empty while it may live.
        certain: the holder's process was looked for; False when only its silence tells.
    """

    holder: Holder | None
    token: str
    touched: int
    gone: str
    certain: bool

    @property
    def who(self) -> str:
        """The holder in words."""
        return str(self.holder) if self.holder is not None else "a process that its lock does not name"


def look(path: Path, timing: Timing = TIMING) -> Found | None:
    """A lock as it is now; None if there is none."""
    try:
        text, facts = read(path)
    except FileNotFoundError:
        return None
    holder, touched = parsed(text), facts.st_mtime_ns
    token = holder.token if holder is not None else f"file{facts.st_ino}"
    gone, certain = judged(path, holder, touched, timing)
    return Found(holder, token, touched, gone, certain)


def judged(path: Path, holder: Holder | None, touched: int, timing: Timing) -> tuple[str, bool]:
    """Why a holder is gone (empty if it may live), and whether its process was looked for."""
    limit = timing.silent
    if holder is not None and holder.host == socket.gethostname():
        if holder.boot == boot() and holder.space == space():
            return process_gone(holder), True
        if holder.boot != boot():  # or another machine of the same name: then it goes on touching
            limit = min(limit, 3 * timing.beat)
    silent = age(path, touched)
    if silent < -timing.beat:  # the clock was set back since: the time is counted from now
        with contextlib.suppress(OSError):
            os.utime(path)
    return (f"its lock was not touched for {silent:.0f} s" if silent > limit else ""), False


def process_gone(holder: Holder) -> str:
    """Why a process of this machine is gone; empty if it lives."""
    if not lives(holder.process):
        return f"process {holder.process} has ended"
    started = start_of(holder.process)
    if holder.started and started and started != holder.started:
        return f"process {holder.process} has ended, and another has its number"
    return ""


def still_silent(path: Path, found: Found, timing: Timing) -> bool:
    """Watch a silent lock for two beats: a clock set forward makes a living holder look silent until its next."""
    time.sleep(2 * timing.beat)
    again = look(path, timing)
    return again is not None and (again.token, again.touched) == (found.token, found.touched)


def age(path: Path, touched: int) -> float:
    """Seconds since a lock was touched, by the clock of the file system that it lies on."""
    try:
        now = file_system_now(path.parent)
    except OSError:  # nothing can be written here; who only looks takes its own clock
        now = time.time_ns()
    return (now - touched) / 1e9


def file_system_now(folder: Path) -> int:
    """The time by the clock of the file system that a folder lies on, ns."""
    descriptor, probe = tempfile.mkstemp(prefix=".clock-", dir=folder)
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
        os.unlink(probe)
