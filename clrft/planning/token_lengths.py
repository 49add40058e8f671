"""How long prompts and answers are in tokens: by a model's processor, or estimated where there is none.

Prompts are arranged as the settings have them (``model.media``), and with their length comes what all of them begin
with: that is computed once for a batch (``methods/generation/shared_prefix.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from clrft.memory.checkpoint_shape import Checkpoint
from methods.generation.shared_prefix import common_lead
from methods.inputs.encoding import encoded_turns
from methods.inputs.media import preferred_feed, token_types
from methods.inputs.prompts import Prompts
from methods.model.config import ModelConfig
from task_streams.prompt import Request, user_turn
from task_streams.types import Clip, Feed, Media

LETTERS = 4  # of English text in a token of a large vocabulary
FRAME = 24  # tokens of Qwen2-VL's chat template beside the question
BEFORE = 14  # of them before it: the system's turn, and who asks
AROUND = 2  # tokens around an image
DEFAULT_LIMITS = (56 * 56, 14 * 14 * 4 * 1280)  # pixels of an image, of Qwen2-VL's own processor
GRIDS = ("image_grid_thw", "video_grid_thw")

Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Shown:
    """Images of some items as the vision tower gets them.

    Attributes:
        items: how many.
        grids: patches in time, height and width of all their images.
    """

    items: int
    grids: tuple[Grid, ...]

    @property
    def images(self) -> float:
        """Images of an item; steps of a clip's time."""
        return sum(time for time, _, _ in self.grids) / self.items

    @property
    def patches(self) -> float:
        """Patches of an item."""
        return sum(time * height * width for time, height, width in self.grids) / self.items


@dataclass(frozen=True, slots=True)
class Looked:
    """Some prompts.

    Attributes:
        tokens: mean length, images included.
        longest: length of the longest.
        shown: their images.
        patches: of the prompt that has most.
        images: likewise.
        lead: tokens of text that all of them begin with.
    """

    tokens: float
    longest: int
    shown: Shown
    patches: int
    images: int
    lead: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt.

    Attributes:
        tokens: its length.
        grids: of its images.
        ids: its tokens, [P]; None where they are not known.
        lead: those that it begins with as other prompts of its task do, where its own are not known.
    """

    tokens: int
    grids: list[Grid]
    ids: Tensor | None = None
    lead: int = 0


class Ruler:
    """Lengths for one model.

    Args:
        checkpoint: the model.
        config: its settings.

    Attributes:
        feed: how clips go into the model where ``stream.feed`` leaves it open.
    """

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig) -> None:
        self.processor: Any = checkpoint.processor
        self.merge = checkpoint.sizes.tower.merge
        self.patch = checkpoint.patch
        low, high = DEFAULT_LIMITS
        self.limits = (config.min_pixels or low, config.max_pixels or high)
        self.media = config.media
        self.feed = preferred_feed(self.processor) if self.processor is not None else "video"  # published: all take it

    def text(self, text: str) -> int:
        """Tokens of a text."""
        if self.processor is None:
            return -(-len(text) // LETTERS)
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def look(self, requests: Sequence[Request]) -> Looked:
        """The lengths of some questions, one or more, each encoded alone."""
        each = [self._one(asked.arranged(self.media)) for asked in requests]
        tokens = [one.tokens for one in each]
        sizes = [sum(time * height * width for time, height, width in one.grids) for one in each]
        return Looked(
            tokens=fmean(tokens),
            longest=max(tokens),
            shown=Shown(len(each), tuple(grid for one in each for grid in one.grids)),
            patches=max(sizes),
            images=max(sum(time for time, _, _ in one.grids) for one in each),
            lead=self._lead(each),
        )

    def made_up(self, text: str, width: int, height: int, frames: int, feed: Feed = "images") -> Looked:
        """The lengths of a question about so many images of a size, or about a clip of so many frames."""
        images = (Image.new("RGB", (width, height)),) * frames
        media: tuple[Media, ...] = (Clip(images, 2.0, feed),) if feed == "video" else images
        return self.look([Request("made up", user_turn(text, media), media)])

    def _one(self, asked: Request) -> Encoded:
        if self.processor is None:
            return self._estimated(asked)
        batch = encoded_turns(self.processor, [(asked.messages, asked.media)])
        grids = [tuple(grid) for name in GRIDS if name in batch for grid in batch[name].tolist()]
        ids = batch["input_ids"][0]
        return Encoded(len(ids), grids, ids)

    def _lead(self, prompts: Sequence[Encoded]) -> int:
        """Tokens of text that all of them begin with."""
        known = [one.ids for one in prompts if one.ids is not None]
        if not known:
            return min(one.lead for one in prompts)
        ids = pad_sequence(known, batch_first=True, padding_side="left")
        mask = pad_sequence([torch.ones_like(one) for one in known], batch_first=True, padding_side="left")
        return common_lead(Prompts(ids, mask, token_types(ids, self.processor), None, None))

    def _estimated(self, asked: Request) -> Encoded:
        grids = [self._grid(item) for item in asked.media]
        words = sum(self.text(part.get("text", "")) for turn in asked.messages for part in turn["content"])
        patches = sum(time * height * width for time, height, width in grids)
        lead = BEFORE + (words if self.media == "last" else 0)
        return Encoded(FRAME + words + AROUND * len(grids) + patches // self.merge**2, grids, lead=lead)

    def _grid(self, item: Media) -> Grid:
        frame = item if isinstance(item, Image.Image) else item.frames[0]
        steps = 1 if isinstance(item, Image.Image) else -(-len(item.frames) // 2)  # a clip's frames go in pairs
        low, high = self.limits
        height, width = smart_resize(frame.height, frame.width, self.patch * self.merge, low, high)
        return steps, height // self.patch, width // self.patch
