"""Examples of earlier tasks for methods that replay: which are kept, and how they are mixed into a task."""

import math
from collections.abc import Sequence
from dataclasses import replace

from methods.base import ReplayPlan
from task_streams.scenarios.draw import shuffled
from task_streams.types import Example, Task


def remembered(earlier: Sequence[Task], items: int, seed: int) -> tuple[Example, ...]:
    """At most ``items`` training examples of earlier tasks: equal shares per task, and per class within a task.

    The choice is seeded and depends on the tasks alone, so a run that goes on after a stop remembers the same.
    """
    chosen: list[Example] = []
    for position, task in enumerate(earlier):
        share = items // len(earlier) + (position < items % len(earlier))
        chosen += _in_turn(task, seed)[:share]
    return tuple(chosen)


def _in_turn(task: Task, seed: int) -> list[Example]:
    """A task's training examples, one of each class in turn; boxes and questions as one class."""
    groups: dict[str, list[Example]] = {}
    for example in shuffled(task.train, seed, f"memory {task.index}"):
        groups.setdefault(example.target if isinstance(example.target, str) else "", []).append(example)
    longest = max(len(group) for group in groups.values())
    return [group[turn] for turn in range(longest) for _, group in sorted(groups.items()) if turn < len(group)]


def mixed(task: Task, memory: Sequence[Example], plan: ReplayPlan) -> Task:
    """The task with remembered examples among its own, repeated or cut so that they are ``plan.share`` of all."""
    if not memory:
        return task
    wanted = max(1, round(len(task.train) * plan.share / (1 - plan.share)))
    repeated = list(memory) * math.ceil(wanted / len(memory))
    return replace(task, train=(*task.train, *repeated[:wanted]))
