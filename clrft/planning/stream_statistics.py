"""A stream in numbers: what its tasks learn from and are tested on, and how long their prompts are.

Where the data are on this machine the stream is built as a run builds it, and prompts of some of its items are encoded.
Elsewhere they come from the settings, the published sizes and made-up names of classes, which the statistics say.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.memory.estimate import Longest
from clrft.planning.token_lengths import Grid, PromptLengths, TokenLengths
from clrft.runner.prepare import cache_folder
from clrft.runner.stage import glyph_probe
from methods.model.config import ModelConfig
from task_streams import Workspace, build_stream
from task_streams.config import CilConfig, StreamConfig
from task_streams.datasets.clip_folders import AUTO
from task_streams.datasets.published_sizes import DECLARED, Declared
from task_streams.errors import UserError
from task_streams.prompt import THOUGHTS, request, target_text
from task_streams.prompt_style import PromptStyle
from task_streams.scenarios.draw import shuffled
from task_streams.scenarios.split import joint_task
from task_streams.types import Box, Example, Kind, Question, TaskStream, new_test_items

LOOKED_AT = 8  # items of each split of a task that are encoded
ITEM_SEED = 0  # of their draw
NAME = "great example"  # a class name where names are not known
QUESTION = f"What does the image show? Choose from: {', '.join((NAME,) * 4)}."  # one of its own
ROOMS = ("root", "train")  # settings that say where a stream's data are


@dataclass(frozen=True, slots=True)
class TaskStatistics:
    """One task."""

    train: int  # items to learn from
    test: int  # items that it is tested on
    new: int  # those of them that no task before it is tested on
    prompt: float  # tokens of a prompt to learn from
    lead: float  # tokens that all of these begin with
    prompts: tuple[float, ...]  # tokens of a prompt of its test, under the class list of each stage from the first
    leads: tuple[float, ...]  # tokens that all of these begin with
    target: float  # tokens that a supervised method trains towards, end of sequence included
    grids: tuple[tuple[Grid, ...], ...]  # of the images of some of its items
    lists_all: bool  # its class list is the stream's last


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """A stream."""

    tasks: tuple[TaskStatistics, ...]  # in their order
    joint: TaskStatistics  # all of them as one
    longest: Longest  # of the prompts
    here: bool  # its data are on this machine; else the numbers are estimates
    exact: bool  # prompts were encoded by the model's processor

    def cut(self, tasks: int, test: int) -> "StreamStatistics":
        """The first tasks alone, with at most so many test items each."""
        kept = tuple(
            replace(
                task,
                test=min(task.test, test),
                new=min(task.new, test),
                prompts=task.prompts[:tasks],
                leads=task.leads[:tasks],
                lists_all=task.lists_all or place == tasks,
            )
            for place, task in enumerate(self.tasks[:tasks], 1)
        )
        return replace(self, tasks=kept, joint=joined(kept, kept[-1].prompts[-1], kept[-1].leads[-1]))


def joined(tasks: Sequence[TaskStatistics], prompt: float, lead: float) -> TaskStatistics:
    """All tasks as one, with the length of its prompts and of what they begin with."""
    train, test = sum(task.train for task in tasks), sum(task.new for task in tasks)
    target = sum(task.target * task.train for task in tasks) / train
    grids = tuple(one for task in tasks for one in task.grids)
    return TaskStatistics(train, test, test, prompt, lead, (prompt,), (lead,), target, grids, lists_all=True)


def statistics_of(config: RunConfig) -> StreamStatistics:
    """The statistics of a cell's stream.

    Raises:
        UserError: data that are here are not as the stream expects; or nothing tells how large those are that are not.
    """
    thought = getattr(config.method, "thought", THOUGHTS[0])
    return _statistics(config.stream_name, config.stream, config.seed, config.model, thought, cache_folder(config))


@cache
def _statistics(
    name: str, config: StreamConfig, seed: int, model: ModelConfig, thought: str, folder: Path
) -> StreamStatistics:
    lengths = token_lengths(model)
    if absent(config):
        return declared_statistics(name, config, lengths, thought)
    return counted_statistics(build_stream(name, config, seed, Workspace(folder, feed=lengths.feed)), lengths, thought)


@cache
def token_lengths(model: ModelConfig) -> TokenLengths:
    """The lengths of some settings' model."""
    return TokenLengths(model)


def counted_statistics(stream: TaskStream, lengths: TokenLengths, thought: str) -> StreamStatistics:
    """The statistics of a stream that was built."""

    def some(items: Sequence[Example], labels: tuple[str, ...], style: PromptStyle) -> PromptLengths:
        chosen = shuffled(items, ITEM_SEED, "plan")[:LOOKED_AT]
        return lengths.prompts([request(item, labels, style) for item in chosen])

    # What of a task's prompts its class list decides; nothing for questions.
    lists = [
        lengths.text("" if task.kind == "question" else task.style.ask(task.kind, task.seen)) for task in stream.tasks
    ]
    behind = lengths.media == "last"  # images: the class list is among what all prompts begin with
    tasks, looked_at = [], []
    for place, (task, new) in enumerate(zip(stream.tasks, new_test_items(stream.tasks), strict=True)):
        test, train = (
            some(items, labels, task.style) for items, labels in ((task.test, task.seen), (task.train, task.trained))
        )
        texts = [target_text(item.target, thought, task.style, task.trained) for item in task.train]
        known = {text: lengths.text(text) + 1 for text in dict.fromkeys(texts)}
        longer = [length - lists[place] for length in lists]
        looked_at += [test, train]
        tasks.append(
            TaskStatistics(
                train=len(task.train),
                test=len(task.test),
                new=len(new),
                prompt=train.tokens,
                lead=train.lead,
                prompts=tuple(test.tokens + more for more in longer),
                leads=tuple(test.lead + behind * more for more in longer),
                target=fmean(known[text] for text in texts),
                grids=test.grids,
                lists_all=task.seen == stream.labels,
            )
        )
    whole = joint_task(stream)
    joint = some(whole.train, whole.trained, whole.style)
    longest = Longest(
        tokens=max(one.longest for one in looked_at) + max(lists) - min(lists),
        patches=max(one.patches for one in looked_at),
        images=max(one.images for one in looked_at),
        pixels=max(one.patches // max(one.images, 1) for one in looked_at) * lengths.patch**2,
        examples=max(task.train for task in tasks),
        items=max(task.test for task in tasks),
    )
    together = joined(tasks, joint.tokens, joint.lead)
    return StreamStatistics(tuple(tasks), together, longest, True, lengths.processor is not None)


@cache
def probe_statistics(model: ModelConfig, style: PromptStyle, items: int) -> TaskStatistics:
    """The built-in probe as a task, which lists the classes of the items that are asked."""
    task = glyph_probe(max(1, items), style)
    found = token_lengths(model).prompts([request(task.test[0], task.seen, style)])
    asked, lead = (found.tokens,), (float(found.lead),)
    return TaskStatistics(0, items, items, found.tokens, found.lead, asked, lead, 0.0, found.grids, lists_all=True)


def absent(config: StreamConfig) -> str:
    """Where a stream's data should be and are not; empty if they are there, or need no place."""
    places = [getattr(config, name) for name in ROOMS if isinstance(getattr(config, name, None), str)]
    return next((place for place in places if place and not os.path.exists(Path(place).expanduser())), "")


def declared_statistics(name: str, config: StreamConfig, lengths: TokenLengths, thought: str) -> StreamStatistics:
    """The statistics of a stream whose data are not here.

    Raises:
        UserError: nothing tells how large it is, or the settings take all items of a number that is not known.
    """
    questions = isinstance(getattr(config, "tasks", None), tuple)  # of the stream's own
    size = DECLARED.get(name)
    if size is None:
        sizes = class_sizes(config, None)
        if config.test_per_class is None or config.shots is None or not sizes:
            raise UserError(
                f"stream {name!r}: its data are not at {absent(config)}, and nothing tells how large they are; "
                "expected them there, or stream.shots and stream.test_per_class (for domains: stream.domains) as "
                "numbers."
            )
        size = Declared("the settings", max(sizes), 0, seconds=10.0 if hasattr(config, "fps") else 0.0)
    sizes = class_sizes(config, size)
    if config.shots is None:
        raise UserError("stream.shots: got null, but the data are not here to be counted; expected a number.")
    kind: Kind = "question" if questions else size.kind
    target: Any = Question(NAME, (NAME,)) if questions else NAME
    if kind == "detection":
        target = (Box(NAME, (123, 123, 456, 456)),) * max(1, round(size.boxes))
    ends = [*accumulate(sizes)] if isinstance(config, CilConfig) else sizes
    style = config.style
    texts = [style.ask_own(QUESTION) if questions else style.ask(kind, (NAME,) * end) for end in ends]
    seconds, fps = size.seconds, float(getattr(config, "fps", 2.0))
    frames = min(int(getattr(config, "max_frames", 16)), max(2, round(seconds * fps))) if seconds else 1
    feed: Any = getattr(config, "feed", "images")
    last = lengths.made_up(texts[-1], size.width, size.height, frames, lengths.feed if feed == AUTO else feed)
    shorter = [lengths.text(texts[-1]) - lengths.text(text) for text in texts]
    prompts = tuple(float(last.tokens - less) for less in shorter)
    # What prompts begin with: of the class list, if it stands first; questions differ in their text.
    first = lengths.media == "last"
    own = lengths.text(texts[-1]) if first and questions else 0
    leads = tuple(float(last.lead - own - (less if first and not questions else 0)) for less in shorter)
    tests = test_items(config, size, sizes)
    tasks = tuple(
        TaskStatistics(
            train=count * config.shots,
            test=test,
            new=new,
            prompt=prompt,
            lead=lead,
            prompts=prompts,
            leads=leads,
            target=lengths.text(target_text(target, thought, style, (NAME,))) + 1.0,
            grids=last.grids,
            lists_all=end == ends[-1],
        )
        for count, (test, new), prompt, lead, end in zip(sizes, tests, prompts, leads, ends, strict=True)
    )
    pixels = last.patches // max(last.images, 1) * lengths.patch**2
    examples, items = max(task.train for task in tasks), max(task.test for task in tasks)
    longest = Longest(last.longest, last.patches, last.images, pixels, examples=examples, items=items)
    joint = joined(tasks, last.tokens, leads[-1])
    return StreamStatistics(tasks, joint, longest, here=False, exact=False)


def class_sizes(config: StreamConfig, size: Declared | None) -> list[int]:
    """New classes of each task; of a domain all of its classes, of questions 1 for a task."""
    if isinstance(config, CilConfig):
        return list(config.sizes)
    own: Any = getattr(config, "tasks", None)
    if isinstance(own, tuple):
        return [1] * len(own)
    named: Any = getattr(config, "domains", ())
    classes: Any = getattr(config, "classes", ())
    known = len(classes) or (size.classes if size is not None else 0)
    return [known] * (len(named) or (size.domains if size is not None else 0)) if known else []


def test_items(config: StreamConfig, size: Declared, sizes: list[int]) -> list[tuple[int, int]]:
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

    new = [holding(end) - holding(end - count) for end, count in zip(accumulate(sizes), sizes, strict=True)]
    return [(max(1, round(holding(count))), max(1, round(more))) for count, more in zip(sizes, new, strict=True)]
