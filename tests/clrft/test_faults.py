"""Faults of the machine, each the real thing: a full disk, no more memory, a swallowed interrupt.

``benchmarks/faults.py`` has all of them.
"""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.fault_lab import Lab, Skipped, fill, small_disk
from benchmarks.faults_disk import full_in_state
from clrft.cli.main import main
from clrft.config.run_config import build_config
from clrft.runner.outcome import Failure, failure_of
from clrft.runner.run import attempt
from clrft.tracking.store import Store, Unreachable
from clrft.utils import interrupt
from clrft.utils.failures import explained
from clrft.utils.locks import held, lock_path
from clrft.utils.progress import Silent


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    try:
        with small_disk(tmp_path, 2) as place:
            yield place
    except Skipped as reason:
        pytest.skip(str(reason))


def granted_no_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a capacity of 79 GiB")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda: bytearray(2**62), "(MemoryError)"),
        (lambda: torch.empty(2**50), "DefaultCPUAllocator: can't allocate memory"),
        (granted_no_gpu_memory, "CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_memory_that_is_not_granted_is_told_with_what_to_lower(fault: Callable[[], object], words: str) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        fault()
    text = explained(caught.value) or ""
    assert text.startswith("the memory is used up") and words in text
    assert "lower train.prompts_per_update" in text and "the same command goes on" in text


def test_a_full_disk_is_told_by_whatever_writes(disk: Path) -> None:
    fill(disk, 0.1)
    with pytest.raises(OSError) as plain:
        (disk / "text").write_bytes(bytes(2**20))
    with pytest.raises(Exception) as library:  # safetensors has an error of its own
        save_file({"weight": torch.zeros(2**18)}, disk / "weights.safetensors")
    for caught in (plain, library):
        assert (explained(caught.value) or "").startswith("the disk is full (No space left on device)")


def test_what_is_not_known_is_not_explained() -> None:
    assert explained(KeyError("lost")) is None
    assert explained(RuntimeError("shapes do not match")) is None
    assert explained(FileNotFoundError(2, "No such file or directory")) is None
    assert explained(ValueError("(os error 28)")) is None  # no error of a disk


def test_run_and_sweep_tell_the_same_with_exit_code_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        torch.empty(2**50)

    monkeypatch.setattr("clrft.runner.run.run", run)
    words = ["run", "stream=digits_cil", "method=sft", f"run.output={tmp_path}", "run.mlflow=false"]
    assert main(words) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("failed the memory is used up") and "Traceback" not in said
    own = {"run": {"output": str(tmp_path), "mlflow": False}}
    cell = build_config("digits_cil", "sft", "tiny", 1993, own)
    failure = attempt(cell, Silent())
    assert isinstance(failure, Failure) and failure.reason in said
    assert failure_of(cell.folder) == failure.reason


def lost(folder: Path) -> None:
    with held(folder):
        fill(folder.parent, 0)
        raise KeyError("lost")


def test_a_lock_on_a_full_disk_hides_no_failure_and_is_free_once_its_process_has_ended(
    disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    child = multiprocessing.get_context("fork").Process(target=lost, args=(disk / "run",))
    child.start()
    child.join()
    assert capfd.readouterr().err.strip().endswith("KeyError: 'lost'")
    assert lock_path(disk / "run").exists()  # letting go of it takes a file
    (disk / "ballast").unlink()
    with held(disk / "run") as lock:
        assert lock.holder.process == os.getpid()


def test_a_lock_lets_its_disk_be_made_read_only(disk: Path) -> None:
    with held(disk / "run"):
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert not lock_path(disk / "run").exists()


def test_a_store_on_a_full_disk_is_asked_again(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(disk / "some.db") as database:
        database.execute("create table t (x blob)")
    database.close()
    fill(disk, 0.02)

    def write() -> None:
        with sqlite3.connect(disk / "some.db") as full:
            full.execute("insert into t values (zeroblob(500000))")

    with pytest.raises(Unreachable, match=r"disk is full.*Training goes on; what MLflow lacks can be fed later"):
        Store(tmp_path).call(write)


def test_a_run_on_a_disk_that_fills_up_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    try:
        trial = full_in_state(Lab(tmp_path))
    except Skipped as reason:
        pytest.skip(str(reason))
    assert trial.problems == [] and trial.same_bits


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_swallowed_interrupt_comes_back_at_the_next_check(number: signal.Signals, code: int) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        interrupt.watch()
        interrupt.check()  # nothing came yet
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            for _ in range(10**6):  # the handler runs between two instructions
                pass
        assert interrupt.asked() == code
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        interrupt.watch()
        assert not interrupt.asked()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
