"""Which processes live: numbers are used again, so a process is its number, its start, its machine and that's start.

Where the system has no ``/proc`` the numbers alone must do.
"""

import contextlib
import os
from pathlib import Path


def lives(process: int) -> bool:
    """Whether a process runs; one that has ended and was not collected by its parent does not."""
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return stat_of(process)[:1] not in (["Z"], ["X"])


def start_of(process: int) -> str:
    """When a process began, in ticks since the machine's start; empty where the system does not tell."""
    fields = stat_of(process)
    return fields[19] if len(fields) > 19 else ""


def stat_of(process: int) -> list[str]:
    """Fields of ``/proc/<process>/stat`` from the third (state) on; the second may hold spaces. Empty if unreadable."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def boot_and_space() -> tuple[str, str]:
    """Identity of the machine's last start, and of the space that process numbers count in.

    Either is empty where the system does not tell.
    """
    boot = space = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return boot, space
