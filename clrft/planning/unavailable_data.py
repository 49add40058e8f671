"""Statistics of a stream whose data are not on this machine: from its settings and the published sizes."""

import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from clrft.memory.estimate import Longest
from clrft.planning.stream_statistics import Outline, TaskOutline, joined
from clrft.planning.token_lengths import Ruler
from task_streams.config import CilConfig, StreamConfig
from task_streams.datasets.clip_folders import AUTO
from task_streams.datasets.published_sizes import DECLARED, Declared
from task_streams.errors import UserError
from task_streams.prompt import target_text
from task_streams.prompt_style import PromptStyle
from task_streams.types import Box, Feed, Kind, Question

NAME = "great example"  # a class name where names are not known
QUESTION = f"What does the image show? Choose from: {', '.join((NAME,) * 4)}."  # one of its own
ROOMS = ("root", "train")  # settings that say where a stream's data are


def absent(config: StreamConfig) -> str:
    """Where a stream's data should be and are not; empty if they are there, or need no place."""
    places = [getattr(config, name) for name in ROOMS if isinstance(getattr(config, name, None), str)]
    return next((place for place in places if place and not os.path.exists(Path(place).expanduser())), "")


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
    texts = [made_up_text(kind, end, config.style) for end in ends]
    last = ruler.made_up(texts[-1], size.width, size.height, frames_of(config, size), feed_of(config, ruler))
    shorter = [ruler.text(texts[-1]) - ruler.text(text) for text in texts]
    prompts = [last.tokens - less for less in shorter]
    leads = made_up_leads(kind, ruler, texts[-1], last.lead, shorter)
    target = ruler.text(target_text(made_up_target(kind, size), thought, config.style, (NAME,))) + 1
    rest = (float(target), last.shown)
    tasks = [
        TaskOutline(train, test, new, prompt, tuple(prompts), *rest, end == ends[-1], lead, tuple(leads))
        for train, (test, new), prompt, end, lead in zip(shots, tests, prompts, ends, leads, strict=True)
    ]
    pixels = last.patches // max(last.images, 1) * ruler.patch**2
    longest = Longest(last.longest, last.patches, last.images, pixels, examples=max(shots), items=max(tests)[0])
    return Outline(tuple(tasks), joined(tasks, last.tokens, leads[-1]), kind, longest, here=False, exact=False)


def made_up_leads(kind: Kind, ruler: Ruler, text: str, lead: int, shorter: Sequence[int]) -> list[float]:
    """What the prompts of each class list begin with, by that of the longest list; questions differ in their text."""
    if ruler.media != "last":
        return [float(lead)] * len(shorter)
    if kind == "question":
        return [float(lead - ruler.text(text))] * len(shorter)
    return [float(lead - less) for less in shorter]


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


def test_items(config: StreamConfig, size: Declared, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Test items of each task, no more than the dataset has, and those of them that no task before it has.

    Of N images with c of the classes in each, N (1 − (1 − s)^c) have one of a share s of the classes.
    """
    new_classes = isinstance(config, CilConfig)
    every = max(size.classes if new_classes else sum(sizes), 1)
    each = size.test / every
    if config.test_per_class is not None:
        each = min(float(config.test_per_class), each) if size.test else float(config.test_per_class)

    def holding(classes: int) -> float:
        without: float = (1 - classes / every) ** (size.labels if new_classes else 1.0)
        return each * every * (1 - without)

    ends = [*accumulate(sizes)]
    new = [holding(end) - holding(end - count) for end, count in zip(ends, sizes, strict=True)]
    return [(max(1, round(holding(count))), max(1, round(more))) for count, more in zip(sizes, new, strict=True)]


def frames_of(config: StreamConfig, size: Declared) -> int:
    """Images of an item."""
    if not size.seconds:
        return 1
    fps, most = float(getattr(config, "fps", 2.0)), int(getattr(config, "max_frames", 16))
    return min(most, max(2, round(size.seconds * fps)))


def feed_of(config: StreamConfig, ruler: Ruler) -> Feed:
    """How clips go into the model; images where there are none."""
    asked: Any = getattr(config, "feed", "images")
    return ruler.feed if asked == AUTO else asked


def made_up_text(kind: Kind, classes: int, style: PromptStyle) -> str:
    """A question about so many classes, or one of its own."""
    return style.ask_own(QUESTION) if kind == "question" else style.ask(kind, (NAME,) * classes)


def made_up_target(kind: Kind, size: Declared) -> Any:
    """A right answer."""
    if kind == "question":
        return Question(NAME, (NAME,))
    return (Box(NAME, (123, 123, 456, 456)),) * max(1, round(size.boxes)) if kind == "detection" else NAME
