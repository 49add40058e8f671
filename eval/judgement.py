"""What a judged completion is: the record that scores of every kind of task return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from task_streams.types import Kind

Failure = Literal["none", "format", "outside_list", "same_task", "newest_task", "other_task", "wrong"]
FAILURES: tuple[Failure, ...] = get_args(Failure)

# Components of the task reward by kind of task, in the order in which they are logged.
COMPONENTS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "format"),
    "detection": ("iou", "category", "format"),
    "question": ("accuracy", "format"),
}


@dataclass(frozen=True, slots=True)
class Score:
    """Judgement of one completion."""

    correct: bool  # the answer is right as a whole: the class, the answer to a question, or every box and no other
    components: Mapping[str, float] = field(default_factory=dict)  # parts of the task reward by name, each 0 to 1
    answer: str | None = None  # text of the answer as written; None when none could be parsed
    choice: str | None = None  # the listed class that the answer names; None when it names no listed class
    outside: bool = False  # the answer names something that the prompt does not list

    @property
    def format_ok(self) -> bool:
        """The completion has the form that the prompt asked for."""
        return self.components["format"] == 1.0

    @property
    def reward(self) -> float:
        """Task reward: the sum of its components."""
        return sum(self.components.values())
