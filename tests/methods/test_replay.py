"""Replay: what it asks for, what joins it, and two tasks."""

from pathlib import Path

import pytest

from methods.base import ReplayPlan
from methods.parts.replay import Replay, ReplayConfig
from task_streams.types import TaskStream
from tests.methods.two_tasks import assert_other_weights, assert_same_weights, made, two_tasks


def test_it_asks_for_a_memory_and_its_share() -> None:
    method = Replay(ReplayConfig(items=7, share=0.25))
    assert method.needs == {"replay"}
    assert method.replay == ReplayPlan(7, 0.25)


@pytest.mark.parametrize("learner", ["sft", "grpo"])
def test_stopped_between_two_tasks_is_never_stopped(learner: str, stream: TaskStream, tmp_path: Path) -> None:
    make = made(learner, "replay", items=4)
    whole = two_tasks(make, stream, tmp_path / "whole")
    assert_same_weights(whole, two_tasks(make, stream, tmp_path / "parts", stop=True))
    assert_other_weights(whole, two_tasks(made(learner), stream, tmp_path / "without"))
