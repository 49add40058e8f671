"""Encoded prompts: tokens, and the patches of their images and clips."""

from dataclasses import dataclass

from torch import Tensor

from methods.inputs.media import Patches, model_fields


@dataclass(frozen=True, slots=True)
class Prompts:
    """B prompts, encoded."""

    ids: Tensor  # left-padded tokens, [B, P]
    mask: Tensor  # 1 for real tokens, [B, P]
    token_types: Tensor  # 1 for image tokens, 2 for those of clips, 0 for text, [B, P]
    images: Patches | None  # of all prompts, None if there are none
    clips: Patches | None  # of all prompts, None if there are none

    def select(self, rows: Tensor) -> "Prompts":
        """Some of them, with their images and clips; any of them may come several times."""
        images, clips = (
            None if patches is None else patches.select(rows.tolist()) for patches in (self.images, self.clips)
        )
        return Prompts(self.ids[rows], self.mask[rows], self.token_types[rows], images, clips)

    @property
    def fields(self) -> dict[str, Tensor]:
        """Images and clips as a model's arguments."""
        return model_fields(self.images, self.clips)
