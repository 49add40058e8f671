"""RaPO's parts: ``rapo`` is ``grpo+retention+ctan`` to the last bit, and they join other group-rollout learners."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clrft.config.run_config import build_config
from methods import METHODS, build_method
from methods.base import Method
from task_streams.types import TaskStream
from tests.methods.two_tasks import TwoTasks, assert_other_weights, assert_same_weights, two_tasks

_runs: dict[tuple[str, int], TwoTasks] = {}


def maker(words: str, updates_per_batch: int = 1) -> Callable[[], Method]:
    def make() -> Method:
        learner, *parts = words.split("+")
        config = METHODS[learner].Config(group_size=4, updates_per_batch=updates_per_batch)
        return build_method(learner, config, [(part, METHODS[part].Config()) for part in parts])

    return make


def learned(words: str, stream: TaskStream, folder: Path, updates_per_batch: int = 1) -> TwoTasks:
    """A run, which several tests look at."""
    key = words, updates_per_batch
    if key not in _runs:
        _runs[key] = two_tasks(maker(*key), stream, folder / words)
    return _runs[key]


@pytest.mark.parametrize(
    ("name", "parts"), [("rapo", "grpo+retention+ctan"), ("rapo_rr", "grpo+retention"), ("rapo_ctan", "grpo+ctan")]
)
def test_rapo_is_grpo_with_its_parts_to_the_last_bit(name: str, parts: str, stream: TaskStream, tmp_path: Path) -> None:
    whole, composed = learned(name, stream, tmp_path), learned(parts, stream, tmp_path)
    assert_same_weights(whole, composed)
    for figure in ("drift", "retention_reward", "running_scale"):
        for task in (1, 2):
            assert whole.logged(task, figure) == composed.logged(task, figure)
    assert (whole.logged(2, "drift")[0] is None) == ("retention" not in parts)


def test_a_composition_goes_on_from_files_with_its_scale(stream: TaskStream, tmp_path: Path) -> None:
    words = "grpo+retention+ctan"
    whole = learned(words, stream, tmp_path)
    assert_same_weights(whole, two_tasks(maker(words), stream, tmp_path / "parts", stop=True))
    assert whole.method.state_dict()["ctan.scale"] > 0


@pytest.mark.parametrize(
    ("words", "without"), [("sapo+retention+ctan", "sapo"), ("gspo+cpo+retention", "gspo"), ("dapo+ctan", "dapo")]
)
def test_the_parts_join_other_learners(words: str, without: str, stream: TaskStream, tmp_path: Path) -> None:
    """Two updates on a batch, so that ratios leave 1 and each learner's own loss acts."""
    run = learned(words, stream, tmp_path, updates_per_batch=2)
    assert_other_weights(run, learned(without, stream, tmp_path, updates_per_batch=2))
    assert ("retention" in words) == (run.logged(2, "retention_reward")[0] is not None)
    assert ("ctan" in words) == (run.logged(2, "running_scale")[0] is not None)


def test_table_10_is_one_word() -> None:
    config = build_config("digits_cil", "sapo+retention+ctan")
    assert config.method_name == "sapo"
    assert [name for name, _ in config.parts] == ["retention", "ctan"]
    assert config.cell == "digits_cil-sapo+retention+ctan-1993"
