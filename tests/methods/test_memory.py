"""Which examples are remembered, and how they are mixed into a task."""

from collections import Counter

import pytest

from methods.base import ReplayPlan, TaskContext
from methods.model.policy import Policy
from methods.parts.replay import Replay, ReplayConfig
from methods.training.fit import with_memory
from methods.training.replay_memory import mixed, remembered
from task_streams.types import TaskStream
from tests.methods.few_weights import policy_of
from tests.methods.two_tasks import made


def test_tasks_and_classes_have_equal_shares(stream: TaskStream) -> None:
    chosen = remembered(stream.tasks[:3], 8, seed=5)
    owner = {example.key: task.index for task in stream.tasks for example in task.train}
    # 8 of three tasks: 3, 3, 2; of a task's two classes 2 and 1, or 1 and 1
    assert Counter(owner[example.key] for example in chosen) == {1: 3, 2: 3, 3: 2}
    for task, expected in ((1, [1, 2]), (2, [1, 2]), (3, [1, 1])):
        labels = Counter(example.label for example in chosen if owner[example.key] == task)
        assert sorted(labels.values()) == expected


def test_the_choice_follows_the_seed(stream: TaskStream) -> None:
    keys = {seed: [e.key for e in remembered(stream.tasks[:2], 6, seed)] for seed in (5, 6)}
    assert [e.key for e in remembered(stream.tasks[:2], 6, 5)] == keys[5]
    assert keys[5] != keys[6]


@pytest.mark.parametrize("items", [3, 5, 10])
def test_a_task_is_forgotten_example_by_example_and_none_comes_back(items: int, stream: TaskStream) -> None:
    for known in (1, 2, 3, 4):
        before = {e.key for e in remembered(stream.tasks[:known], items, 5)}
        after = {e.key for e in remembered(stream.tasks[: known + 1], items, 5)}
        newest = {e.key for e in stream.tasks[known].train}
        assert len(after) == items
        assert after - newest <= before


def test_a_memory_larger_than_a_task_holds_all_of_it_once(stream: TaskStream) -> None:
    task = stream.tasks[0]
    assert sorted(e.key for e in remembered([task], 1000, 5)) == sorted(e.key for e in task.train)


def test_replayed_examples_have_their_share_of_the_task(stream: TaskStream) -> None:
    task, memory = stream.tasks[1], remembered(stream.tasks[:1], 6, 5)
    own = {example.key for example in task.train}
    # 16 examples; m / (16 + m) = 1/2: m = 16; 1/4: m = 16/3, rounded 5; 1/100: m = 0.16, at least 1
    for share, expected in ((0.5, 16), (0.25, 5), (0.01, 1)):
        replayed = [e for e in mixed(task, memory, ReplayPlan(6, share)).train if e.key not in own]
        assert len(replayed) == expected
    counts = Counter(e.key for e in mixed(task, memory, ReplayPlan(6, 0.5)).train if e.key not in own)
    assert sorted(counts.values()) == [2, 2, 3, 3, 3, 3]  # 16 rows of 6 examples
    assert mixed(task, (), ReplayPlan(6, 0.5)) is task


def test_a_share_of_zero_leaves_the_memory_to_the_method(stream: TaskStream) -> None:
    small: Policy = policy_of(a=[1.0])
    context = TaskContext(stream.tasks[1], small, None, 1, memory=remembered(stream.tasks[:1], 4, 5))
    assert with_memory(made("sft", "derpp")(), context) is context
    assert len(with_memory(made("sft", "replay")(), context).task.train) == 32


def test_replay_asks_for_a_memory_and_its_share() -> None:
    method = Replay(ReplayConfig(items=7, share=0.25))
    assert method.needs == {"replay"}
    assert method.replay == ReplayPlan(7, 0.25)
