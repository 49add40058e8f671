"""A stream in numbers: what its tasks learn from and are tested on, and how long their prompts are.

Where the data are on this machine the stream is built as a run builds it, and prompts of some of its items are encoded.
Elsewhere numbers come from the settings and from ``task_streams/declared.py``, and the outline says so.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from clrft.config import RunConfig
from clrft.estimate import Longest
from clrft.plan.checkpoint import checkpoint_of
from clrft.plan.ruler import Looked, Ruler, Shown
from clrft.run import cache_folder
from clrft.stage import glyph_probe
from methods.model_config import ModelConfig
from task_streams import Workspace, build_stream
from task_streams.config import CilConfig, StreamConfig
from task_streams.declared import DECLARED, Declared
from task_streams.draw import shuffled
from task_streams.errors import UserError
from task_streams.prompt import THOUGHTS, detection_question, question, request, target_text
from task_streams.split import joint_task
from task_streams.types import Box, Example, Kind, Question, Task, TaskStream

LOOKED_AT = 8  # items of each split of a task that are encoded
ITEM_SEED = 0  # of their draw
NAME = "great example"  # a class name where names are not known
ROOMS = ("root", "train")  # settings that say where a stream's data are


@dataclass(frozen=True, slots=True)
class TaskOutline:
    """One task.

    Attributes:
        train: items to learn from.
        test: items that it is tested on.
        prompt: tokens of a prompt to learn from.
        prompts: tokens of a prompt of its test, under the class list of each stage from the first.
        target: tokens that a supervised method trains towards, end of sequence included.
        shown: images of some of its items.
        lists_all: its class list is the stream's last.
    """

    train: int
    test: int
    prompt: float
    prompts: tuple[float, ...]
    target: float
    shown: Shown
    lists_all: bool


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
        kept = [replace(task, test=min(task.test, test), prompts=task.prompts[:tasks]) for task in self.tasks[:tasks]]
        last = tuple(replace(task, lists_all=task.lists_all or place == tasks) for place, task in enumerate(kept, 1))
        train = sum(task.train for task in last)
        joint = replace(self.joint, train=train, test=sum(task.test for task in last), prompt=last[-1].prompts[-1])
        return replace(self, tasks=last, joint=joint)


def outline_of(config: RunConfig) -> Outline:
    """The outline of a cell's stream.

    Raises:
        UserError: data that are here are not as the stream expects; or nothing tells how large those are that are not.
    """
    thought = getattr(config.method, "thought", THOUGHTS[0])
    asked = (config.stream_name, config.stream, config.seed, config.model, thought, cache_folder(config))
    return _outline(*asked)


@cache
def _outline(name: str, config: StreamConfig, seed: int, model: ModelConfig, thought: str, folder: Path) -> Outline:
    ruler = Ruler(checkpoint_of(model), model)
    if absent(config):
        return declared_outline(name, config, ruler, thought)
    stream = build_stream(name, config, seed, Workspace(folder))
    return counted_outline(stream, config, ruler, thought)


def absent(config: StreamConfig) -> str:
    """Where a stream's data should be and are not; empty if they are there, or need no place."""
    places = [getattr(config, name) for name in ROOMS if isinstance(getattr(config, name, None), str)]
    return next((place for place in places if place and not os.path.exists(Path(place).expanduser())), "")


def counted_outline(stream: TaskStream, config: StreamConfig, ruler: Ruler, thought: str) -> Outline:
    """The outline of a stream that was built."""
    think = config.think
    tests = [looked_at(ruler, task.test, task.seen, think) for task in stream.tasks]
    trains = [looked_at(ruler, task.train, task.trained, think) for task in stream.tasks]
    lists = [ruler.text(list_text(task, task.seen, think)) for task in stream.tasks]
    tasks = [
        TaskOutline(
            train=len(task.train),
            test=len(task.test),
            prompt=train.tokens,
            prompts=tuple(test.tokens + length - lists[place] for length in lists),
            target=target_tokens(ruler, task, thought, think),
            shown=test.shown,
            lists_all=task.seen == stream.labels,
        )
        for place, (task, test, train) in enumerate(zip(stream.tasks, tests, trains, strict=True))
    ]
    whole = joint_task(stream)
    longer = max(lists) - min(lists)
    both = [*tests, *trains]
    longest = Longest(
        tokens=max(one.longest for one in both) + longer,
        patches=max(one.patches for one in both),
        images=max(one.images for one in both),
        pixels=max(one.patches // max(one.images, 1) for one in both) * ruler.patch**2,
        examples=max(len(task.train) for task in stream.tasks),
        items=max(len(task.test) for task in stream.tasks),
    )
    return Outline(
        tasks=tuple(tasks),
        joint=joined(tasks, looked_at(ruler, whole.train, whole.trained, think).tokens),
        kind=whole.kind,
        longest=longest,
        here=True,
        exact=ruler.processor is not None,
    )


def looked_at(ruler: Ruler, items: Sequence[Example], labels: tuple[str, ...], think: bool) -> Looked:
    """The prompts of some of a split's items."""
    chosen = shuffled(items, ITEM_SEED, "plan")[:LOOKED_AT]
    return ruler.look([request(item, labels, think) for item in chosen])


def list_text(task: Task, labels: tuple[str, ...], think: bool) -> str:
    """What of a task's prompts a class list decides; nothing for questions."""
    if task.kind == "question":
        return ""
    return detection_question(labels, think) if task.kind == "detection" else question(labels, think)


def target_tokens(ruler: Ruler, task: Task, thought: str, think: bool) -> float:
    """Mean length of what supervised methods train towards, end of sequence included."""
    texts = [target_text(item.target, thought, think, task.trained) for item in task.train]
    known = {text: ruler.text(text) + 1 for text in dict.fromkeys(texts)}
    return fmean(known[text] for text in texts)


def probe_of(config: RunConfig) -> Looked:
    """A prompt of a cell's built-in probe, which lists the classes of the items that are asked."""
    return _probe(config.model, config.stream.think, max(1, config.evaluate.probe))


@cache
def _probe(model: ModelConfig, think: bool, items: int) -> Looked:
    task = glyph_probe(items)
    return Ruler(checkpoint_of(model), model).look([request(task.test[0], task.seen, think)])


def joined(tasks: Sequence[TaskOutline], prompt: float) -> TaskOutline:
    """All tasks as one."""
    shown = Shown(sum(task.shown.items for task in tasks), tuple(grid for task in tasks for grid in task.shown.grids))
    train, test = sum(task.train for task in tasks), sum(task.test for task in tasks)
    target = sum(task.target * task.train for task in tasks) / train
    return TaskOutline(train, test, prompt, (prompt,), target, shown, True)


def declared_outline(name: str, config: StreamConfig, ruler: Ruler, thought: str) -> Outline:
    """The outline of a stream whose data are not here.

    Raises:
        UserError: nothing tells how large it is.
    """
    size = declared_size(name, config)
    kind: Kind = "question" if is_questions(config) else size.kind
    sizes = class_sizes(config, size)
    shots, tests = train_items(config, size, sizes), test_items(config, size, sizes)
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))] if isinstance(config, CilConfig) else sizes
    frames = frames_of(config, size)
    texts = [made_up_text(kind, end, config.think) for end in ends]
    last = ruler.made_up(texts[-1], size.width, size.height, frames)
    prompts = [last.tokens + ruler.text(text) - ruler.text(texts[-1]) for text in texts]
    target = ruler.text(target_text(made_up_target(kind, size), thought, config.think, (NAME,))) + 1
    tasks = [
        TaskOutline(train, test, prompt, tuple(prompts), float(target), last.shown, end == ends[-1])
        for train, test, prompt, end in zip(shots, tests, prompts, ends, strict=True)
    ]
    pixels = last.patches // max(last.images, 1) * ruler.patch**2
    longest = Longest(last.longest, last.patches, last.images, pixels, examples=max(shots), items=max(tests))
    return Outline(tuple(tasks), joined(tasks, last.tokens), kind, longest, here=False, exact=False)


def declared_size(name: str, config: StreamConfig) -> Declared:
    """What is known of a dataset's size; a user's own needs ``stream.test_per_class``.

    Raises:
        UserError: nothing is.
    """
    if name in DECLARED:
        return DECLARED[name]
    if config.test_per_class is None or config.shots is None or not class_sizes(config, None):
        raise UserError(
            f"stream {name!r}: its data are not at {absent(config)}, and nothing tells how large they are; expected "
            "them there, or stream.shots and stream.test_per_class (for domains: stream.domains) as numbers."
        )
    return Declared("the settings", max(class_sizes(config, None)), 0, seconds=10.0 if hasattr(config, "fps") else 0.0)


def is_questions(config: StreamConfig) -> bool:
    """Whether a stream asks questions of its own."""
    return isinstance(getattr(config, "tasks", None), tuple)


def class_sizes(config: StreamConfig, size: Declared | None) -> list[int]:
    """New classes of each task; of a domain all of its classes, of questions 1 for a task."""
    if isinstance(config, CilConfig):
        return list(config.sizes)
    if is_questions(config):
        return [1] * len(config.tasks)  # type: ignore[attr-defined]
    named: Any = getattr(config, "domains", ())
    classes: Any = getattr(config, "classes", ())
    known = len(classes) or (size.classes if size is not None else 0)
    return [known] * (len(named) or (size.domains if size is not None else 0)) if known else []


def train_items(config: StreamConfig, size: Declared, sizes: Sequence[int]) -> list[int]:
    """Items that each task learns from.

    Raises:
        UserError: the settings take all there are, and how many that is is not known.
    """
    if config.shots is None:
        raise UserError("stream.shots: got null, but the data are not here to be counted; expected a number.")
    return [count * config.shots for count in sizes]


def test_items(config: StreamConfig, size: Declared, sizes: Sequence[int]) -> list[int]:
    """Test items of each task, no more than the dataset has."""
    all_classes = size.classes if isinstance(config, CilConfig) else sum(sizes)
    each = size.test / max(all_classes, 1)
    if config.test_per_class is not None:
        each = min(float(config.test_per_class), each) if size.test else float(config.test_per_class)
    return [max(1, round(count * each)) for count in sizes]


def frames_of(config: StreamConfig, size: Declared) -> int:
    """Images of an item."""
    if not size.seconds:
        return 1
    fps, most = float(getattr(config, "fps", 2.0)), int(getattr(config, "max_frames", 16))
    frames = min(most, max(2, round(size.seconds * fps)))
    return -(-frames // 2) if getattr(config, "feed", "images") == "video" else frames  # a video's go in pairs


def made_up_text(kind: Kind, classes: int, think: bool) -> str:
    """A question about so many classes."""
    names = (NAME,) * classes
    if kind == "question":
        return question((NAME,) * 4, think)
    return detection_question(names, think) if kind == "detection" else question(names, think)


def made_up_target(kind: Kind, size: Declared) -> Any:
    """A right answer."""
    if kind == "question":
        return Question(NAME, (NAME,))
    return (Box(NAME, (123, 123, 456, 456)),) * max(1, round(size.boxes)) if kind == "detection" else NAME
