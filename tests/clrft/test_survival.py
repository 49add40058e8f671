"""Killed, damaged and full: a run goes on to the bits of one that was never stopped, or says what is wrong."""

import json
import shutil
from concurrent.futures import Executor
from pathlib import Path

import pytest
import torch

from benchmarks.fault_lab import flip_a_bit
from benchmarks.kills import Kill, config_of, outcome, run_in_child, trial
from clrft.config.run_config import RunConfig
from clrft.runner.fork import saved_config
from clrft.runner.partial_checkpoint import PartialCheckpoint
from clrft.runner.run import run
from clrft.utils.files import digest
from clrft.utils.progress import Silent
from methods.training.state import TrainingState
from task_streams.errors import UserError
from tests.clrft.counted import Says


@pytest.fixture(scope="module")
def whole(fresh: Executor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs that are never stopped, by method; beside each is a file of its writes."""
    folders = {}
    for method in ("sft", "rapo"):
        config = config_of(method, tmp_path_factory.mktemp(method))
        folders[method] = config.folder
        assert fresh.submit(run_in_child, config, None, config.folder.parent / "writes").result() == 0
    return folders


@pytest.fixture
def finished(whole: dict[str, Path], tmp_path: Path) -> RunConfig:
    """A finished run that has lost its end, so that it would be gone on with."""
    config = config_of("sft", tmp_path)
    shutil.copytree(whole["sft"], config.folder)
    (config.folder / "metrics.json").unlink()
    return config


@pytest.mark.parametrize(
    ("method", "moments"),  # the share of all writes that each process makes, and when at the last of them it is killed
    [
        ("sft", {0.3: "before", 0.5: "before"}),
        ("sft", {0.55: "after"}),
        ("rapo", {0.45: "during", 0.25: "during", 0.2: "before"}),
    ],
)
def test_a_run_killed_at_its_writes_ends_with_the_same_bits(
    method: str, moments: dict[float, str], whole: dict[str, Path], fresh: Executor, tmp_path: Path
) -> None:
    writes = (whole[method].parent / "writes").read_text().splitlines()
    kills = [Kill(int(share * len(writes)), moment, 0.002) for share, moment in moments.items()]
    assert fresh.submit(trial, method, kills, outcome(whole[method]), tmp_path).result() == []


class Stops(Silent):
    """Stops a run in the third update of its second task."""

    left = -1

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.left = 3 if activity == "task 2/2 train" else -1

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedError


def test_a_damaged_state_is_told_and_the_one_before_it_is_taken_and_one_of_another_beginning_refused(
    finished: RunConfig, whole: dict[str, Path]
) -> None:
    shutil.rmtree(finished.folder / "task_02")
    with pytest.raises(InterruptedError):
        run(finished, Stops())
    older, newest = sorted((finished.folder / "unfinished" / "task_02").glob("step_*"))
    file = newest / "state.json"
    before = json.loads(file.read_text())
    body = {key: value for key, value in before.items() if key != "digest"} | {"parent": "f" * 64}
    file.write_text(json.dumps({**body, "digest": digest(body)}))  # whole, but of another beginning
    with pytest.raises(UserError, match=r"belongs to a task that began with ffffffffffff; expected \w{12}"):
        run(finished, Silent())
    file.write_text(json.dumps(before))
    flip_a_bit(newest / "state.safetensors")
    reporter = Says()
    run(finished, reporter)
    assert any(f"{newest} is damaged and left out: state.safetensors has SHA-256" in text for text in reporter.said)
    assert any(f"going on in task 2 after update {int(older.name[5:])}" in text for text in reporter.said)
    assert outcome(finished.folder) == outcome(whole["sft"])


@pytest.mark.parametrize("place", ["unfinished", "unfinished/task_02", "unfinished/task_02/scratch"])
def test_what_is_no_folder_where_one_belongs_is_told_and_removed(
    place: str, whole: dict[str, Path], finished: RunConfig
) -> None:
    shutil.rmtree(finished.folder / "task_02")
    stray = finished.folder / place
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_text("")
    reporter = Says()
    run(finished, reporter)
    assert f"{stray} is no folder and was removed" in reporter.said
    assert outcome(finished.folder) == outcome(whole["sft"])


def test_a_training_that_lost_its_figures_is_told_and_done_again(whole: dict[str, Path], finished: RunConfig) -> None:
    left = finished.folder / "unfinished" / "task_02" / "trained"
    left.parent.mkdir(parents=True)
    (finished.folder / "task_02").rename(left)
    (left / "metrics.json").unlink()
    reporter = Says()
    run(finished, reporter)
    assert any(f"{left} is damaged and left out: " in text and "training.json" in text for text in reporter.said)
    assert outcome(finished.folder) == outcome(whole["sft"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            "a flipped bit",
            r"task_02/weights/model.safetensors: SHA-256 is \w+…, expected \w+…\.\nRestore .*, or remove it",
        ),
        ("another task", r"task_02/lineage.json: stage is 1, expected 2\.\n.*parent is \w+…, expected"),
        ("other settings", r"task_01/lineage.json: parent is .*\n.*config is \w+…, expected \w+…"),
        ("an edit", r"task_01/lineage.json: identity is \w+…, expected \w+…; it was changed"),
    ],
)
def test_a_task_folder_that_is_not_what_was_left_is_refused(
    damage: str, message: str, whole: dict[str, Path], finished: RunConfig
) -> None:
    first, second = (finished.folder / f"task_0{stage}" for stage in (1, 2))
    lineage = first / "lineage.json"
    match damage:
        case "a flipped bit":
            flip_a_bit(second / "weights" / "model.safetensors")
        case "another task":
            shutil.rmtree(second)
            shutil.copytree(first, second)
        case "other settings":
            shutil.rmtree(first)
            shutil.copytree(whole["rapo"] / "task_01", first)
        case "an edit":
            lineage.write_text(json.dumps({**json.loads(lineage.read_text()), "files": {}}))
    with pytest.raises(UserError, match=message):
        run(finished, Silent())


def test_folders_by_which_no_run_can_be_gone_on_with_are_refused(tmp_path: Path, finished: RunConfig) -> None:
    with pytest.raises(UserError, match="holds no run; expected a run's folder"):
        saved_config(tmp_path, {})
    other = finished.folder.with_name("renamed")
    finished.folder.rename(other)
    with pytest.raises(UserError, match=r"the folder is called 'renamed', but the run 'digits_cil-sft-1993'"):
        saved_config(other, {})
    file = other / "config.yaml"  # which does not decide what code runs
    file.write_text(file.read_text().replace("plugins: []", "plugins: [/tmp/evil.py]"))
    with pytest.raises(UserError, match=r"name them again: --plugin /tmp/evil.py"):
        saved_config(other, {})


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
