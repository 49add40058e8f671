"""Task and example to chat messages, and to the right answers; what is said is the style's (``prompt_style.py``).

The reply format is the one of RaPO (arXiv 2605.09640): one ``<think>`` block, then one ``<answer>`` block.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Image

from task_streams.prompt_style import SUITE, PromptStyle
from task_streams.types import Box, Clip, Example, Media, Question, Target, TaskStream

# Wordings of the thought in supervised targets; the embedded model is pretrained on them all.
THOUGHTS = ("it looks like {label}", "the shape must be {label}", "I see {label} here")

Message = dict[str, Any]
Fit = Callable[[Image], Image]  # an image to the size in which a model sees it
PLACES = ("first", "last")  # of images and clips in a turn: before its text, or behind it


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a policy: chat messages with placeholders, and what fills them, in their order.

    Attributes:
        key: item key.
        messages: with parts of type ``image`` and ``video``.
        media: an image or a clip for every placeholder; a clip that is fed as images is spread over them.
    """

    key: str
    messages: list[Message]
    media: tuple[Media, ...]

    @property
    def images(self) -> tuple[Image, ...]:
        """The images among the media."""
        return tuple(item for item in self.media if not isinstance(item, Clip))

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The clips among the media."""
        return tuple(item for item in self.media if isinstance(item, Clip))

    def fitted(self, fit: "Fit") -> "Request":
        """The same question with its images brought to the size in which a model sees them; clips stay."""
        return replace(self, media=tuple(item if isinstance(item, Clip) else fit(item) for item in self.media))

    def arranged(self, place: str) -> "Request":
        """The same question with images and clips at one of ``PLACES`` in every turn; their order stays."""
        turns = []
        for turn in self.messages:
            parts = sorted(turn["content"], key=lambda part: (part["type"] == "text") == (place == "first"))
            turns.append({**turn, "content": parts})
        return replace(self, messages=turns)


def in_style(stream: TaskStream, style: PromptStyle) -> TaskStream:
    """The stream with its questions in the words of a style, which must have a wording for all that it asks."""
    for task in stream.tasks:
        style.wording(task.kind)
    return replace(stream, tasks=tuple(replace(task, style=style) for task in stream.tasks))


def question_about(target: Target, labels: Sequence[str], style: PromptStyle, media: str = "image") -> str:
    """Text of the question about one example: by what its target is, and by what is shown, in a word."""
    if isinstance(target, Question):
        return style.ask_own(target.text)
    if isinstance(target, tuple):
        return style.ask("detection", labels)
    return style.ask("classification", labels, media)


def user_turn(text: str, media: Sequence[Media]) -> list[Message]:
    """Chat messages of one user turn: a placeholder for each of the media, then the question."""
    parts = [{"type": "video" if isinstance(item, Clip) else "image"} for item in media]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def prompt_messages(labels: Sequence[str], style: PromptStyle = SUITE) -> list[Message]:
    """The user turn that asks for the class of one image."""
    parts = [{"type": "image"}, {"type": "text", "text": style.ask("classification", labels)}]
    return [{"role": "user", "content": parts}]


def request(example: Example, labels: Sequence[str], style: PromptStyle = SUITE) -> Request:
    """The question about one example, with its image or clip decoded."""
    item = example.media()
    media: tuple[Media, ...] = item.frames if isinstance(item, Clip) and item.feed == "images" else (item,)
    text = question_about(example.target, labels, style, "video" if isinstance(item, Clip) else "image")
    return Request(example.key, user_turn(text, media), media)


def visible(boxes: Sequence[Box], labels: Sequence[str]) -> tuple[Box, ...]:
    """The boxes of the categories that a prompt lists: prompt and ground truth follow one class list."""
    return tuple(box for box in boxes if box.category in labels)


def answer_text(target: Target, labels: Sequence[str], style: PromptStyle | None = None) -> str:
    """What is right, as text; boxes are cut to the categories that the prompt lists.

    Args:
        target: what is right.
        labels: categories that the prompt lists; needed for boxes.
        style: names classes as its prompts do, as they stand in a reply; None: as the stream does, as on record.
    """
    if isinstance(target, Question):
        return target.answers[0]
    name = style.listed if style else str
    if isinstance(target, tuple):
        rows = [{"category": name(box.category), "bbox": list(box.corners)} for box in visible(target, labels)]
        return json.dumps(rows, ensure_ascii=False)
    return name(target)


def target_text(
    target: Target, thought: str = THOUGHTS[0], style: PromptStyle = SUITE, labels: Sequence[str] = ()
) -> str:
    """Completion that a supervised method trains towards; ``labels`` (that the prompt lists) are needed for boxes.

    ``thought`` is a wording with ``{label}`` in it: the class, the categories in the image, or the answer.
    """
    answer = answer_text(target, labels, style)
    subject = answer
    if isinstance(target, tuple):
        categories = dict.fromkeys(style.listed(box.category) for box in visible(target, labels))
        subject = ", ".join(categories) or "nothing listed"
    think = f"<think>{thought.replace('{label}', subject)}</think>" if style.think else ""
    return f"{think}<answer>{answer}</answer>"
