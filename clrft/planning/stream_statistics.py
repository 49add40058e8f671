"""A stream in numbers: what its tasks learn from and are tested on, and how long their prompts are.

Where the data are on this machine the stream is built as a run builds it, and prompts of some of its items are encoded.
Elsewhere they come from the settings, the published sizes and made-up names of classes, which the statistics say.
Prompts are arranged as the settings have them (``model.media``), and with their length comes what all of them begin
with: that is computed once for a batch (``methods/generation/shared_prefix.py``).
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, takewhile
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from clrft.base_model import default_model_path
from clrft.config.run_config import RunConfig
from clrft.memory.model_sizes import known_sizes, local_config
from clrft.memory.phases import Longest
from clrft.runner.prepare import cache_folder
from clrft.runner.stage import glyph_probe
from clrft.utils.plain import read_yaml
from methods.inputs.encoding import encoded_turns
from methods.inputs.media import preferred_feed, token_types
from methods.model.config import ModelConfig
from methods.model.policy import load_processor
from task_streams import Workspace, build_stream
from task_streams.config import CilConfig, StreamConfig
from task_streams.datasets.clip_folders import AUTO
from task_streams.errors import UserError
from task_streams.prompt import THOUGHTS, Request, request, target_text, user_turn
from task_streams.prompt_style import PromptStyle
from task_streams.scenarios.draw import shuffled
from task_streams.types import Box, Clip, Kind, Media, Question, TaskStream, new_test_items

LOOKED_AT = 8  # items of each split of a task that are encoded
ITEM_SEED = 0  # of their draw
NAME = "great example"  # a class name where names are not known
QUESTION = f"What does the image show? Choose from: {', '.join((NAME,) * 4)}."  # one of its own
PUBLISHED = Path(__file__).with_name("published_streams.yaml")
ROOMS = ("root", "train")  # settings that say where a stream's data are
LETTERS = 4  # of English text in a token of a large vocabulary
FRAME = 24  # tokens of Qwen2-VL's chat template beside the question
BEFORE = 14  # of them before it: the system's turn, and who asks
AROUND = 2  # tokens around an image
DEFAULT_LIMITS = (56 * 56, 14 * 14 * 4 * 1280)  # pixels of an image, of Qwen2-VL's own processor
GRID_NAMES = ("image_grid_thw", "video_grid_thw")

Grid = tuple[int, int, int]  # patches of an image or clip in time, height and width


def images_in(grids: Sequence[Grid]) -> int:
    """Images; of a clip the steps of its time."""
    return sum(time for time, _, _ in grids)


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """Some prompts."""

    tokens: float  # mean length, images included
    longest: int  # length of the longest
    grids: tuple[tuple[Grid, ...], ...]  # of the images of each, as the vision tower gets them
    lead: float  # tokens of text that all of them begin with

    def longer(self, tokens: int, media: str) -> "PromptLengths":
        """The same with a class list that is so many tokens longer; all begin with it where images stand last."""
        mean, longest, lead = self.tokens + tokens, self.longest + tokens, self.lead + tokens * (media == "last")
        return PromptLengths(mean, longest, self.grids, lead)


class TokenLengths:
    """Lengths for one model.

    Attributes:
        processor: the checkpoint's, where it is on this machine.
        patch: pixels along each side of a patch.
        media: where images stand in a prompt.
        feed: how clips go into the model where ``stream.feed`` leaves it open.
    """

    def __init__(self, config: ModelConfig) -> None:
        path, sizes = config.path or str(default_model_path()), known_sizes(config)
        self.processor: Any = None if local_config(path, config.revision) is None else load_processor(config, path)
        self.merge, self.patch, self.media = sizes.shape.merge, sizes.patch, config.media
        self.limits = (config.min_pixels or DEFAULT_LIMITS[0], config.max_pixels or DEFAULT_LIMITS[1])
        self.feed = preferred_feed(self.processor) if self.processor is not None else "video"  # published: all take it

    def text(self, text: str) -> int:
        """Tokens of a text."""
        if self.processor is None:
            return -(-len(text) // LETTERS)
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompts(self, requests: Sequence[Request]) -> PromptLengths:
        """The lengths of some questions, one or more, each encoded alone."""
        asked = [request.arranged(self.media) for request in requests]
        if self.processor is None:
            grids = [tuple(self._grid(item) for item in one.media) for one in asked]
            words = [
                sum(self.text(part.get("text", "")) for turn in one.messages for part in turn["content"])
                for one in asked
            ]
            tokens = [
                FRAME + count + AROUND * len(own) + sum(map(prod, own)) // self.merge**2
                for count, own in zip(words, grids, strict=True)
            ]
            lead = BEFORE + (min(words) if self.media == "last" else 0)
        else:
            batches = [encoded_turns(self.processor, [(one.messages, one.media)]) for one in asked]
            grids = [
                tuple(tuple(grid) for name in GRID_NAMES if name in batch for grid in batch[name].tolist())
                for batch in batches
            ]
            ids = [batch["input_ids"] for batch in batches]
            tokens = [one.shape[1] for one in ids]
            kinds = [token_types(one, self.processor) for one in ids]
            typed = [zip(one[0].tolist(), kind[0].tolist(), strict=True) for one, kind in zip(ids, kinds, strict=True)]
            columns = zip(*typed, strict=False)  # to the end of the shortest
            # text, as far as all begin alike
            lead = sum(1 for _ in takewhile(lambda column: len({*column}) == 1 and column[0][1] == 0, columns))
        return PromptLengths(fmean(tokens), max(tokens), tuple(grids), lead)

    def _grid(self, item: Media) -> Grid:
        frames = [item] if isinstance(item, Image.Image) else item.frames
        steps = -(-len(frames) // 2)  # a clip's frames go in pairs, an image is one step
        height, width = smart_resize(frames[0].height, frames[0].width, self.patch * self.merge, *self.limits)
        return steps, height // self.patch, width // self.patch


@dataclass(frozen=True, slots=True)
class TaskStatistics:
    """One task."""

    train: int  # items to learn from
    test: int  # items that it is tested on
    new: int  # those of them that no task before it is tested on
    target: float  # tokens that a supervised method trains towards, end of sequence included
    prompt: PromptLengths  # of some of its items, under its own class list


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """A stream."""

    tasks: tuple[TaskStatistics, ...]  # in their order
    lists: tuple[int, ...]  # tokens of each one's class list; 0 for questions
    media: str  # where images stand: last, then the class list is among what all prompts begin with
    patch: int  # pixels along each side of a patch
    here: bool = False  # its data are on this machine; else the numbers are estimates
    exact: bool = False  # prompts were encoded by the model's processor

    def prompt(self, task: int, place: int) -> PromptLengths:
        """Prompts of a task, both by their place from 0, under the class list of another one."""
        return self.tasks[task].prompt.longer(self.lists[place] - self.lists[task], self.media)

    @property
    def joint(self) -> TaskStatistics:
        """All tasks as one, with the last class list."""
        train, test = sum(task.train for task in self.tasks), sum(task.new for task in self.tasks)
        target = sum(task.target * task.train for task in self.tasks) / train
        grids = tuple(own for task in self.tasks for own in task.prompt.grids)
        return TaskStatistics(train, test, test, target, replace(self.tasks[-1].prompt, grids=grids))

    @property
    def longest(self) -> Longest:
        """The longest of what prompts have, each with the longest class list."""
        grids = [own for task in self.tasks for own in task.prompt.grids]
        patches, images = max(sum(map(prod, own)) for own in grids), max(map(images_in, grids))
        behind_list = max(task.prompt.longest - own for task, own in zip(self.tasks, self.lists, strict=True))
        examples, items = (max(numbers) for numbers in zip(*((one.train, one.test) for one in self.tasks), strict=True))
        pixels = patches // max(images, 1) * self.patch**2
        return Longest(behind_list + max(self.lists), patches, images, pixels, examples=examples, items=items)


@dataclass(frozen=True, slots=True)
class Declared:
    """The size of a dataset, as ``published_streams.yaml`` explains it."""

    source: str
    classes: int
    test: int
    domains: int = 1
    kind: Kind = "classification"
    width: int = 500
    height: int = 375
    seconds: float = 0.0
    boxes: float = 0.0
    labels: float = 1.0


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
    tasks, lists = [], []
    for task, new in zip(stream.tasks, new_test_items(stream.tasks), strict=True):
        some = [item for items in (task.train, task.test) for item in shuffled(items, ITEM_SEED, "plan")[:LOOKED_AT]]
        prompt = lengths.prompts([request(item, task.seen, task.style) for item in some])
        texts = Counter(target_text(item.target, thought, task.style, task.trained) for item in task.train)
        target = sum((lengths.text(text) + 1) * times for text, times in texts.items()) / len(task.train)
        tasks.append(TaskStatistics(len(task.train), len(task.test), len(new), target, prompt))
        lists.append(lengths.text("" if task.kind == "question" else task.style.ask(task.kind, task.seen)))
    exact = lengths.processor is not None
    return StreamStatistics(tuple(tasks), tuple(lists), lengths.media, lengths.patch, here=True, exact=exact)


@cache
def probe_prompt(model: ModelConfig, style: PromptStyle, items: int) -> PromptLengths:
    """A prompt of the built-in probe, which lists the classes of the items that are asked."""
    task = glyph_probe(max(1, items), style)
    return token_lengths(model).prompts([request(task.test[0], task.seen, style)])


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
    known = read_yaml(PUBLISHED)
    size = Declared(**known[name]) if name in known else None
    sizes = class_sizes(config, size)
    if size is None:
        if config.test_per_class is None or config.shots is None or not sizes:
            raise UserError(
                f"stream {name!r}: its data are not at {absent(config)}, and nothing tells how large they are; "
                "expected them there, or stream.shots and stream.test_per_class (for domains: stream.domains) as "
                "numbers."
            )
        size = Declared("the settings", max(sizes), 0, seconds=10.0 if hasattr(config, "fps") else 0.0)
    if config.shots is None:
        raise UserError("stream.shots: got null, but the data are not here to be counted; expected a number.")
    kind: Kind = "question" if questions else size.kind
    target: Any = Question(NAME, (NAME,)) if questions else NAME
    if kind == "detection":
        target = (Box(NAME, (123, 123, 456, 456)),) * max(1, round(size.boxes))
    ends, style = [*accumulate(sizes)] if isinstance(config, CilConfig) else sizes, config.style
    texts = [style.ask_own(QUESTION) if questions else style.ask(kind, (NAME,) * end) for end in ends]
    seconds, fps = size.seconds, float(getattr(config, "fps", 2.0))
    frames = min(int(getattr(config, "max_frames", 16)), max(2, round(seconds * fps))) if seconds else 1
    images = (Image.new("RGB", (size.width, size.height)),) * frames
    feed: Any = getattr(config, "feed", "images")
    feed = lengths.feed if feed == AUTO else feed
    media: tuple[Media, ...] = (Clip(images, fps, feed),) if feed == "video" else images
    last = lengths.prompts([Request("made up", user_turn(texts[-1], media), media)])
    lists = tuple(0 if questions else lengths.text(text) for text in texts)
    if questions and lengths.media == "last":  # they differ in their text
        last = replace(last, lead=last.lead - lengths.text(texts[-1]))
    length = lengths.text(target_text(target, thought, style, (NAME,))) + 1.0
    tasks = tuple(
        TaskStatistics(count * config.shots, test, new, length, last.longer(own - lists[-1], lengths.media))
        for count, (test, new), own in zip(sizes, test_items(config, size, sizes), lists, strict=True)
    )
    return StreamStatistics(tasks, lists, lengths.media, lengths.patch)


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
