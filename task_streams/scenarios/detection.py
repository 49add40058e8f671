"""Streams of object detection: few-shot draw of images, tasks, and how often each class is in them.

Both rules are those of RaPO's released code. An image is trained on in the task of the newest of its classes, so in one
task only, and no box of a class that is not taught yet has to be hidden. It is tested in every task with one of its
classes, so that what is forgotten of an old class shows wherever it is. An example holds all boxes of the stream's
classes; a prompt lists some of them, and the ground truth is cut to the same list (``prompt.visible``).

The draw is greedy and seeded: the class with the fewest images so far takes the next image of its own shuffled list,
and all classes in that image are counted, until each class has what is wanted or has run out. The shuffle of a class
depends on the seed, its name and all its images in the split, not on the class order. What is wanted is a least number:
rarer classes bring frequent ones along, so that at 5 shots of COCO ``person`` is in far more than 5 images. Preferring
images without the classes that have enough would show rare classes in unusual scenes only, and is deliberately absent.
RaPO's released code draws training images over all tasks at once, so an image of a later task counts for the earlier
classes in it; here each task's are drawn for itself, and none goes short.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from task_streams.config import Count, DilConfig, SourceCilConfig, SourceConfig
from task_streams.errors import UserError, shown
from task_streams.labels import label_problems
from task_streams.prompt import visible
from task_streams.scenarios.draw import random_state, with_reasons
from task_streams.scenarios.shots import listed_images, unused_listed
from task_streams.scenarios.split import class_order, task_name, too_many_classes
from task_streams.sources.boxes import BoxTable, IntArray
from task_streams.sources.library import Library, all_problems
from task_streams.sources.records import Found, Record, Split, Workspace
from task_streams.sources.upright_boxes import BoxFrame, UprightBoxes
from task_streams.types import Annotation, Example, Scenario, Task, TaskStream, listed


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(SourceConfig):
    """What every detection stream can be asked for."""

    shots: Count | None = 5
    """Training images with each class of a task, at least, >= 1 (one counts for all its classes); null = all images."""
    test_per_class: Count | None = None
    """Test images with each class, >= 1, drawn likewise over all tasks at once; null = all of the test split."""
    annotation: Annotation = "seen"
    """Classes that training prompts list and training boxes show: seen (all so far) or new_only (the task's own)."""
    box_frame: BoxFrame = "auto"
    """Where EXIF turns an image, boxes are of the frame: auto (its declared size tells), upright, or stored (raw)."""
    allow_empty_classes: bool = False
    """Whether a class of a task may be in none of its training or test images; it is then recorded, else an error."""


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
        seen: classes taught so far, in the order in which prompts list them.
        train_images: positions in the table of training images to draw from.
        test: table of the test images; one for all tasks of a domain.
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
    by_name: bool = True,
) -> TaskStream:
    """Class-incremental stream of the boxes of a training and a test split.

    The class order is a permutation of the class names sorted, or as the source lists them (``by_name=False``).

    Raises:
        UserError: problems of the splits, damaged images, too few classes, classes without positives.
    """
    over = sorted(train.classes) if by_name else train.classes
    problems = label_problems(train.classes)
    if train.classes != test.classes:
        alone = sorted(set(train.classes) ^ set(test.classes))
        problems.append(f"{name}: training and test split list other classes: {shown(alone) or 'in another order'}")
    if sum(config.sizes) > len(train.classes):
        problems.append(too_many_classes(name, config.sizes, len(train.classes)))
    if problems:
        raise UserError(*train.problems, *test.problems, *problems)
    order = [over[i] for i in np.random.RandomState(order_seed).permutation(len(over))][: sum(config.sizes)]
    ends = np.cumsum(config.sizes)
    task_of = {label: int(np.searchsorted(ends, place, "right")) for place, label in enumerate(order)}
    tasks = np.array([task_of.get(label, -1) for label in train.classes], dtype=np.int32)
    # Task of the newest of each image's classes, -1 for an image with none of them; every image has a box. [N]
    newest = np.maximum.reduceat(tasks[train.category], train.first[:-1]) if train.keys else tasks[:0]
    steps = []
    for number, (size, end) in enumerate(zip(config.sizes, ends, strict=True)):
        classes = tuple(order[end - size : end])
        seen = listed(order[:end], config.draw_settings["label_order"])
        steps.append(Step(task_name(classes), classes, seen, train, np.flatnonzero(newest == number), test))
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
    tasks: list[Task] = []
    distinct = config.on_copies == "skip"
    with all_problems(found, library):
        used = {label for step in steps for label in step.classes}
        upright = UprightBoxes(library, config.box_frame)
        draw = ImageDraw(upright.admit, used, config.draw_seed, distinct)
        steps, shots, unused = _cut_to_list(steps, config)
        tests = {  # before anything is trained on, so a change of shots keeps the test images
            domain: draw.take(table, table.images_of(*used), used, config.test_per_class, "test", domain)
            for domain, table in {step.domain: step.test for step in steps}.items()
        }
        for number, step in enumerate(steps, start=1):
            train = draw.take(step.train, step.train_images, step.classes, shots, "train", step.domain)
            test = tuple(
                e for e in tests[step.domain] if isinstance(e.target, tuple) and visible(e.target, step.classes)
            )
            task = Task(number, step.name, step.classes, step.seen, train, test, "detection", config.annotation)
            tasks.append(task)
        judged = _judge(tasks, steps, config, draw.left_out)
    done = "images left out, copies of others" if distinct else "images are copies of others, and kept"
    copies = [f"{len(draw.copies)} {done}: {shown(draw.copies)}"] if draw.copies else []
    facts = [note for table in tables for note in table.notes]
    notes = (*facts, *notes, *unused, *copies, *upright.notes(), *judged, *library.report()[1])
    return TaskStream(name, scenario, order_seed, tuple(tasks), notes)


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


def balanced(
    orders: Mapping[str, Sequence[int]], covers: Callable[[int], Collection[str]], wanted: int, refused: Collection[int]
) -> set[int]:
    """Images so that every class is in ``wanted`` of them, where it has as many.

    Args:
        orders: images of each class, in the order in which they are taken.
        covers: classes in an image.
        wanted: images per class.
        refused: images that must not be taken.
    """
    waiting = {name: iter(order) for name, order in orders.items()}
    count = dict.fromkeys(sorted(orders), 0)
    chosen: set[int] = set()
    while waiting:
        name = min(waiting, key=lambda name: (count[name], name))
        image = next((image for image in waiting[name] if image not in chosen and image not in refused), None)
        if image is None:
            del waiting[name]
            continue
        chosen.add(image)
        for other in count.keys() & covers(image):
            count[other] += 1
        waiting = {name: rest for name, rest in waiting.items() if count[name] < wanted}
    return chosen


@dataclass(slots=True)
class ImageDraw:
    """Draws images of box tables; what is damaged, or a copy of what was drawn, is replaced by the next.

    Attributes:
        admit: makes examples of records, None for a damaged one.
        used: classes of the stream; boxes of others are not shown.
        seed: of the draws.
        distinct: leave out an image whose content was drawn before, in any task and split.
        drawn: first example of each content.
        copies: images whose content was drawn before.
        left_out: how many images with each class were left out, by split and class and by the reason.
    """

    admit: Callable[[Sequence[Record]], Sequence[Example | None]]
    used: Collection[str]
    seed: int
    distinct: bool
    drawn: dict[str, Example] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)
    left_out: dict[tuple[Split, str], Counter[str]] = field(default_factory=dict)

    def take(
        self,
        table: BoxTable,
        images: Iterable[int],
        classes: Collection[str],
        wanted: int | None,
        split: Split,
        domain: str = "",
    ) -> tuple[Example, ...]:
        """Examples of the given images, sorted by key: all good ones, or ``wanted`` for each of the classes."""
        free = {int(image) for image in images}
        orders: dict[str, list[int]] = {}
        for name in classes if wanted is not None else ():
            of_class = table.images_of(name)  # all of them, so that the order is the same whichever are free
            order = of_class[random_state(self.seed, name).permutation(len(of_class))]
            orders[name] = [image for image in order.tolist() if image in free]
        admitted: dict[int, Example] = {}
        refused: set[int] = set()
        while True:
            chosen = free - refused
            if wanted is not None:
                chosen = balanced(orders, table.classes_in, wanted, refused)
            if not (fresh := sorted(chosen - admitted.keys())):
                return tuple(admitted[image] for image in sorted(chosen))
            records = [table.record(image, self.used, split, domain) for image in fresh]
            for image, example in zip(fresh, self.admit(records), strict=True):
                reason = "damaged or not taken by the model"
                if example is not None:
                    kept = self.drawn.setdefault(example.content, example)
                    if kept is not example:
                        self.copies.append(f"{example.key} = {kept.key}")
                    if kept is example or not self.distinct:
                        admitted[image] = example
                        continue
                    reason = "copies of others"
                refused.add(image)
                for name in table.classes_in(image):
                    self.left_out.setdefault((split, name), Counter())[reason] += 1


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
    images: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    boxes: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for split, examples in enumerate((task.train, task.test)):
        for example in examples:
            categories = [box.category for box in example.target] if isinstance(example.target, tuple) else []
            images[split].update(set(categories))
            boxes[split].update(categories)
    names = task.classes if classes is None else classes
    return [Positives(name, images[0][name], boxes[0][name], images[1][name], boxes[1][name]) for name in names]


def _judge(
    tasks: Sequence[Task],
    steps: Sequence[Step],
    config: DetectionConfig,
    left_out: Mapping[tuple[Split, str], Mapping[str, int]],
) -> list[str]:
    """Notes on the positives of every task: how many there are, which classes are short of what was asked.

    ``left_out``: that of the draw.
    """
    problems, empty, notes = [], [], []
    for task, step in zip(tasks, steps, strict=True):
        rows = positives(task)
        splits: tuple[tuple[Split, str, dict[str, int], int | None, BoxTable], ...] = (
            ("train", "training", {row.category: row.train_images for row in rows}, config.shots, step.train),
            ("test", "test", {row.category: row.test_images for row in rows}, config.test_per_class, step.test),
        )
        for split, word, counts, wanted, table in splits:
            none = [label for label, count in counts.items() if not count]
            lost = [f"{label}: {table.lost[label]}" for label in none if label in table.lost]
            why = f"; boxes left out: {shown(lost)}" if lost else ""
            images = [with_reasons(label, left_out[split, label]) for label in none if (split, label) in left_out]
            why += f"; images of {shown(images)}" if images else ""
            if len(none) == len(counts):
                problems.append(f"task {task.name}: no {word} images{why}")
            elif none:
                empty.append(f"task {task.name}: no {word} images with {len(none)} classes: {shown(none)}{why}")
            if short := [f"{label} ({images})" for label, images in counts.items() if 0 < images < (wanted or 0)]:
                notes.append(f"task {task.name}: fewer than {wanted} {word} images with {shown(short)}")
        counted = [f"{r.category} {r.train_images}/{r.train_boxes} {r.test_images}/{r.test_boxes}" for r in rows]
        notes.append(f"task {task.name}: images/boxes in training and in test: {', '.join(counted)}")
    if config.allow_empty_classes or not empty:
        remedy = "use other classes (categories that only group others have no boxes) or more images"
    else:
        problems, remedy = [*problems, *empty], "use other classes or more images, or set allow_empty_classes=true"
    if problems:
        raise UserError(*problems, remedy)
    return [*empty, *notes]
