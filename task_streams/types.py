"""What is learned: examples, the tasks they are split into, and the stream of tasks.

All three are frozen and hold no iteration state, so two loops over one stream may nest.
Images are not held: an example carries the function that decodes its image when called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL.Image import Image

Scenario = Literal["cil", "dil"]
LabelOrder = Literal["sorted", "appearance"]


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image.

    Attributes:
        key: stable name of the item, unique in its source, e.g. ``digits/0421``; never a position.
        label: class name as the prompt lists it.
        image: decodes and returns the image, RGB; called each time the image is needed.
        content: identity of the image's content (SHA-256 hex), for fingerprints and leakage checks.
        domain: name of the visual domain, empty when the source has one only.
    """

    key: str
    label: str
    image: Callable[[], Image] = field(repr=False, compare=False)
    content: str = field(repr=False)
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One step of a stream: what is trained on, what is tested on, and which classes a prompt lists.

    Attributes:
        index: position in the stream, from 1.
        name: short and unique in the stream, e.g. ``three+eight`` (CIL) or ``blurred`` (DIL).
        classes: classes that this task teaches, in order of appearance.
        seen: classes of this and all earlier tasks, in the order in which prompts list them.
        train: examples to learn from.
        test: held-out examples, disjoint from ``train``.
    """

    index: int
    name: str
    classes: tuple[str, ...]
    seen: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class TaskStream:
    """Tasks in the order in which they are learned.

    Attributes:
        name: name of the stream, e.g. ``digits_cil``.
        scenario: ``cil`` (new classes) or ``dil`` (new domains).
        order_seed: seed of the class or domain order.
        tasks: the tasks, in order; ``tasks[i].index == i + 1``.
        notes: facts worth recording in the manifest (items skipped, classes short of shots), sentences.
    """

    name: str
    scenario: Scenario
    order_seed: int
    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every class of the stream, in the order in which the last prompt lists them."""
        return self.tasks[-1].seen

    def task_of(self, label: str) -> int:
        """Index of the first task (from 1) that teaches a class.

        Raises:
            KeyError: no task teaches it.
        """
        for task in self.tasks:
            if label in task.classes:
                return task.index
        raise KeyError(label)


def listed(labels: Sequence[str], order: LabelOrder) -> tuple[str, ...]:
    """Classes in the order in which a prompt lists them; ``labels`` come in order of appearance.

    ``sorted`` is the default of the suite: order of appearance tells by position which classes are new.
    """
    return tuple(sorted(labels)) if order == "sorted" else tuple(labels)
