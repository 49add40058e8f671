"""Tasks about clips for the tests: made of the images of another task, so that nothing is decoded."""

from collections.abc import Sequence
from dataclasses import replace

from PIL.Image import Image

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
