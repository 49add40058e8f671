"""What is learned: examples, the tasks they are split into, and the stream of tasks.

All are frozen and hold no iteration state, so two loops over one stream may nest.
Pixels are not held: an example carries the function that decodes its image or clip when called.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL.Image import Image

from task_streams.prompt_style import SUITE, PromptStyle

Scenario = Literal["cil", "dil", "til"]
LabelOrder = Literal["sorted", "appearance"]
Kind = Literal["classification", "detection", "question"]
Annotation = Literal["seen", "new_only"]
Rule = Literal["exact", "relaxed_number"]
Feed = Literal["images", "video"]

BOX_SCALE = 1000  # corners of boxes are whole numbers from 0 to this


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames sampled from a video, in their order.

    Attributes:
        frames: RGB, all of one size.
        fps: frames per second of these frames.
        feed: how a model gets them: as so many images, or as its own kind of video.
    """

    frames: tuple[Image, ...] = field(repr=False)
    fps: float
    feed: Feed = "images"


Media = Image | Clip


@dataclass(frozen=True, slots=True)
class Box:
    """One object in an image.

    Attributes:
        category: class name as the prompt lists it.
        corners: x1, y1, x2, y2 in thousandths of the image's width and height, x1 < x2 and y1 < y2.
    """

    category: str
    corners: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Question:
    """A question of its own about an image, and what counts as an answer to it.

    Attributes:
        text: the question as it is asked.
        answers: every accepted answer; the first is the one that supervised methods train towards.
        rule: how an answer is compared: ``exact`` (normalised text) or ``relaxed_number`` (5 % off is right).
    """

    text: str
    answers: tuple[str, ...]
    rule: Rule = "exact"


Target = str | tuple[Box, ...] | Question
Shape = tuple[int, int, int]  # width and height of an image, or of a clip's frames, upright in pixels; frames, or 1


def class_of(key: str, target: Target) -> str:
    """The class that an item's target is; ``TypeError`` where it is none."""
    if not isinstance(target, str):
        raise TypeError(f"{key}: its target is no class but {type(target).__name__}")
    return target


@dataclass(frozen=True, slots=True)
class Example:
    """One item to learn from or to be tested on.

    Attributes:
        key: stable name of the item, unique in its source, e.g. ``digits/0421``; never a position.
        target: what is right: a class name, all boxes of the image, or a question with its answers.
        media: decodes and returns the image (RGB) or clip; called each time it is needed.
        content: identity of the content (SHA-256 hex), for fingerprints and leakage checks.
        domain: name of the domain, empty when the source has one only.
        shape: of its image or clip; None where all of the source are alike.
    """

    key: str
    target: Target
    media: Callable[[], Media] = field(repr=False, compare=False)
    content: str = field(repr=False)
    domain: str = ""
    shape: Shape | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str:
        """Class name of a classification example; ``TypeError`` for another target."""
        return class_of(self.key, self.target)


@dataclass(frozen=True, slots=True)
class Task:
    """One step of a stream: what is trained on, what is tested on, and which classes a prompt lists.

    Attributes:
        index: position in the stream, from 1.
        name: short and unique in the stream, e.g. ``three+eight`` (CIL) or ``blurred`` (DIL).
        classes: classes that this task teaches, in order of appearance; none for questions.
        seen: classes of this and all earlier tasks, in the order in which prompts list them.
        train: examples to learn from.
        test: held-out examples, disjoint from ``train``; of boxes, every image with one of its classes, so that tasks
            share images.
        kind: what is asked: the class of an image or clip, the boxes in it, or a question of its own.
        annotation: which classes training prompts list and training boxes show: all seen ones, or the new only.
        style: the words in which is asked.
    """

    index: int
    name: str
    classes: tuple[str, ...]
    seen: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    kind: Kind = "classification"
    annotation: Annotation = "seen"
    style: PromptStyle = SUITE

    @property
    def trained(self) -> tuple[str, ...]:
        """Classes that a training prompt lists, in its order; the ground truth is cut to the same."""
        return self.seen if self.annotation == "seen" else tuple(name for name in self.seen if name in self.classes)


@dataclass(frozen=True, slots=True)
class TaskStream:
    """Tasks in the order in which they are learned.

    Attributes:
        name: name of the stream, e.g. ``digits_cil``.
        scenario: ``cil`` (new classes), ``dil`` (new domains) or ``til`` (new kinds of question).
        order_seed: seed of the class or domain order.
        tasks: the tasks, in order; ``tasks[i].index == i + 1``.
        notes: facts worth recording in the manifest (items skipped, classes short of shots), sentences.
        feed: how its clips go into a model; None without clips.
    """

    name: str
    scenario: Scenario
    order_seed: int
    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = ()
    feed: Feed | None = None

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every class of the stream, in the order in which the last prompt lists them."""
        return self.tasks[-1].seen

    def task_of(self, label: str) -> int:
        """Index of the first task (from 1) that teaches a class; ``KeyError`` where none does."""
        for task in self.tasks:
            if label in task.classes:
                return task.index
        raise KeyError(label)


def new_test_items(tasks: Iterable[Task]) -> list[tuple[Example, ...]]:
    """Of each task's test items those that no task before it has; an image of boxes may be in the test of several."""
    known: set[str] = set()
    found = []
    for task in tasks:
        found.append(tuple(item for item in task.test if item.key not in known))
        known.update(item.key for item in task.test)
    return found


def listed(labels: Sequence[str], order: LabelOrder) -> tuple[str, ...]:
    """Classes in the order in which a prompt lists them; ``labels`` come in order of appearance.

    ``sorted`` is the default of the suite: order of appearance tells by position which classes are new.
    """
    return tuple(sorted(labels)) if order == "sorted" else tuple(labels)


def target_value(target: Target) -> Any:
    """A target as plain values; a class name stays a string."""
    if isinstance(target, tuple):
        return [[box.category, *box.corners] for box in target]
    return [target.text, *target.answers, target.rule] if isinstance(target, Question) else target
