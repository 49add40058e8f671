"""What became of a cell: done, failed, or left to another process. Imports nothing that trains."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from clrft.config.run_config import RunConfig
from clrft.runs.layout import ERROR_FILE, METRICS_FILE
from clrft.runs.manifest import check_same_config
from clrft.tracking.runs import is_marked
from clrft.utils.files import check_inside, write_text_atomic


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that did not finish: which, why in a sentence, and where the traceback is."""

    cell: str
    reason: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A cell that another process works on: which, and the process in words."""

    cell: str
    who: str


def keep_failure(folder: Path, reason: str, trace: str = "") -> None:
    """Leave in a run folder why the run failed: the reason, an empty line, the traceback."""
    with contextlib.suppress(OSError):  # a full disk; the sweep tells the reason itself
        folder.mkdir(exist_ok=True)
        write_text_atomic(folder / ERROR_FILE, f"{reason.strip()}\n\n{trace}".rstrip() + "\n")


def forget_failure(folder: Path) -> None:
    """Remove what an earlier failure left."""
    (folder / ERROR_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or with a run in it
        folder.rmdir()


def failure_of(folder: Path) -> str:
    """Why the run in a folder failed, in a line or a few; empty if it did not."""
    try:
        text = (folder / ERROR_FILE).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    reason = text.partition("\n\n")[0]
    return text.splitlines()[-1] if reason.startswith("Traceback") else reason or "no reason was written"


def known_failure(config: RunConfig, since: int) -> Failure | None:
    """The failure that another process left of a cell after a time (ns, of the file system); None if there is none."""
    try:
        failed = (config.folder / ERROR_FILE).stat().st_mtime_ns
    except OSError:
        return None
    return Failure(config.cell, f"{failure_of(config.folder)} (in another process)") if failed > since else None


def is_complete(config: RunConfig) -> bool:
    """Whether the run's folder holds a finished run of the same settings; one of others is refused."""
    if not os.path.exists(config.folder / "config.yaml"):  # for a name of any length
        return False
    check_inside(config.folder)
    check_same_config(config)
    return (config.folder / METRICS_FILE).is_file()


def is_done(config: RunConfig) -> bool:
    """Whether a run is finished and, where it is tracked, the tracking store has all of it."""
    return is_complete(config) and (not config.run.mlflow or is_marked(config.folder))
