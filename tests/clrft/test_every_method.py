"""Every method that ships learns two tasks through the runner, as a user would run it: parts in each family they join.

A new entry of ``METHODS`` is a new case by itself.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clrft.base_model import default_model_path
from clrft.config.run_config import build_config
from clrft.runner.run import run
from clrft.runs.read import RunRecord, read_run
from clrft.utils.progress import Silent
from methods import METHODS
from methods.base import Method, overrides

UPDATES = 2
SMALL: dict[str, Any] = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 4, "test_per_class": 1},
    "train": {"updates": UPDATES, "prompts_per_update": 4, "warmup": 0},
    "evaluate": {"probe": 0, "drift_prompts": 1},
    "model": {"device": "cpu", "dtype": "float32"},
}
PLAIN = {"supervised": "sft", "reinforcement": "grpo"}  # learners that parts join


def words_of(name: str, method: type[Method]) -> list[str]:
    """How a user names a method: itself if it learns, else behind a plain learner of each family that it joins."""
    if method.family != "part":
        return [name]
    return [f"{learner}+{name}" for family, learner in PLAIN.items() if family in method.joins]


CASES = [words for name, method in METHODS.items() for words in words_of(name, method)]


def test_every_method_has_a_case() -> None:
    assert {name for words in CASES for name in words.split("+")} == set(METHODS)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every_method")


def learned(words: str, output: Path) -> RunRecord:
    """A finished run; one that is there already is not run again."""
    groups = {"method": {"group_size": 4}} if METHODS[words.partition("+")[0]].family == "reinforcement" else {}
    adapters = {"adapter": "lora", "lora_rank": 16}  # olora's, of rank 8 in each of two tasks
    own = {"model": adapters} if words.endswith("olora") else {}
    place = {"run": {"output": str(output), "mlflow": False}}
    return read_run(run(build_config("digits_cil", words, "tiny", 1993, SMALL, groups, own, place), Silent()))


def differ(*folders: Path) -> bool:
    """Whether the weights, or adapters', of two folders do."""
    first, second = (load_file(*folder.glob("*.safetensors")) for folder in folders)
    shared = first.keys() & second.keys()
    assert shared
    return any(not torch.equal(first[name], second[name]) for name in shared)


def stage_weights(record: RunRecord, stage: int) -> Path:
    return record.folder / f"task_{stage:02d}" / "weights"


@pytest.mark.parametrize("words", CASES)
def test_it_learns_two_tasks(words: str, output: Path) -> None:
    learner, *parts = (METHODS[name] for name in words.split("+"))
    record = learned(words, output)
    stages = [2] if learner.joint else [1, 2]
    assert record.stages()[-len(stages) :] == stages
    tested = [[learner.joint is False, False], [True, True]]
    assert (np.isfinite(record.matrix.value) == tested).all()
    if learner.family == "frozen":
        assert [record.steps(stage) for stage in stages] == [[], []]
        return
    updates = UPDATES * (2 if learner.joint else 1)  # a joint run has the budget of all tasks
    for stage in stages:
        rows = record.steps(stage)
        assert [row["step"] for row in rows] == list(range(1, updates + 1))
        assert all(math.isfinite(value) for row in rows for value in row.values())
    before = default_model_path() if learner.joint else stage_weights(record, 1)
    assert differ(before, stage_weights(record, 2))
    for method in (learner, *parts):
        assert_seen(method, words, record, output)


def assert_seen(method: type[Method], words: str, record: RunRecord, output: Path) -> None:
    """What a method does shows in task 2: in the figures of every update, or else in the weights."""
    if method.name in PLAIN.values() or method.joint:
        return
    plain = learned(PLAIN[METHODS[words.partition("+")[0]].family], output)
    new = [set(row) - set(plain.steps(2)[0]) for row in record.steps(2)]
    if overrides(method, "shape_rewards"):
        assert all({f"{method.name}_added", f"{method.name}_reranked"} <= names for names in new)
    elif overrides(method, "loss_terms"):
        assert all(new), "its loss terms are not among the figures"
    elif method.family == "part":
        assert differ(stage_weights(plain, 2), stage_weights(record, 2)), "it ends as without the part"
