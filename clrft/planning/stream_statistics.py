"""A stream in numbers: what its tasks learn from and are tested on, and how long their prompts are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clrft.memory.estimate import Longest
from clrft.planning.token_lengths import Shown
from task_streams.types import Kind


@dataclass(frozen=True, slots=True)
class TaskOutline:
    """One task.

    Attributes:
        train: items to learn from.
        test: items that it is tested on.
        new: those of them that no task before it is tested on.
        prompt: tokens of a prompt to learn from.
        prompts: tokens of a prompt of its test, under the class list of each stage from the first.
        target: tokens that a supervised method trains towards, end of sequence included.
        shown: images of some of its items.
        lists_all: its class list is the stream's last.
        lead: tokens that all prompts to learn from begin with.
        leads: tokens that all prompts of its test begin with, under the class list of each stage from the first.
    """

    train: int
    test: int
    new: int
    prompt: float
    prompts: tuple[float, ...]
    target: float
    shown: Shown
    lists_all: bool
    lead: float
    leads: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """A stream.

    Attributes:
        tasks: in their order.
        joint: all of them as one.
        kind: what is asked.
        longest: of the prompts.
        here: its data are on this machine; else the numbers are estimates.
        exact: prompts were encoded by the model's processor.
    """

    tasks: tuple[TaskOutline, ...]
    joint: TaskOutline
    kind: Kind
    longest: Longest
    here: bool
    exact: bool

    def __len__(self) -> int:
        return len(self.tasks)

    def cut(self, tasks: int, test: int) -> "Outline":
        """The first tasks alone, with at most so many test items each."""
        kept = [
            replace(task, test=min(task.test, test), prompts=task.prompts[:tasks], leads=task.leads[:tasks])
            for task in self.tasks[:tasks]
        ]
        kept = [replace(task, new=min(task.new, test)) for task in kept]
        last = tuple(replace(task, lists_all=task.lists_all or place == tasks) for place, task in enumerate(kept, 1))
        train, test = sum(task.train for task in last), sum(task.new for task in last)
        prompt, lead = last[-1].prompts[-1], last[-1].leads[-1]
        joint = replace(self.joint, train=train, test=test, new=test, prompt=prompt, lead=lead)
        return replace(self, tasks=last, joint=joint)


def joined(tasks: Sequence[TaskOutline], prompt: float, lead: float) -> TaskOutline:
    """All tasks as one, with the length of its prompts and of what they begin with."""
    shown = Shown(sum(task.shown.items for task in tasks), tuple(grid for task in tasks for grid in task.shown.grids))
    train, test = sum(task.train for task in tasks), sum(task.new for task in tasks)
    target = sum(task.target * task.train for task in tasks) / train
    return TaskOutline(train, test, test, prompt, (prompt,), target, shown, True, lead, (lead,))
