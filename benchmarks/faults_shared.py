"""Faults around a run: MLflow's server dies or stands still, sweeps share a folder, the clock is set."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fault_lab import Command, Lab, Settings, Skipped, Trial, in_training
from benchmarks.faults_process import Sweep
from tests.clrft.stores import Server, points, runs

FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"),
)
KINDS = {"sweep": 1, "cell": 1, "task": 3}  # MLflow runs of one run of two tasks


@contextmanager
def serving(place: Path) -> Iterator[Server]:
    """MLflow's server on loopback, with a new SQLite store."""
    prepare = "import sys; from pathlib import Path; from clrft.tracking.store import prepare_store as p"
    subprocess.run([sys.executable, "-c", f"{prepare}; p(Path(sys.argv[1]))", str(place)], check=True)
    server = Server(place / "server", place / "mlflow.db")
    try:
        server.start()
        server.wait()
        yield server
    finally:
        server.kill()


def server_killed(lab: Lab) -> Trial:
    """MLflow's server is killed in task 1 and started again in task 2."""
    settings, place = Settings(own=("run.mlflow=true",)), lab.place("server_killed")
    with serving(place) as server:
        run = Command(settings.words(place), place, MLFLOW_TRACKING_URI=server.uri)
        run.stopped_when(in_training(settings.folder(place), 1))
        server.kill()
        run.process.send_signal(signal.SIGCONT)
        run.stopped_when(in_training(settings.folder(place), 2))
        server.start()
        server.wait()
        trial = Trial("SIGKILL to the server in task 1, started again in task 2")
        trial.disturbed(run.end(), [0])
        return fed_once(trial, lab, place, settings, server)


def server_hung(lab: Lab) -> Trial:
    """MLflow's server stands still (SIGSTOP) from task 1 on, to after the run's end."""
    settings, place = Settings(own=("run.mlflow=true",)), lab.place("server_hung")
    with serving(place) as server:
        run = Command(settings.words(place), place, MLFLOW_TRACKING_URI=server.uri)
        run.stopped_when(in_training(settings.folder(place), 1))
        os.killpg(server.process.pid if server.process else 0, signal.SIGSTOP)
        trial = Trial("SIGSTOP to the server from task 1 on").disturbed(run.end(), [0], "clrft sync")
        os.killpg(server.process.pid if server.process else 0, signal.SIGCONT)
        trial.facts["seconds of training, task 2"] = seconds(settings.folder(place), 2)
        return fed_once(trial, lab, place, settings, server)


def fed_once(trial: Trial, lab: Lab, place: Path, settings: Settings, server: Server) -> Trial:
    """Feed what lacks, twice; the server must then hold every run and every point once."""
    words = ["sync", str(settings.folder(place))]
    for says in ("", "nothing is missing"):
        trial.disturbed(Command(words, place, MLFLOW_TRACKING_URI=server.uri).end(), [0], says)
    found = {kind: runs(server.uri, kind) for kind in KINDS}
    trial.facts["MLflow runs"] = {kind: len(held) for kind, held in found.items()}
    if trial.facts["MLflow runs"] != KINDS:
        trial.problems.append(f"MLflow holds {trial.facts['MLflow runs']} runs, expected {KINDS}")
    every = [run for kind in found.values() for run in kind]
    held = [(run.info.run_id, *point[:2]) for run in every for point in points(server.uri, run)]
    trial.facts["points"] = len(held)
    if len(held) != len(set(held)):
        trial.problems.append(f"{len(held) - len(set(held))} metric points are there twice")
    again = Command(settings.words(place), place, MLFLOW_TRACKING_URI=server.uri).end()
    return trial.gone_on(again, settings.folder(place), lab.whole(Settings()))


def two_sweeps(lab: Lab) -> Trial:
    """Two sweeps on one folder, each in a cell of its own; one is killed, and the other takes its cell over."""
    place = lab.place("two_sweeps")
    sweep = Sweep(lab, place, jobs=1)
    one, other = Command(sweep.words, place), Command(sweep.words, place)
    other.stopped_when(lambda: all(in_training(folder, 1)() for folder in sweep.folders))
    one.process.kill()
    killed, ended = one.end(), other.end()
    trial = Trial("SIGKILL to one of two sweeps, each in task 1 of a cell").disturbed(ended, [0])
    said = killed.out + ended.out
    for folder in sweep.folders:
        trainings = said.count(f"{folder.name}  task 2/2 train")
        trial.facts[f"{folder.name}: trainings of task 2"] = trainings
        if trainings != 1:
            trial.problems.append(f"task 2 of {folder.name} was trained {trainings} times")
    return sweep.gone_on(trial)


def clock_back(lab: Lab) -> Trial:
    """The clock is set back by three days in the midst of a run."""
    return clock_set(lab, "-3d", "+0")


def clock_forward(lab: Lab) -> Trial:
    """The clock is set forward by three days in the midst of a run."""
    return clock_set(lab, "+3d", "+0")


def clocks_apart(lab: Lab) -> Trial:
    """The clock of another process on the folder is a year ahead of the run's, and of the disk's."""
    return clock_set(lab, "+0", "+365d")


def clock_set(lab: Lab, mine: str, others: str) -> Trial:
    """A run whose clock is set in task 2, looked at by processes with a clock of their own."""
    library = next((path for path in FAKETIME if path.exists()), None)
    if library is None:
        raise Skipped("libfaketime is not installed (apt-get install faketime)")
    settings, place = Settings(), lab.place("clock")
    folder = settings.folder(place)

    def clock(name: str, offset: str) -> dict[str, str]:
        file = place / name
        file.write_text(offset + "\n")
        fixed = {"FAKETIME_NO_CACHE": "1", "NO_FAKE_STAT": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(file), **fixed}

    run = Command(settings.words(place), place, **clock("mine", "+0"))
    run.stopped_when(in_training(folder, 2))
    clock("mine", mine)
    trial = Trial(f"the clock of a run set {mine} in task 2; others look at it with {others}")
    other = clock("others", others)
    trial.disturbed(Command(settings.words(place), place, **other).end(), [2], "is being worked on by process")
    status = Command(["status", str(folder.parent), "--json"], place, **other).end()
    found = json.loads(status.out)
    trial.facts |= {"state": found["cells"][0]["state"], "seconds left": found["seconds_left"]}
    if trial.facts["state"] != "running" or not 0 <= (found["seconds_left"] or 0) < 3600:
        trial.problems.append(f"status says {trial.facts}")
    ended = run.end()
    trial.disturbed(ended, [0]).gone_on(ended, folder, lab.whole(settings))
    trial.facts["seconds of training, task 2"] = seconds(folder, 2)
    if not 0 < seconds(folder, 2) < 3600:
        trial.problems.append(f"task 2 took {seconds(folder, 2)} s")
    return trial


def seconds(folder: Path, task: int) -> float:
    """Seconds that a task's training took by its own figures."""
    return float(json.loads((folder / f"task_{task:02d}" / "metrics.json").read_text())["seconds"]["train"])


FAULTS = (server_killed, server_hung, two_sweeps, clock_back, clock_forward, clocks_apart)
