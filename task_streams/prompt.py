"""Task and example to chat messages: the only place with prompt text.

The reply format is the one of RaPO (arXiv 2605.09640): one ``<think>`` block, then one ``<answer>`` block.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Image

from task_streams.probe_sets import Probe
from task_streams.types import Box, Clip, Example, Media, Question, Target

THOUGHT_PLACEHOLDER = "your reasoning"
ANSWER_PLACEHOLDER = "your choice"
BOXES_PLACEHOLDER = '[{"category": "…", "bbox": [x1, y1, x2, y2]}, …]'
REPLY_PLACEHOLDER = "your answer"
CHOICE_FORM = "Answer with the option's letter from the given choices directly."  # MMMU's

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

        def behind(part: dict[str, Any]) -> bool:
            return bool(part["type"] == "text") == (place == "first")

        turns = [{**turn, "content": sorted(turn["content"], key=behind)} for turn in self.messages]
        return replace(self, messages=turns)


def question(labels: Sequence[str], think: bool = True, subject: str = "image") -> str:
    """Text of the question which of the candidate labels an image or video shows."""
    choices = ", ".join(labels)
    return f"What does the {subject} show? Choose from: {choices}. Reply as {reply_form(ANSWER_PLACEHOLDER, think)}"


def detection_question(labels: Sequence[str], think: bool = True) -> str:
    """Text of the question for all objects of the candidate categories."""
    return (
        f"Find every object of these categories: {', '.join(labels)}. Give the corners of each box in thousandths of "
        f"the image's width and height; give [] if there is none. Reply as {reply_form(BOXES_PLACEHOLDER, think)}"
    )


def own_question(asked: Question, think: bool = True) -> str:
    """Text of an example's own question."""
    return f"{asked.text.strip()} Reply as {reply_form(REPLY_PLACEHOLDER, think)}"


def reply_form(placeholder: str, think: bool) -> str:
    """The form of a reply, with placeholders."""
    answer = f"<answer>{placeholder}</answer>"
    return f"<think>{THOUGHT_PLACEHOLDER}</think>{answer}" if think else answer


def question_about(target: Target, media: Media, labels: Sequence[str], think: bool = True) -> str:
    """Text of the question about one example: by what its target is, and by what is shown."""
    if isinstance(target, Question):
        return own_question(target, think)
    if isinstance(target, tuple):
        return detection_question(labels, think)
    return question(labels, think, "video" if isinstance(media, Clip) else "image")


def user_turn(text: str, media: Sequence[Media]) -> list[Message]:
    """Chat messages of one user turn: a placeholder for each of the media, then the question."""
    parts = [{"type": "video" if isinstance(item, Clip) else "image"} for item in media]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def prompt_messages(labels: Sequence[str], think: bool = True) -> list[Message]:
    """The user turn that asks for the class of one image."""
    parts = [{"type": "image"}, {"type": "text", "text": question(labels, think)}]
    return [{"role": "user", "content": parts}]


def request(example: Example, labels: Sequence[str], think: bool = True) -> Request:
    """The question about one example, with its image or clip decoded."""
    shown = example.media()
    media: tuple[Media, ...] = shown.frames if isinstance(shown, Clip) and shown.feed == "images" else (shown,)
    return Request(example.key, user_turn(question_about(example.target, shown, labels, think), media), media)


def probe_request(probe: Probe) -> Request:
    """The question of a probe set in the set's own words, without the suite's form of a reply; images decoded."""
    text = probe.row.text
    if probe.row.options:
        listed = [f"({chr(ord('A') + place)}) {option}" for place, option in enumerate(probe.row.options)]
        text = "\n".join([text, *listed, "", CHOICE_FORM])
    shown = probe.images()
    return Request(probe.key, user_turn(text, shown), shown)


def visible(boxes: Sequence[Box], labels: Sequence[str]) -> tuple[Box, ...]:
    """The boxes of the categories that a prompt lists: prompt and ground truth follow one class list."""
    return tuple(box for box in boxes if box.category in labels)


def answer_text(target: Target, labels: Sequence[str]) -> str:
    """The right answer as it stands in a reply; boxes are cut to the categories that the prompt lists."""
    if isinstance(target, Question):
        return target.answers[0]
    if isinstance(target, tuple):
        rows = [{"category": box.category, "bbox": list(box.corners)} for box in visible(target, labels)]
        return json.dumps(rows, ensure_ascii=False)
    return target


def thought_subject(target: Target, labels: Sequence[str]) -> str:
    """What a supervised target's thought names: the class, the categories in the image, or the answer."""
    if isinstance(target, tuple):
        return ", ".join(dict.fromkeys(box.category for box in visible(target, labels))) or "nothing listed"
    return answer_text(target, labels)


def target_text(target: Target, thought: str = THOUGHTS[0], think: bool = True, labels: Sequence[str] = ()) -> str:
    """Completion that a supervised method trains towards.

    Args:
        target: what is right.
        thought: wording with ``{label}`` in it.
        think: the prompt asks for a thought.
        labels: categories that the prompt lists; needed for boxes.
    """
    answer = f"<answer>{answer_text(target, labels)}</answer>"
    if not think:
        return answer
    return f"<think>{thought.replace('{label}', thought_subject(target, labels))}</think>{answer}"
