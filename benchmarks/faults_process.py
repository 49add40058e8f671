"""Faults of processes: memory that is not granted, workers that are killed, signals in training, test and sweep."""

import os
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.fault_lab import Command, Lab, Settings, Trial, in_test, in_training, left_behind

SEEDS = (1993, 1996)


SPARE = 64 * 2**20  # bytes that are granted still; a step of 256 rollouts needs many times that


def memory_in_step(lab: Lab) -> Trial:
    """No more memory is granted from the begin of a training on than a step needs."""
    settings = Settings("grpo", ("train.prompts_per_update=16", "method.group_size=16", "train.updates=2"))
    place = lab.place("memory")
    folder = settings.folder(place)
    run = Command(settings.words(place), place)
    run.stopped_when(lambda: (folder / "unfinished" / "task_01" / "scratch").is_dir())
    size = int(re.findall(r"VmSize:\s+(\d+) kB", Path(f"/proc/{run.process.pid}/status").read_text())[0]) * 1024
    resource.prlimit(run.process.pid, resource.RLIMIT_AS, (size + SPARE, size + SPARE))
    trial = Trial("RLIMIT_AS set to 64 MiB over what is mapped when task 1's training begins")
    trial.disturbed(run.end(), [1], "memory is used up")
    trial.problems += [f"left behind: {name}" for name in left_behind(folder)]
    return trial.gone_on(Command(settings.words(place), place).end(), folder, lab.whole(settings))


def interrupted_training(lab: Lab) -> Trial:
    """Ctrl-C in a training."""
    return signalled(lab, signal.SIGINT, "in task 2's training", lambda folder: in_training(folder, 2))


def terminated_training(lab: Lab) -> Trial:
    """SIGTERM in a training."""
    return signalled(lab, signal.SIGTERM, "in task 2's training", lambda folder: in_training(folder, 2))


def interrupted_test(lab: Lab) -> Trial:
    """Ctrl-C in a test."""
    return signalled(lab, signal.SIGINT, "while task 2 is tested", lambda folder: in_test(folder, 2))


def terminated_test(lab: Lab) -> Trial:
    """SIGTERM in a test."""
    return signalled(lab, signal.SIGTERM, "while task 2 is tested", lambda folder: in_test(folder, 2))


def signalled(lab: Lab, number: signal.Signals, where: str, point: Callable[[Path], Callable[[], bool]]) -> Trial:
    """A run that gets a signal at a point, and is gone on with."""
    settings, place = Settings("rapo"), lab.place(number.name)
    run = Command(settings.words(place), place)
    trial = Trial(f"{number.name} {where}")
    if not run.stopped_when(point(settings.folder(place))):
        trial.problems.append("the run ended before its point")
    run.signalled(number)
    trial.disturbed(run.end(), [128 + number], "Go on with the same command")
    trial.problems += [f"left behind: {name}" for name in left_behind(settings.folder(place))]
    return trial.gone_on(Command(settings.words(place), place).end(), settings.folder(place), lab.whole(settings))


def interrupted_sweep(lab: Lab) -> Trial:
    """Ctrl-C, as a terminal sends it: to the sweep and its workers."""
    return signalled_sweep(lab, signal.SIGINT, group=True)


def terminated_sweep(lab: Lab) -> Trial:
    """SIGTERM to the sweep alone, as a scheduler sends it."""
    return signalled_sweep(lab, signal.SIGTERM, group=False)


def signalled_sweep(lab: Lab, number: signal.Signals, group: bool) -> Trial:
    """A sweep of two workers that gets a signal while both train, and is gone on with."""
    place = lab.place("sweep")
    sweep = Sweep(lab, place)
    run = Command(sweep.words, place)
    who = "to the sweep and its workers" if group else "to the sweep alone"
    trial = Trial(f"{number.name} {who} while two cells train")
    run.stopped_when(lambda: all(in_training(folder, 1)() for folder in sweep.folders))
    run.process.send_signal(signal.SIGCONT)
    (os.killpg if group else os.kill)(run.process.pid, number)
    trial.disturbed(run.end(), [128 + number], "Go on with the same command")
    trial.problems += [f"left behind: {name}" for folder in sweep.folders for name in left_behind(folder)]
    return sweep.gone_on(trial)


def killed_worker(lab: Lab) -> Trial:
    """SIGKILL to one worker of two, as the kernel sends it when memory is short."""
    place = lab.place("worker")
    sweep = Sweep(lab, place)
    run = Command(sweep.words, place)
    run.stopped_when(in_training(sweep.folders[0], 1))
    worker = holder(sweep.folders[0])
    os.kill(worker, signal.SIGKILL)
    trial = Trial("SIGKILL to the worker of one of two cells while it trains").disturbed(
        run.end(), [1], "its worker process died (signal 9: killed, or out of memory); run the same command again"
    )
    if not (sweep.folders[1] / "metrics.json").is_file():
        trial.problems.append("the other cell did not end")
    return sweep.gone_on(trial)


def holder(folder: Path) -> int:
    """The process that holds a run folder's lock."""
    from clrft.utils.locks import lock_path, look

    found = look(lock_path(folder))
    if found is None or found.holder is None:
        raise RuntimeError(f"nobody holds {folder}")
    return found.holder.process


class Sweep:
    """A sweep of two cells: its file, its command, its run folders."""

    def __init__(self, lab: Lab, place: Path, jobs: int = 2) -> None:
        self.lab = lab
        self.place = place
        self.cells = [Settings(seed=seed, sweep="two") for seed in SEEDS]
        file = place / "two.yaml"
        file.write_text(f"streams: [digits_cil]\nmethods: [sft]\nseeds: {list(SEEDS)}\n")
        fields = [word for word in self.cells[0].words(place) if "." in word.partition("=")[0]]
        self.words = ["sweep", str(file), *fields, "--jobs", str(jobs)]
        self.folders = [cell.folder(place) for cell in self.cells]

    def gone_on(self, trial: Trial) -> Trial:
        """Give the command again; every cell must be that of an undisturbed run."""
        again = Command(self.words, self.place).end()
        same = []
        for cell, folder in zip(self.cells, self.folders, strict=True):
            same.append(trial.gone_on(again, folder, self.lab.whole(cell)).same_bits)
        trial.same_bits = all(same)
        return trial


FAULTS = (
    memory_in_step,
    killed_worker,
    interrupted_training,
    terminated_training,
    interrupted_test,
    terminated_test,
    interrupted_sweep,
    terminated_sweep,
)
