"""Task and example to chat messages: the only place with prompt text.

The reply format is the one of RaPO (arXiv 2605.09640): one ``<think>`` block, then one ``<answer>`` block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from task_streams.types import Example

THOUGHT_PLACEHOLDER = "your reasoning"
ANSWER_PLACEHOLDER = "your choice"

# Wordings of the thought in supervised targets; the embedded model is pretrained on them all.
THOUGHTS = ("it looks like {label}", "the shape must be {label}", "I see {label} here")

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a policy: chat messages with image placeholders, and the images in their order."""

    key: str
    messages: list[Message]
    images: tuple[Image, ...]


def question(labels: Sequence[str], think: bool = True) -> str:
    """Text of the question that lists the candidate labels."""
    reply = f"<answer>{ANSWER_PLACEHOLDER}</answer>"
    if think:
        reply = f"<think>{THOUGHT_PLACEHOLDER}</think>{reply}"
    return f"What does the image show? Choose from: {', '.join(labels)}. Reply as {reply}"


def prompt_messages(labels: Sequence[str], think: bool = True) -> list[Message]:
    """Chat messages of one user turn: an image placeholder, then the question."""
    parts = [{"type": "image"}, {"type": "text", "text": question(labels, think)}]
    return [{"role": "user", "content": parts}]


def request(example: Example, labels: Sequence[str], think: bool = True) -> Request:
    """The question about one example, with its image decoded."""
    return Request(example.key, prompt_messages(labels, think), (example.image(),))


def target_text(label: str, thought: str = THOUGHTS[0], think: bool = True) -> str:
    """Completion that a supervised method trains towards; ``thought`` is a wording with ``{label}`` in it."""
    answer = f"<answer>{label}</answer>"
    return f"<think>{thought.format(label=label)}</think>{answer}" if think else answer
