"""How often each class is in the images of a detection task, and whether that is enough to learn it and to judge it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from task_streams.errors import UserError, shown
from task_streams.types import Example, Task


@dataclass(frozen=True, slots=True)
class Positives:
    """How often a class is in the images of a task.

    Attributes:
        category: the class.
        train_images: training images with it.
        train_boxes: its boxes in them.
        test_images: test images with it.
        test_boxes: its boxes in them.
    """

    category: str
    train_images: int
    train_boxes: int
    test_images: int
    test_boxes: int


def positives(task: Task, classes: Sequence[str] | None = None) -> list[Positives]:
    """Positives of each class in a task's images; of the task's own classes by default."""
    train, test = _count(task.train), _count(task.test)
    nothing = (0, 0)
    names = task.classes if classes is None else classes
    return [Positives(name, *train.get(name, nothing), *test.get(name, nothing)) for name in names]


def judge_positives(
    tasks: Sequence[Task], shots: int | None, test_per_class: int | None, allow_empty: bool
) -> list[str]:
    """Notes on the positives of every task: how many there are, which classes are short of what was asked.

    Raises:
        UserError: tasks without images, or classes without positives that are not allowed; all of them.
    """
    problems, empty, notes = [], [], []
    for task in tasks:
        rows = positives(task)
        for split in ("train", "test"):
            word = "training" if split == "train" else "test"
            counts = {row.category: getattr(row, f"{split}_images") for row in rows}
            if not any(counts.values()):
                problems.append(f"task {task.name}: no {word} images")
            elif none := [label for label, images in counts.items() if not images]:
                empty.append(f"task {task.name}: no {word} images with {len(none)} classes: {shown(none)}")
            wanted = shots if split == "train" else test_per_class
            if wanted is not None and (short := _short(counts, wanted)):
                notes.append(f"task {task.name}: fewer than {wanted} {word} images with {shown(short)}")
        notes.append(f"task {task.name}: images/boxes in training and in test: {', '.join(map(_shown, rows))}")
    if empty and not allow_empty:
        problems += [*empty, "use other classes or more images, or set allow_empty_classes=true"]
    if problems:
        raise UserError(*problems)
    return [*empty, *notes]


def _short(counts: Mapping[str, int], wanted: int) -> list[str]:
    return [f"{label} ({images})" for label, images in counts.items() if 0 < images < wanted]


def _shown(row: Positives) -> str:
    return f"{row.category} {row.train_images}/{row.train_boxes} {row.test_images}/{row.test_boxes}"


def _count(examples: Sequence[Example]) -> dict[str, tuple[int, int]]:
    """Images with each class and its boxes in them."""
    images: Counter[str] = Counter()
    boxes: Counter[str] = Counter()
    for example in examples:
        categories = [box.category for box in example.target] if isinstance(example.target, tuple) else []
        images.update(set(categories))
        boxes.update(categories)
    return {name: (images[name], boxes[name]) for name in images}
