"""Images and clips as a model's processor takes them, and as the model gets them: patches by rows.

A clip is passed with its frame rate and is not sampled again. Where a model has no video input, or ``stream.feed`` asks
for it, the frames of a clip are images like any other here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from task_streams.errors import UserError
from task_streams.prompt import Message
from task_streams.types import Clip, Feed, Media

IMAGE_PATCHES = ("pixel_values", "image_grid_thw")
CLIP_PATCHES = ("pixel_values_videos", "video_grid_thw")
CLIP_PACE = "second_per_grid_ts"  # Qwen2.5-VL's positions follow the clock


@dataclass(frozen=True, slots=True)
class Patches:
    """All images, or all clips, of N rows; a row may have none, and rows may have different numbers."""

    values: Tensor  # patches in row order, [patches, values]
    grids: Tensor  # patch grid (time, height, width) of each, [K, 3]
    counts: tuple[int, ...]  # how many each row has, N numbers that add up to K
    # seconds per step of the time grid of each clip, [K]; None where the model does not ask for it
    pace: Tensor | None = None

    def select(self, rows: Sequence[int]) -> "Patches":
        """Those of some of the rows, in their order."""
        starts = [0, *accumulate(self.counts)]
        chosen = [k for row in rows for k in range(starts[row], starts[row + 1])]
        patches = torch.split(self.values, self.grids.prod(dim=1).tolist())
        values = torch.cat([patches[k] for k in chosen]) if chosen else self.values[:0]
        pace = None if self.pace is None else self.pace[chosen]
        return Patches(values, self.grids[chosen], tuple(self.counts[row] for row in rows), pace)

    def forms(self) -> list[tuple[tuple[float, ...], ...]]:
        """What decides the positions of each row's own: grids, and pace where there is one."""
        paces = [()] * len(self.grids) if self.pace is None else [(pace,) for pace in self.pace.tolist()]
        each = iter([(*grid, *pace) for grid, pace in zip(self.grids.tolist(), paces, strict=True)])
        return [tuple(next(each) for _ in range(count)) for count in self.counts]


def patches_in(batch: Mapping[str, Any], names: tuple[str, str], counts: Sequence[int]) -> Patches | None:
    """The images or clips of a batch in a processor's layout, None if there are none.

    ``names`` are ``IMAGE_PATCHES`` or ``CLIP_PATCHES``, ``counts`` says how many each row has.
    """
    values, grids = (batch.get(name) for name in names)
    if values is None or grids is None:
        return None
    pace = batch.get(CLIP_PACE) if names == CLIP_PATCHES else None
    return Patches(values, grids, tuple(counts), None if pace is None else torch.as_tensor(pace, dtype=torch.float32))


def model_fields(images: Patches | None, clips: Patches | None) -> dict[str, Tensor]:
    """Images and clips as a model's arguments; nothing for what no row has."""
    fields: dict[str, Tensor] = {}
    for names, patches in ((IMAGE_PATCHES, images), (CLIP_PATCHES, clips)):
        if patches is not None and len(patches.grids):
            fields |= dict(zip(names, (patches.values, patches.grids), strict=True))
    if clips is not None and clips.pace is not None and len(clips.grids):
        fields[CLIP_PACE] = clips.pace
    return fields


def with_media(messages: Sequence[Message], media: Sequence[Media]) -> list[Message]:
    """Chat messages with their image and video placeholders filled, in order."""
    fillings = (list(item.frames) if isinstance(item, Clip) else item for item in media)
    filled = []
    for message in messages:
        parts = [
            {**part, part["type"]: next(fillings)} if part["type"] in ("image", "video") else part
            for part in message["content"]
        ]
        filled.append({**message, "content": parts})
    return filled


def video_obstacle(processor: Any) -> str | None:
    """Why a model does not get clips as its own video, or None if it does: they come as patches with their grids."""
    video = getattr(processor, "video_processor", None)
    if video is None:
        return f"{type(processor).__name__} takes no video"
    missing = [name for name in CLIP_PATCHES if name not in video.model_input_names]
    return f"{type(video).__name__} gives no {' and no '.join(missing)}" if missing else None


def preferred_feed(processor: Any) -> Feed:
    """How clips go into a model where nothing else is asked for: as its own video if it has one."""
    return "images" if video_obstacle(processor) else "video"


def clip_arguments(processor: Any, clips: Sequence[Clip]) -> dict[str, Any]:
    """What a processor must know about the clips that it is given; nothing without clips.

    Raises:
        UserError: the model has no video input.
    """
    if not clips:
        return {}
    if (why := video_obstacle(processor)) is not None:
        raise UserError(f"stream.feed: got video, but {why}; expected auto or images.")
    metadata = [
        {"total_num_frames": len(clip.frames), "fps": clip.fps, "frames_indices": list(range(len(clip.frames)))}
        for clip in clips
    ]
    return {"do_sample_frames": False, "video_metadata": metadata}


def token_types(ids: Tensor, model_config: Any) -> Tensor:
    """1 for the tokens of images, 2 for those of clips, 0 for text, [N, P]."""
    types = torch.zeros_like(ids)
    types[ids == model_config.image_token_id] = 1
    types[ids == model_config.video_token_id] = 2
    return types


def never_sampled(model_config: Any) -> tuple[int, ...]:
    """Tokens that stand for images and clips: a sampled one would have no patches."""
    names = ("image_token_id", "video_token_id")
    return tuple(token for name in names if (token := getattr(model_config, name, None)) is not None)
