"""Processes that know of each other: locks, one holder at a time; runs of several, which all end when one fails."""

import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from itertools import pairwise
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from clrft.utils import process_watchdog as watchdog
from clrft.utils.locks import Holder, Locked, Timing, guard, held, lock_path, look, take, this_process
from clrft.utils.process_identity import lives, start_of
from task_streams.errors import UserError
from tests.clrft.counted import until
from tests.clrft.faulty_methods import HEAD
from tests.processes import ended, ended_process, several

QUICK = Timing(beat=0.05, silent=2.0)  # a holder on another host is gone after 2 s without a touch
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    return tmp_path / "cell"


def left_behind(folder: Path, seconds_ago: float = 0.0, **differs: object) -> Holder:
    """A lock that nobody touches any more: this process's with some facts changed."""
    holder = replace(this_process(), **differs)  # type: ignore[arg-type]
    lock_path(folder).write_text(json.dumps(asdict(holder)))
    touch(folder, seconds_ago)
    return holder


def touch(folder: Path, seconds_ago: float) -> None:
    then = time.time() - seconds_ago
    os.utime(lock_path(folder), (then, then))


def free(folder: Path, timing: Timing = QUICK) -> bool:
    """Whether the lock can be had."""
    try:
        with held(folder, timing):
            return True
    except Locked:
        return False


def test_a_lock_is_held_by_one_and_free_after_even_a_failure(cell: Path) -> None:
    with pytest.raises(KeyError), held(cell, QUICK) as lock:
        found = look(lock_path(cell))
        assert found is not None and found.holder == lock.holder and not found.gone
        own = rf"cell is being worked on by process {os.getpid()} on {socket.gethostname()} \(since 20\d\d-"
        with pytest.raises(Locked, match=own):
            take(lock_path(cell), cell, QUICK)
        raise KeyError("x")
    assert list(cell.parent.iterdir()) == []  # neither lock nor anything beside it


def test_a_process_that_its_parent_did_not_collect_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the table
    try:
        os.kill(process.pid, 0)  # which a signal does not tell
        assert not lives(process.pid)
    finally:
        process.wait()


OWN = {"process": os.getpid()}
EARLIER = {**OWN, "started": str(int(start_of(os.getpid()) or 1) - 1)}  # of this number, begun a tick before
NOT_TOUCHED = "its lock was not touched for 3 s"


@pytest.mark.parametrize(
    ("differs", "seconds_ago", "gone"),
    [
        ({}, 0.0, "process {ended} has ended"),  # taken over at once
        (OWN, 10 * 24 * 3600, ""),  # it lives, however silent
        (EARLIER, 0.0, "process {own} has ended, and another has its number"),
        ({"host": "elsewhere"}, 1.0, ""),
        ({"host": "elsewhere"}, 3.0, NOT_TOUCHED),  # over 2 s
        ({"boot": "before"}, 0.0, ""),  # a machine of the same name, perhaps
        ({"boot": "before"}, 0.5, "its lock was not touched for [01] s"),  # this machine before: over 3 beats of 0.05 s
        ({"space": "pid:[1]"}, 1.0, ""),  # a container of the same host name: its numbers are not ours
        ({"space": "pid:[1]"}, 3.0, NOT_TOUCHED),
    ],
)
def test_a_holder_is_gone_if_its_process_is_or_its_silence_where_that_cannot_be_seen(
    differs: dict[str, Any], seconds_ago: float, gone: str, cell: Path
) -> None:
    ended = ended_process()
    left_behind(cell, seconds_ago, **{"process": ended, **differs})
    found = look(lock_path(cell), QUICK)
    assert found is not None and re.fullmatch(gone.format(ended=ended, own=os.getpid()), found.gone)
    assert free(cell, QUICK if seconds_ago else Timing()) is bool(gone)  # where a process tells, nothing is waited for
    assert lock_path(cell).exists() is not bool(gone)


def test_a_clock_set_back_neither_frees_a_lock_nor_keeps_it_for_ever(cell: Path) -> None:
    left_behind(cell, -3600, host="elsewhere")  # touched in an hour from now
    assert not free(cell)
    seen = look(lock_path(cell), QUICK)
    assert seen is not None
    assert abs(seen.touched / 1e9 - time.time()) < 2  # the look has set it to now, from where it ages
    touch(cell, 3)
    assert free(cell)


def test_a_clock_set_forward_does_not_free_the_lock_of_a_holder_that_touches_it(cell: Path) -> None:
    left_behind(cell, 3600, host="elsewhere")  # as if an hour had passed since the last beat
    beat = threading.Timer(0.04, os.utime, [lock_path(cell)])  # the next one comes while the taker watches (0.1 s)
    beat.start()
    assert not free(cell)
    beat.join()


def test_a_damaged_lock_is_free_once_it_is_old(cell: Path) -> None:
    lock_path(cell).write_text('{"process": 1')
    assert not free(cell)
    touch(cell, 3)
    assert free(cell)


def test_a_holder_touches_its_lock_and_learns_that_it_was_taken(cell: Path) -> None:
    path = lock_path(cell)
    with held(cell, QUICK) as lock:
        touch(cell, 100)
        until(lambda: time.time() - path.stat().st_mtime < 50)
        lock.check()
        path.unlink()
        other = left_behind(cell, host="elsewhere")
        until(lambda: lock._lost.is_set())
        with pytest.raises(UserError, match=f"its lock was taken from it; now process {os.getpid()} on elsewhere"):
            lock.check()
    assert json.loads(path.read_text())["token"] == other.token  # and leaves it to the other


def test_without_hard_links_a_lock_is_one_holder_s_too(cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)  # as on exFAT
    with held(cell, QUICK):
        assert not free(cell)
    left_behind(cell, process=ended_process())
    assert free(cell)
    assert list(cell.parent.iterdir()) == []


def test_a_taker_that_died_while_it_took_over_is_taken_over_as_well(cell: Path) -> None:
    gone = ended_process()
    first = left_behind(cell, process=gone)
    path = lock_path(cell)
    second = replace(this_process(), process=gone)
    guard(path, first.token).write_text(json.dumps(asdict(second)))  # it held this, and had replaced nothing yet
    third = replace(this_process(), process=gone)
    guard(guard(path, first.token), second.token).write_text(json.dumps(asdict(third)))  # and so did one after it
    assert free(cell)
    assert not path.exists()


def test_a_take_over_in_progress_is_another_s(cell: Path) -> None:
    stale = left_behind(cell, process=ended_process())
    between = guard(lock_path(cell), stale.token)
    take(between, between, QUICK)
    assert not free(cell)
    between.unlink()
    assert free(cell)


ROUNDS, TAKERS = 25, 6


def taker(folder: Path, go: Event, log: Path) -> None:
    """Take the lock as soon as it goes; whoever has it writes when it came and when it left."""
    go.wait()
    for _ in range(3):
        try:
            with held(folder, QUICK):
                begun = time.monotonic_ns()
                time.sleep(0.002)
                with log.open("a") as file:
                    file.write(f"{begun} {time.monotonic_ns()}\n")
        except Locked:
            continue


def test_of_many_takers_one_has_a_dead_process_s_lock_at_a_time(tmp_path: Path) -> None:
    gone, holders = ended_process(), 0
    for number in range(ROUNDS):
        folder, log = tmp_path / f"cell{number}", tmp_path / f"log{number}"
        left_behind(folder, process=gone)
        go = FORK.Event()
        takers = [FORK.Process(target=taker, args=(folder, go, log)) for _ in range(TAKERS)]
        for process in takers:
            process.start()
        go.set()
        for process in takers:
            process.join()
        assert [process.exitcode for process in takers] == [0] * TAKERS
        spans = sorted(tuple(map(int, line.split())) for line in log.read_text().splitlines())
        holders += len(spans)
        assert spans  # somebody took it over
        assert all(left <= begun for (_, left), (begun, _) in pairwise(spans))
        assert not lock_path(folder).exists()
    assert holders > ROUNDS  # in some rounds it went from hand to hand


RUN = ["stream=digits_cil", "method=sft+unlucky", "seed=1993", "stream.tasks=2", "stream.shots=4"]
RUN += ["stream.test_per_class=1", "train.prompts_per_update=4", "evaluate.probe=0", "run.mlflow=false"]
FAILS = """
    def loss_terms(self, context):
        from methods.distributed import ranks
        if ranks.rank() == 1:
            raise KeyError("lost")
        return {}
"""


def test_an_error_in_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    plugin = tmp_path / "unlucky.py"
    plugin.write_text(HEAD.format(name="unlucky", joins="supervised") + FAILS)
    words = ["-m", "clrft", "run", *RUN, f"run.output={tmp_path / 'runs'}"]
    first, second = ended(several(2, [*words, "--plugin", str(plugin)]), 120)
    assert (first[0], second[0]) == (2, 2)
    said = re.sub(r"\s+", " ", first[2])
    assert "error process 1: method 'unlucky'" in said and "loss_terms: KeyError: 'lost'" in said
    assert "Traceback" not in first[2] + second[2]
    folder = tmp_path / "runs" / "single" / "digits_cil-sft+unlucky-1993"
    assert (folder / "task_00" / "metrics.json").is_file()  # what was finished is kept
    assert not (folder / "task_01").exists()
    assert not (folder.parent / f".{folder.name}.lock").exists()  # and nobody holds it


def test_what_is_for_one_process_is_refused_for_two() -> None:
    ends = ended(several(2, ["-m", "clrft", "list", "methods"]), 60)
    assert [code for code, *_ in ends] == [2, 2]
    assert "2 processes were launched for a command that is for one" in ends[0][2]
    assert ends[1][1] + ends[1][2] == ""


def test_a_process_that_is_done_leaves_no_thread_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would end the process as killed by a signal, if one were inside of it."""
    monkeypatch.setattr(watchdog, "BEAT", 0.0)  # always in the store
    before = set(threading.enumerate())
    done = watchdog.ProcessWatchdog(dist.TCPStore("127.0.0.1", 0, is_master=True), lambda failure: None)
    assert set(threading.enumerate()) > before
    assert done.ended(0, ()) == 0
    assert set(threading.enumerate()) == before
