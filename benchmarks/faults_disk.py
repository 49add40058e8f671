"""Faults of the disk: full at each kind of write, read-only in the midst of a run, full for MLflow alone."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.fault_lab import (
    Command,
    Lab,
    Settings,
    Skipped,
    Trial,
    fill,
    in_test,
    in_training,
    left_behind,
    small_disk,
)

ROOM = 120  # MB; more than the two tasks need


def full_before(lab: Lab) -> Trial:
    """Full before any work."""
    settings, place = Settings(), lab.place("full_before")
    with small_disk(place, ROOM) as disk:
        ballast = fill(disk, 5)
        trial = Trial("5 MB free before the run")
        trial.disturbed(Command(settings.words(disk), place).end(), [2], "are free at")
        if list(disk.glob("*/*/task_*")):
            trial.problems.append("something was trained")
        ballast.unlink()
        return trial.gone_on(Command(settings.words(disk), place).end(), settings.folder(disk), lab.whole(settings))


def full_in_state(lab: Lab) -> Trial:
    """Full while a state is written."""
    return filled(lab, "the disk left with 4 MB in task 2's training; a state has 17 MB", 4, in_task_two)


def full_in_weights(lab: Lab) -> Trial:
    """Full while weights are written; no states are kept, so that they come first."""
    words = ("run.checkpoint_every=0",)
    return filled(lab, "the disk left with 3 MB in task 2's training; the weights have 5.6 MB", 3, training_two, words)


def full_in_record(lab: Lab) -> Trial:
    """Full to the last byte while a task is tested: predictions and figures cannot be written."""
    return filled(lab, "the disk left with 0 bytes while task 2 is tested", 0, lambda folder: in_test(folder, 2))


def filled(
    lab: Lab, what: str, left: float, point: Callable[[Path], Callable[[], bool]], own: tuple[str, ...] = ()
) -> Trial:
    """A run on a small disk that is filled at a point, and gone on with once there is room."""
    settings, place = Settings(own=own), lab.place("full")
    with small_disk(place, ROOM) as disk:
        run = Command(settings.words(disk), place)
        if not run.stopped_when(point(settings.folder(disk))):
            return Trial(what, problems=["the run ended before its point"])
        ballast = fill(disk, left)
        trial = Trial(what).disturbed(run.end(), [1], "No space left on device")
        trial.problems += [f"left behind: {name}" for name in left_behind(settings.folder(disk))]
        ballast.unlink()
        return trial.gone_on(Command(settings.words(disk), place).end(), settings.folder(disk), lab.whole(settings))


def in_task_two(folder: Path) -> Callable[[], bool]:
    """Task 2 trains, with a state on disk."""
    return in_training(folder, 2)


def training_two(folder: Path) -> Callable[[], bool]:
    """Task 2 begins to train."""
    return lambda: (folder / "unfinished" / "task_02" / "scratch").is_dir()


def read_only(lab: Lab) -> Trial:
    """The disk becomes read-only in the midst of a task."""
    settings, place = Settings(), lab.place("read_only")
    with small_disk(place, ROOM) as disk:
        run = Command(settings.words(disk), place)
        run.stopped_when(in_training(settings.folder(disk), 2))
        while not remounted(disk, "ro"):  # a file is being written at this moment
            run.process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
            run.process.send_signal(signal.SIGSTOP)
            if run.process.poll() is not None:
                raise Skipped("the disk was busy until the end")
        trial = Trial("the disk made read-only in task 2's training")
        trial.disturbed(run.end(), [1], "Read-only file system")
        trial.disturbed(Command(settings.words(disk), place).end(), [2], "Read-only file system")
        remounted(disk, "rw")
        return trial.gone_on(Command(settings.words(disk), place).end(), settings.folder(disk), lab.whole(settings))


def remounted(disk: Path, mode: str) -> bool:
    """Make a disk read-only or not; False while a file on it is open for writing."""
    done = subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], capture_output=True, check=False)
    return done.returncode == 0


def full_store(lab: Lab) -> Trial:
    """MLflow's SQLite file lies on a full disk; the run's files do not."""
    settings, place = Settings(own=("run.mlflow=true",)), lab.place("full_store")
    prepare = "import sys; from pathlib import Path; from clrft.tracking.store import prepare_store as p"
    subprocess.run([sys.executable, "-c", f"{prepare}; p(Path(sys.argv[1]))", str(place)], check=True)
    with small_disk(place, 40) as disk:
        shutil.move(place / "mlflow.db", disk / "mlflow.db")
        (place / "mlflow.db").symlink_to(disk / "mlflow.db")
        ballast = fill(disk, 0)
        trial = Trial("0 bytes free for mlflow.db all through the run, which has room itself")
        run = Command(settings.words(place), place).end()
        trial.disturbed(run, [0], "clrft sync")
        ballast.unlink()
        trial.disturbed(Command(["sync", str(settings.folder(place))], place).end(), [0], "added")
        trial.disturbed(Command(["sync", str(settings.folder(place))], place).end(), [0], "nothing is missing")
        again = Command(settings.words(place), place).end()
        return trial.gone_on(again, settings.folder(place), lab.whole(Settings()))


FAULTS = (full_before, full_in_state, full_in_weights, full_in_record, read_only, full_store)
