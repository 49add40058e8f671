"""Streams of object detection: the boxes that a layout found, as tasks. Every detection layout ends here.

Both rules are those of RaPO's released code. An image is trained on in the task of the newest of its classes, so in one
task only, and no box of a class that is not taught yet has to be hidden. It is tested in every task with one of its
classes, so that what is forgotten of an old class shows wherever it is. An example holds all boxes of the stream's
classes; a prompt lists some of them, and the ground truth is cut to the same list (``prompt.visible``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from task_streams.config import DilConfig, SourceCilConfig, SourceConfig, choice_problems
from task_streams.errors import UserError, shown
from task_streams.labels import label_problems
from task_streams.prompt import visible
from task_streams.scenarios.balance import ImageDraw, newest_task
from task_streams.scenarios.positives import judge_positives
from task_streams.scenarios.positives import positives as positives
from task_streams.scenarios.shots import unused_listed
from task_streams.scenarios.split import class_order, task_name, too_many_classes
from task_streams.sources.boxes import BoxTable, IntArray
from task_streams.sources.library import Library, all_problems
from task_streams.sources.listed_images import listed_images
from task_streams.sources.records import Found, Workspace
from task_streams.types import Annotation, Scenario, Task, TaskStream, listed

ANNOTATIONS = ("seen", "new_only")


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(SourceConfig):
    """What every detection stream can be asked for."""

    shots: int | None = 5
    """Training images with each class of a task, at least, >= 1 (one counts for all its classes); null = all images."""
    test_per_class: int | None = None
    """Test images with each class, >= 1, drawn likewise over all tasks at once; null = all of the test split."""
    annotation: str = "seen"
    """Classes that training prompts list and training boxes show: seen (all so far) or new_only (the task's own)."""
    allow_empty_classes: bool = False
    """Whether a class of a task may be in none of its training or test images; it is then recorded, else an error."""

    def problems(self) -> list[str]:
        """One sentence for each value that is out of range."""
        return super().problems() + choice_problems("annotation", self.annotation, ANNOTATIONS)

    @property
    def policy(self) -> Annotation:
        """The annotation policy."""
        return "new_only" if self.annotation == "new_only" else "seen"


@dataclass(frozen=True, kw_only=True)
class DetectionCilConfig(DetectionConfig, SourceCilConfig):
    """Object detection, new classes in each task."""


@dataclass(frozen=True, kw_only=True)
class DetectionDilConfig(DetectionConfig, DilConfig):
    """Object detection, a new domain in each task."""


@dataclass(frozen=True, slots=True)
class Step:
    """A task before anything is drawn: where its images are.

    Attributes:
        name: of the task.
        classes: that it teaches.
        seen: classes taught so far, in the order in which prompts list them.
        train: table of the training images.
        train_images: positions in it to draw from.
        test: table of the test images; one for all tasks of a domain.
        domain: of the images.
    """

    name: str
    classes: tuple[str, ...]
    seen: tuple[str, ...]
    train: BoxTable
    train_images: IntArray
    test: BoxTable
    domain: str = ""


def detection_cil(
    name: str,
    train: BoxTable,
    test: BoxTable,
    config: DetectionCilConfig,
    order_seed: int,
    workspace: Workspace,
    order_over: Sequence[str] | None = None,
) -> TaskStream:
    """Class-incremental stream of a training and a test split.

    Args:
        name: name of the stream.
        train: boxes to draw training images from.
        test: boxes of the test split.
        config: settings.
        order_seed: seed of the class order.
        workspace: cache and progress.
        order_over: the classes as the seed permutes them; None = sorted by name.

    Raises:
        UserError: problems of the splits, damaged images, too few classes, classes without positives.
    """
    over = sorted(train.classes) if order_over is None else list(order_over)
    if problems := _class_problems(name, train, test, config):
        raise UserError(*train.problems, *test.problems, *problems)
    order = [over[i] for i in np.random.RandomState(order_seed).permutation(len(over))][: sum(config.sizes)]
    steps = _class_steps(order, train, test, config)
    unused = len(train.classes) - len(order)
    others = len(train.keys) - sum(len(step.train_images) for step in steps)
    notes = [f"{len(order)} of {len(over)} classes are used; {others} training images show others only"]
    return _stream(name, "cil", order_seed, steps, config, workspace, notes if unused else [])


def detection_dil(
    name: str,
    domains: Mapping[str, tuple[BoxTable, BoxTable]],
    config: DetectionDilConfig,
    order_seed: int,
    workspace: Workspace,
) -> TaskStream:
    """Domain-incremental stream: a task for each domain's training and test split, with all classes in each.

    Raises:
        UserError: problems of the splits, damaged images, no domains, classes without positives.
    """
    tables = [table for pair in domains.values() for table in pair]
    if not tables:
        raise UserError(f"{name}: no domains; expected at least one")
    classes = tables[0].classes
    if problems := label_problems(classes):
        raise UserError(*(problem for table in tables for problem in table.problems), *problems)
    order = class_order(tuple(domains), order_seed) if config.domain_order == "seeded" else tuple(domains)
    seen = listed(classes, config.draw_settings["label_order"])
    steps = []
    for domain in order:
        train, test = domains[domain]
        every = np.arange(len(train.keys), dtype=np.int32)
        steps.append(Step(domain, classes, seen, train, every, test, domain))
    return _stream(name, "dil", order_seed, steps, config, workspace, [])


def _class_steps(order: Sequence[str], train: BoxTable, test: BoxTable, config: DetectionCilConfig) -> list[Step]:
    ends = np.cumsum(config.sizes)
    plan = [tuple(order[end - size : end]) for end, size in zip(ends, config.sizes, strict=True)]
    task_of = {label: number for number, classes in enumerate(plan) for label in classes}
    newest = newest_task(train, task_of)
    steps = []
    for number, (classes, end) in enumerate(zip(plan, ends, strict=True)):
        seen = listed(order[:end], config.draw_settings["label_order"])
        steps.append(Step(task_name(classes), classes, seen, train, np.flatnonzero(newest == number), test))
    return steps


def _stream(
    name: str,
    scenario: Scenario,
    order_seed: int,
    steps: Sequence[Step],
    config: DetectionConfig,
    workspace: Workspace,
    notes: Sequence[str],
) -> TaskStream:
    """Draw the images of every step, and judge what came out."""
    library = Library(workspace, config.on_damaged)
    tables = list({id(table): table for step in steps for table in (step.train, step.test)}.values())
    found = Found((), problems=tuple(problem for table in tables for problem in table.problems))
    with all_problems(found, library):
        used = {label for step in steps for label in step.classes}
        draw = ImageDraw(library.admit, used, config.draw_seed, config.on_copies == "skip")
        steps, shots, unused = _cut_to_list(steps, config)
        tasks = _drawn(steps, config, shots, draw)
        judged = judge_positives(tasks, config.shots, config.test_per_class, config.allow_empty_classes)
    facts = [note for table in tables for note in table.notes]
    return TaskStream(
        name, scenario, order_seed, tasks, (*facts, *notes, *unused, *draw.notes, *judged, *library.notes)
    )


def _drawn(steps: Sequence[Step], config: DetectionConfig, shots: int | None, draw: ImageDraw) -> tuple[Task, ...]:
    tests = {  # before anything is trained on, so a change of shots keeps the test images
        domain: draw.take(table, table.images_of(*draw.used), draw.used, config.test_per_class, "test", domain)
        for domain, table in {step.domain: step.test for step in steps}.items()
    }
    tasks = []
    for number, step in enumerate(steps, start=1):
        train = draw.take(step.train, step.train_images, step.classes, shots, "train", step.domain)
        test = tuple(e for e in tests[step.domain] if isinstance(e.target, tuple) and visible(e.target, step.classes))
        tasks.append(Task(number, step.name, step.classes, step.seen, train, test, "detection", config.policy))
    return tuple(tasks)


def _cut_to_list(steps: Sequence[Step], config: DetectionConfig) -> tuple[Sequence[Step], int | None, list[str]]:
    """Steps, shots and a note; with a list of shots, its images are all that is left to train on."""
    if config.shots_list is None:
        return steps, config.shots, []
    tables = list({id(step.train): step.train for step in steps}.values())
    kept = dict(zip((id(table) for table in tables), listed_images(config.shots_list, tables), strict=True))
    cut = []
    for step in steps:
        images = [image for image in step.train_images.tolist() if image in kept[id(step.train)]]
        cut.append(replace(step, train_images=np.array(images, dtype=np.int32)))
    listed = sum(len(images) for images in kept.values())
    unused = listed - sum(len(step.train_images) for step in cut)
    return cut, None, unused_listed(listed, unused, "classes")


def _class_problems(name: str, train: BoxTable, test: BoxTable, config: DetectionCilConfig) -> list[str]:
    problems = label_problems(train.classes)
    if train.classes != test.classes:
        alone = sorted(set(train.classes) ^ set(test.classes))
        problems.append(f"{name}: training and test split list other classes: {shown(alone) or 'in another order'}")
    if sum(config.sizes) > len(train.classes):
        problems.append(too_many_classes(name, config.sizes, len(train.classes)))
    return problems
