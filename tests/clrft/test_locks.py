"""Locks between real processes: one holder at a time, a dead one's taken over once, other hosts and clocks."""

import json
import multiprocessing
import os
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

from clrft.utils.locks import Holder, Locked, Timing, guard, held, lock_path, look, take, this_process
from clrft.utils.process_identity import lives
from task_streams.errors import UserError
from tests.clrft.counted import until
from tests.processes import ended_process

QUICK = Timing(beat=0.05, silent=2.0)  # a holder on another host is gone after 2 s without a touch
FORK = multiprocessing.get_context("fork")


def left_behind(folder: Path, seconds_ago: float = 0.0, **differs: object) -> Holder:
    """A lock that nobody touches any more: this process's with some facts changed."""
    holder = replace(this_process(), **differs)  # type: ignore[arg-type]
    path = lock_path(folder)
    path.write_text(json.dumps(asdict(holder)))
    touch(path, seconds_ago)
    return holder


def touch(path: Path, seconds_ago: float) -> None:
    then = time.time() - seconds_ago
    os.utime(path, (then, then))


def free(folder: Path, timing: Timing = QUICK) -> bool:
    """Whether the lock can be had."""
    try:
        with held(folder, timing):
            return True
    except Locked:
        return False


def test_a_lock_is_held_by_one_and_free_after_even_a_failure(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    with pytest.raises(KeyError), held(folder, QUICK) as lock:
        found = look(lock_path(folder))
        assert found is not None and found.holder == lock.holder and not found.gone
        own = rf"cell is being worked on by process {os.getpid()} on {socket.gethostname()} \(since 20\d\d-"
        with pytest.raises(Locked, match=own):
            take(lock_path(folder), folder, QUICK)
        raise KeyError("x")
    assert list(tmp_path.iterdir()) == []  # neither lock nor anything beside it


def test_a_process_that_its_parent_did_not_collect_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the table
    try:
        os.kill(process.pid, 0)  # which a signal does not tell
        assert not lives(process.pid)
    finally:
        process.wait()


OWN = {"process": os.getpid()}
NOT_TOUCHED = "its lock was not touched for 3 s"


@pytest.mark.parametrize(
    ("differs", "seconds_ago", "gone"),
    [
        ({}, 0.0, "process {ended} has ended"),  # taken over at once
        (OWN, 10 * 24 * 3600, ""),  # it lives, however silent
        ({**OWN, "started": "1"}, 0.0, "process {own} has ended, and another has its number"),
        ({"host": "elsewhere"}, 1.0, ""),
        ({"host": "elsewhere"}, 3.0, NOT_TOUCHED),  # over 2 s
        ({"boot": "before"}, 0.0, ""),  # a machine of the same name, perhaps
        ({"boot": "before"}, 3.0, NOT_TOUCHED),  # this machine before it was started anew: over 3 beats of 0.05 s
        ({"space": "pid:[1]"}, 1.0, ""),  # a container of the same host name: its numbers are not ours
        ({"space": "pid:[1]"}, 3.0, NOT_TOUCHED),
    ],
)
def test_a_holder_is_gone_if_its_process_is_or_its_silence_where_that_cannot_be_seen(
    differs: dict[str, Any], seconds_ago: float, gone: str, tmp_path: Path
) -> None:
    ended = ended_process()
    left_behind(tmp_path / "cell", seconds_ago, **{"process": ended, **differs})
    found = look(lock_path(tmp_path / "cell"), QUICK)
    assert found is not None and found.gone == gone.format(ended=ended, own=os.getpid())
    assert free(tmp_path / "cell") is bool(gone)
    assert lock_path(tmp_path / "cell").exists() is not bool(gone)


def test_a_machine_started_anew_frees_its_locks_after_three_beats(tmp_path: Path) -> None:
    left_behind(tmp_path / "cell", 0.5, boot="before")  # under 2 s
    assert free(tmp_path / "cell")


def test_a_clock_set_back_neither_frees_a_lock_nor_keeps_it_for_ever(tmp_path: Path) -> None:
    left_behind(tmp_path / "cell", -3600, host="elsewhere")  # touched in an hour from now
    assert not free(tmp_path / "cell")
    seen = look(lock_path(tmp_path / "cell"), QUICK)
    assert seen is not None
    assert abs(seen.touched / 1e9 - time.time()) < 2  # the look has set it to now, from where it ages
    touch(lock_path(tmp_path / "cell"), 3)
    assert free(tmp_path / "cell")


def test_a_clock_set_forward_does_not_free_the_lock_of_a_holder_that_touches_it(tmp_path: Path) -> None:
    path = lock_path(tmp_path / "cell")
    left_behind(tmp_path / "cell", 3600, host="elsewhere")  # as if an hour had passed since the last beat
    beat = threading.Timer(0.04, os.utime, [path])  # the next one comes while the taker watches (0.1 s)
    beat.start()
    assert not free(tmp_path / "cell")
    beat.join()


def test_a_damaged_lock_is_free_once_it_is_old(tmp_path: Path) -> None:
    path = lock_path(tmp_path / "cell")
    path.write_text('{"process": 1')
    assert not free(tmp_path / "cell")
    touch(path, 3)
    assert free(tmp_path / "cell")


def test_a_holder_touches_its_lock_and_learns_that_it_was_taken(tmp_path: Path) -> None:
    path = lock_path(tmp_path / "cell")
    with held(tmp_path / "cell", QUICK) as lock:
        touch(path, 100)
        until(lambda: time.time() - path.stat().st_mtime < 50)
        lock.check()
        path.unlink()
        other = left_behind(tmp_path / "cell", host="elsewhere")
        until(lambda: lock._lost.is_set())
        with pytest.raises(UserError, match=f"its lock was taken from it; now process {os.getpid()} on elsewhere"):
            lock.check()
    assert json.loads(path.read_text())["token"] == other.token  # and leaves it to the other


def test_without_hard_links_a_lock_is_one_holder_s_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)  # as on exFAT
    with held(tmp_path / "cell", QUICK):
        assert not free(tmp_path / "cell")
    left_behind(tmp_path / "cell", process=ended_process())
    assert free(tmp_path / "cell")
    assert list(tmp_path.iterdir()) == []


def test_a_taker_that_died_while_it_took_over_is_taken_over_as_well(tmp_path: Path) -> None:
    gone = ended_process()
    first = left_behind(tmp_path / "cell", process=gone)
    path = lock_path(tmp_path / "cell")
    second = replace(this_process(), process=gone)
    guard(path, first.token).write_text(json.dumps(asdict(second)))  # it held this, and had replaced nothing yet
    third = replace(this_process(), process=gone)
    guard(guard(path, first.token), second.token).write_text(json.dumps(asdict(third)))  # and so did one after it
    assert free(tmp_path / "cell")
    assert not path.exists()


def test_a_take_over_in_progress_is_another_s(tmp_path: Path) -> None:
    stale = left_behind(tmp_path / "cell", process=ended_process())
    between = guard(lock_path(tmp_path / "cell"), stale.token)
    take(between, between, QUICK)
    assert not free(tmp_path / "cell")
    between.unlink()
    assert free(tmp_path / "cell")


ROUNDS, TAKERS = 12, 6


def taker(folder: Path, go: Event, log: Path) -> None:
    """Take the lock as soon as it goes; whoever has it writes when it came and when it left."""
    go.wait()
    for _ in range(3):
        try:
            with held(folder, QUICK):
                begun = time.monotonic_ns()
                time.sleep(0.002)
                line = f"{begun} {time.monotonic_ns()}\n"
                with log.open("a") as file:
                    file.write(line)
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
            assert process.exitcode == 0
        spans = sorted(tuple(map(int, line.split())) for line in log.read_text().splitlines())
        holders += len(spans)
        assert spans  # somebody took it over
        assert all(left <= begun for (_, left), (begun, _) in pairwise(spans))
        assert not lock_path(folder).exists()
    assert holders > ROUNDS  # in some rounds it went from hand to hand
