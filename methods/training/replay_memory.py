"""Examples of earlier tasks for methods that replay: which are kept, and how they are mixed into a task."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from methods.base import ReplayPlan
from task_streams.scenarios.draw import shuffled
from task_streams.types import Example, Task


def remembered(earlier: Sequence[Task], items: int, seed: int) -> tuple[Example, ...]:
    """At most ``items`` training examples of earlier tasks: equal shares per task, and per class within a task.

    The choice is seeded and depends on the tasks alone, so a run that goes on after a stop remembers the same.
    """
    chosen: list[Example] = []
    for position, task in enumerate(earlier):
        groups: dict[str, list[Example]] = {}  # by class; boxes and questions are one class
        for example in shuffled(task.train, seed, f"memory {task.index}"):
            groups.setdefault(example.target if isinstance(example.target, str) else "", []).append(example)
        turns = zip_longest(*(group for _, group in sorted(groups.items())))  # one of each class in turn
        share = items // len(earlier) + (position < items % len(earlier))
        chosen += [example for turn in turns for example in turn if example is not None][:share]
    return tuple(chosen)


def mixed(task: Task, memory: Sequence[Example], plan: ReplayPlan | None) -> Task:
    """The task with remembered examples among its own, repeated or cut so that they are ``plan.share`` of all.

    Without a plan, or with a share of 0, the memory is the method's alone.
    """
    if plan is None or plan.share == 0 or not memory:
        return task
    wanted = max(1, round(len(task.train) * plan.share / (1 - plan.share)))
    repeated = list(memory) * math.ceil(wanted / len(memory))
    return replace(task, train=(*task.train, *repeated[:wanted]))
