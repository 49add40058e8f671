"""How many cells run at a time on a machine and which GPU each sees; folders on a disk that machines share."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from clrft.cli.main import main
from clrft.config.run_config import build_config
from clrft.sweep.engine import Setup
from clrft.sweep.executors import default_jobs, gpus
from clrft.sweep.local_workers import Workers, seeing
from clrft.utils.files import clean_partials, machine, partial_of, write_first
from clrft.utils.locks import held, lock_path, look

SMALL = ["run", "stream=digits_cil", "method=sft", "seed=1993", "stream.tasks=2", "stream.shots=4", "run.mlflow=false"]
SMALL += ["stream.test_per_class=1", "train.updates=2", "train.prompts_per_update=4", "evaluate.probe=0"]


def seen() -> str:
    """What a process that is started now has as its GPUs."""
    return subprocess.run(["printenv", "CUDA_VISIBLE_DEVICES"], capture_output=True, text=True).stdout.strip()


def test_a_worker_sees_one_gpu_and_this_process_what_it_saw_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-8932f937")
    with seeing("GPU-8932f937"):
        assert seen() == "GPU-8932f937"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,GPU-8932f937"
    with seeing(""):  # no GPU to share: as before
        assert seen() == "4,GPU-8932f937"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with seeing("1"):
        assert seen() == "1"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_workers_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(setup: Setup, device: str) -> SimpleNamespace:
        return SimpleNamespace(device=device, pipe=SimpleNamespace(send=lambda cell: None), cell=None)

    monkeypatch.setattr("clrft.sweep.local_workers.Worker", other)
    cells = [build_config("digits_cil", "sft", "tiny", seed) for seed in range(6)]
    workers = Workers(5, Setup(1, (), 0), ("0", "1"))
    for cell in cells[:5]:
        workers.give(cell)
    assert [worker.device for worker in workers.workers] == ["0", "1", "0", "1", "0"]
    assert default_jobs(cells, ("0", "1")) == 2  # one per GPU
    assert default_jobs(cells[:1], ("0", "1")) == 1
    on_cpu = [build_config("digits_cil", "sft", "tiny", 1, {"model": {"device": "cpu"}})]
    assert gpus(on_cpu) == ()


def test_a_half_written_file_of_another_machine_is_told_from_one_of_this(tmp_path: Path) -> None:
    mine = partial_of(tmp_path / "matrix.json")
    assert mine.name == f".matrix.json.partial-{os.getpid()}-{machine()}"
    other = tmp_path / f".matrix.json.partial-{os.getpid()}-00000000"  # a container with the same process number
    for path in (mine, other):
        path.write_text("{")
    assert clean_partials(tmp_path) == [other.name]  # the lock is ours: whoever wrote it there is gone
    assert mine.exists()


def test_of_two_that_write_a_file_first_one_wins(tmp_path: Path) -> None:
    write_first(tmp_path / "mlflow.json", "one")
    write_first(tmp_path / "mlflow.json", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.json"]
    assert (tmp_path / "mlflow.json").read_text() == "one"


def test_a_lock_that_another_machine_has_just_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fstat(descriptor: int) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # as a network's file system says it

    with held(tmp_path / "cell"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", fstat)
            assert look(lock_path(tmp_path / "cell")) is None
        assert look(lock_path(tmp_path / "cell")) is not None


def test_a_run_folder_that_was_moved_or_linked_goes_on_with_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, f"run.output={tmp_path / 'runs'}"]) == 0
    (whole,) = (tmp_path / "runs" / "single").glob("digits_cil-*")
    moved = tmp_path / "archive" / "single" / whole.name
    shutil.copytree(whole, moved)
    linked = tmp_path / "linked" / "single"
    again = [*SMALL, f"run.output={linked.parent}"]
    target = tmp_path / "disk" / whole.name
    shutil.copytree(whole, target)
    linked.mkdir(parents=True)
    (linked / whole.name).symlink_to(target)
    for folder in (moved, target):  # as a run that was stopped after its first task
        shutil.rmtree(folder / "task_02")
        (folder / "matrix.json").unlink()
        (folder / "metrics.json").unlink()
    capsys.readouterr()
    assert main(["run", "--resume", str(moved)]) == 0
    assert main(again) == 0
    assert capsys.readouterr().out.count("going on after stage 1") == 2
    for folder in (moved, target):
        assert json.loads((folder / "matrix.json").read_text()) == json.loads((whole / "matrix.json").read_text())
        weights = [path / "task_02" / "weights" / "model.safetensors" for path in (folder, whole)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert lock_path(linked / whole.name) == target.parent / f".{whole.name}.lock"  # one lock, whichever way one comes
    with held(target):
        assert main(again) == 0  # done: only shown
        (target / "metrics.json").unlink()
        assert main(again) == 2
    assert f"is being worked on by process {os.getpid()}" in " ".join(capsys.readouterr().err.split())
