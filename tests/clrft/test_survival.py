"""Killed, damaged and full: a run goes on to the bits of one that was never stopped, or says what is wrong."""

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks.kills import Kill, config_of, outcome, run_in_child, trial
from clrft.config.run_config import RunConfig
from clrft.runner.fork import saved_config
from clrft.runner.lineage import digest
from clrft.runner.partial_checkpoint import PartialCheckpoint
from clrft.runner.run import run
from clrft.utils.progress import Silent
from methods.training.state import TrainingState
from task_streams.errors import UserError


class Says(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def fresh() -> Iterator[Executor]:
    """A process in which nothing was computed yet: one with torch's threads at work cannot be forked."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as one:
        yield one


@pytest.fixture(scope="module")
def whole(fresh: Executor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What runs leave that are never stopped, and the number of their writes."""
    root = tmp_path_factory.mktemp("whole")
    found = {}
    for method in ("sft", "rapo"):
        config = config_of(method, root)
        assert fresh.submit(run_in_child, config, None, root / f"{method}.writes").result() == 0
        writes = (root / f"{method}.writes").read_text().splitlines()
        found[method] = {**outcome(config.folder), "writes": str(len(writes))}
    return found


@pytest.mark.parametrize(
    ("method", "shares", "moment"),
    [
        ("sft", (0.3, 0.8), "before"),
        ("sft", (0.55,), "after"),
        ("rapo", (0.45, 0.7), "during"),
        ("rapo", (0.9,), "before"),
    ],
)
def test_a_run_killed_at_its_writes_ends_with_the_same_bits(
    method: str,
    shares: tuple[float, ...],
    moment: str,
    whole: dict[str, dict[str, str]],
    fresh: Executor,
    tmp_path: Path,
) -> None:
    expected = {name: value for name, value in whole[method].items() if name != "writes"}
    kills = [Kill(int(share * int(whole[method]["writes"])), moment, 0.002) for share in shares]
    assert fresh.submit(trial, method, kills, expected, tmp_path).result() == []


def stopped_inside_task_two(fresh: Executor, tmp_path: Path) -> RunConfig:
    """A run that was killed while it learned its second task, with two states of it on disk."""
    config = config_of("sft", tmp_path)
    run(config, Silent())
    for name in ("metrics.json", "matrix.json"):
        (config.folder / name).unlink()
    shutil.rmtree(config.folder / "task_02")
    for write in range(1, 400):
        states = sorted((config.folder / "unfinished" / "task_02").glob("step_*"))
        if len(states) == 2:
            return config
        shutil.rmtree(config.folder / "unfinished", ignore_errors=True)
        fresh.submit(run_in_child, config, Kill(write=40 + 8 * write)).result()
    raise AssertionError("no kill left two states")


def test_a_damaged_state_is_told_and_the_one_before_it_is_taken(
    whole: dict[str, dict[str, str]], fresh: Executor, tmp_path: Path
) -> None:
    config = stopped_inside_task_two(fresh, tmp_path)
    older, newest = sorted((config.folder / "unfinished" / "task_02").glob("step_*"))
    flip_a_bit(newest / "state.safetensors")
    reporter = Says()
    run(config, reporter)
    assert any(f"{newest} is damaged and left out: state.safetensors has SHA-256" in text for text in reporter.said)
    assert any(f"going on in task 2 after update {int(older.name[5:])}" in text for text in reporter.said)
    assert outcome(config.folder) == {name: value for name, value in whole["sft"].items() if name != "writes"}


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)


def test_a_state_of_a_task_that_began_otherwise_is_refused(fresh: Executor, tmp_path: Path) -> None:
    config = stopped_inside_task_two(fresh, tmp_path)
    state = sorted((config.folder / "unfinished" / "task_02").glob("step_*"))[-1] / "state.json"
    body = {**json.loads(state.read_text()), "parent": "f" * 64}
    del body["digest"]
    state.write_text(json.dumps({**body, "digest": digest(body)}))  # whole, but of another beginning
    with pytest.raises(UserError, match=r"belongs to a task that began with ffffffffffff; expected \w{12}"):
        run(config, Silent())


@pytest.mark.parametrize("place", ["unfinished", "unfinished/task_02", "unfinished/task_02/scratch"])
def test_what_is_no_folder_where_one_belongs_is_told_and_removed(
    place: str, whole: dict[str, dict[str, str]], finished: RunConfig
) -> None:
    shutil.rmtree(finished.folder / "task_02")
    stray = finished.folder / place
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_text("")
    reporter = Says()
    run(finished, reporter)
    assert f"{stray} is no folder and was removed" in reporter.said
    assert outcome(finished.folder) == {name: value for name, value in whole["sft"].items() if name != "writes"}


def test_a_training_that_lost_its_figures_is_told_and_done_again(
    whole: dict[str, dict[str, str]], finished: RunConfig
) -> None:
    left = finished.folder / "unfinished" / "task_02" / "trained"
    left.parent.mkdir(parents=True)
    (finished.folder / "task_02").rename(left)
    (left / "metrics.json").unlink()
    reporter = Says()
    run(finished, reporter)
    assert any(f"{left} is damaged and left out: " in text and "training.json" in text for text in reporter.said)
    assert outcome(finished.folder) == {name: value for name, value in whole["sft"].items() if name != "writes"}


@pytest.fixture
def finished(tmp_path: Path) -> RunConfig:
    """A finished run that has lost its end, so that it would be gone on with."""
    config = config_of("sft", tmp_path)
    run(config, Silent())
    (config.folder / "metrics.json").unlink()
    return config


def test_a_flipped_bit_in_the_weights_is_named(finished: RunConfig) -> None:
    file = finished.folder / "task_02" / "weights" / "model.safetensors"
    flip_a_bit(file)
    with pytest.raises(UserError, match=rf"{file}: SHA-256 is \w+…, expected \w+…\.\nRestore .*task_02, or remove it"):
        run(finished, Silent())


def test_the_folder_of_another_task_is_refused(finished: RunConfig) -> None:
    shutil.rmtree(finished.folder / "task_02")
    shutil.copytree(finished.folder / "task_01", finished.folder / "task_02")
    with pytest.raises(UserError, match=r"task_02/lineage.json: stage is 1, expected 2\.\n.*parent is \w+…, expected"):
        run(finished, Silent())


def test_a_task_folder_of_a_run_with_other_settings_is_refused(finished: RunConfig, tmp_path: Path) -> None:
    other = config_of("grpo", tmp_path / "other")
    run(other, Silent())
    shutil.rmtree(finished.folder / "task_01")
    shutil.copytree(other.folder / "task_01", finished.folder / "task_01")
    with pytest.raises(UserError, match=r"task_01/lineage.json: parent is .*\n.*config is \w+…, expected \w+…"):
        run(finished, Silent())


def test_an_edited_lineage_is_refused(finished: RunConfig) -> None:
    file = finished.folder / "task_01" / "lineage.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "files": {}}))
    with pytest.raises(UserError, match=r"task_01/lineage.json: identity is \w+…, expected \w+…; it was changed"):
        run(finished, Silent())


def test_a_run_is_gone_on_with_by_its_folder_wherever_it_lies_now(tmp_path: Path, finished: RunConfig) -> None:
    moved = tmp_path / "elsewhere" / "single" / finished.cell
    moved.parent.mkdir(parents=True)
    finished.folder.rename(moved)
    config = saved_config(moved, {})
    assert config.folder.resolve() == moved.resolve()
    assert run(config, Silent()).resolve() == moved.resolve()
    assert (moved / "metrics.json").is_file()


def test_a_renamed_folder_and_one_without_a_run_are_refused(tmp_path: Path, finished: RunConfig) -> None:
    other = finished.folder.with_name("renamed")
    finished.folder.rename(other)
    with pytest.raises(UserError, match=r"the folder is called 'renamed', but the run 'digits_cil-sft-1993'"):
        saved_config(other, {})
    with pytest.raises(UserError, match="holds no run; expected a run's folder"):
        saved_config(tmp_path, {})


def test_a_folder_does_not_decide_what_code_runs(tmp_path: Path, finished: RunConfig) -> None:
    file = finished.folder / "config.yaml"
    file.write_text(file.read_text().replace("plugins: []", "plugins: [/tmp/evil.py]"))
    with pytest.raises(UserError, match=r"name them again: --plugin /tmp/evil.py"):
        saved_config(finished.folder, {})


def test_states_are_bounded_in_number_and_one_that_cannot_be_written_is_told(tmp_path: Path) -> None:

    work = PartialCheckpoint(tmp_path, 3, "p", print)
    for step in (1, 2, 3, 4):
        work.keep(TrainingState(step, {"weights:w": torch.ones(2)}, {}))
    work.settle()
    assert [path.name for path in sorted(work.folder.iterdir())] == ["step_000003", "step_000004"]
    newest = work.newest()
    assert newest is not None and newest.step == 4
    small = tmp_path / "not_a_folder"
    small.write_text("")
    full = PartialCheckpoint(small, 1, "p", print)
    full.keep(TrainingState(1, {"weights:w": torch.ones(2)}, {}))
    with pytest.raises(NotADirectoryError):
        full.settle()
