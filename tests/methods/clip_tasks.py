"""Tasks about clips for the tests: made of the images of another task, so that nothing is decoded."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset
from PIL.Image import Image

from methods.data import rollout_dataset, target_dataset
from task_streams.prompt import request
from task_streams.types import Clip, Example, Feed, Task


def clip_of(images: Sequence[Image], count: int, feed: Feed) -> Clip:
    """A clip of the first images."""
    return Clip(tuple(images[:count]), 2.0, feed)


def about_clips(task: Task, feed: Feed, counts: Sequence[int] = (3,)) -> Task:
    """The task with clips in the place of its images: example i has ``counts[i mod len]`` frames."""

    def shown(examples: tuple[Example, ...]) -> tuple[Example, ...]:
        frames = [example.media() for example in examples]
        turned = [[*frames[i:], *frames[:i]] for i in range(len(frames))]
        clips = [clip_of(turned[i], counts[i % len(counts)], feed) for i in range(len(examples))]  # type: ignore[arg-type]
        return tuple(replace(e, media=lambda clip=clip: clip) for e, clip in zip(examples, clips, strict=True))

    return replace(task, train=shown(task.train), test=shown(task.test))


def with_clips(task: Task, thought: str | None = None) -> Dataset:
    """The task's rows for rollouts, or for supervised training with a thought, with the column of clips."""
    dataset = rollout_dataset(task, True) if thought is None else target_dataset(task, True, thought)
    made = dataset.format["format_kwargs"]["transform"]
    clips = [list(request(example, task.trained).clips) for example in task.train]

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return made(batch) | {"clips": [clips[i] for i in batch["row"]]}

    return Dataset.from_dict({"row": list(range(len(task.train)))}).with_transform(rows)
