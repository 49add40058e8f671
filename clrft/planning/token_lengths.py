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

from clrft.base_model import default_model_path
from clrft.memory.model_sizes import known_sizes, local_config
from methods.generation.shared_prefix import common_lead
from methods.inputs.encoding import encoded_turns
from methods.inputs.media import preferred_feed, token_types
from methods.inputs.prompts import Prompts
from methods.model.config import ModelConfig
from methods.model.policy import load_processor
from task_streams.prompt import Request, user_turn
from task_streams.types import Clip, Feed, Media

LETTERS = 4  # of English text in a token of a large vocabulary
FRAME = 24  # tokens of Qwen2-VL's chat template beside the question
BEFORE = 14  # of them before it: the system's turn, and who asks
AROUND = 2  # tokens around an image
DEFAULT_LIMITS = (56 * 56, 14 * 14 * 4 * 1280)  # pixels of an image, of Qwen2-VL's own processor
GRID_NAMES = ("image_grid_thw", "video_grid_thw")

Grid = tuple[int, int, int]  # patches of an image or clip in time, height and width


def patches_in(grids: Sequence[Grid]) -> int:
    """Patches of some images and clips."""
    return sum(time * height * width for time, height, width in grids)


def images_in(grids: Sequence[Grid]) -> int:
    """Images; of a clip the steps of its time."""
    return sum(time for time, _, _ in grids)


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """Some prompts."""

    tokens: float  # mean length, images included
    longest: int  # length of the longest
    grids: tuple[tuple[Grid, ...], ...]  # of the images of each, as the vision tower gets them
    lead: int  # tokens of text that all of them begin with

    @property
    def patches(self) -> int:
        """Patches of the prompt that has most."""
        return max(map(patches_in, self.grids))

    @property
    def images(self) -> int:
        """Images of the prompt that has most."""
        return max(map(images_in, self.grids))


class TokenLengths:
    """Lengths for one model.

    Attributes:
        processor: the checkpoint's, where it is on this machine.
        patch: pixels along each side of a patch.
        feed: how clips go into the model where ``stream.feed`` leaves it open.
    """

    def __init__(self, config: ModelConfig) -> None:
        path, tower = config.path or str(default_model_path()), known_sizes(config).tower
        self.processor: Any = None if local_config(path) is None else load_processor(config, path)
        self.merge, self.patch, self.media = tower.merge, tower.patch, config.media
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
                FRAME + count + AROUND * len(own) + patches_in(own) // self.merge**2
                for count, own in zip(words, grids, strict=True)
            ]
            lead = BEFORE + (min(words) if self.media == "last" else 0)
        else:
            batches = [encoded_turns(self.processor, [(one.messages, one.media)]) for one in asked]
            grids = [
                tuple(tuple(grid) for name in GRID_NAMES if name in batch for grid in batch[name].tolist())
                for batch in batches
            ]
            tokens = [batch["input_ids"].shape[1] for batch in batches]
            lead = self._lead([batch["input_ids"][0] for batch in batches])
        return PromptLengths(fmean(tokens), max(tokens), tuple(grids), lead)

    def made_up(self, text: str, width: int, height: int, frames: int, feed: Feed) -> PromptLengths:
        """The lengths of a question about so many images of a size, or about a clip of so many frames."""
        images = (Image.new("RGB", (width, height)),) * frames
        media: tuple[Media, ...] = (Clip(images, 2.0, feed),) if feed == "video" else images
        return self.prompts([Request("made up", user_turn(text, media), media)])

    def _lead(self, prompts: list[Tensor]) -> int:
        """Tokens of text that prompts, [P] each, all begin with."""
        ids = pad_sequence(prompts, batch_first=True, padding_side="left")
        mask = pad_sequence([torch.ones_like(one) for one in prompts], batch_first=True, padding_side="left")
        return common_lead(Prompts(ids, mask, token_types(ids, self.processor), None, None))

    def _grid(self, item: Media) -> Grid:
        frames = [item] if isinstance(item, Image.Image) else item.frames
        steps = -(-len(frames) // 2)  # a clip's frames go in pairs, an image is one step
        height, width = smart_resize(frames[0].height, frames[0].width, self.patch * self.merge, *self.limits)
        return steps, height // self.patch, width // self.patch
