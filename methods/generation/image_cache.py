"""What a vision tower makes of images, kept while its weights stand still: an item that is asked twice is seen once."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.inputs.media import Patches

LIMIT = 2**28  # bytes that are kept: 256 MiB


class ImageMemory:
    """Features of images by name; of one model, as it is now: make a new one when weights have changed.

    Args:
        limit: bytes that are kept; later images are computed whenever they are asked about.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.room = limit
        self.kept: dict[Hashable, Tensor] = {}

    @torch.no_grad()
    def features(self, backbone: Any, names: Sequence[Hashable], images: Patches) -> Tensor:
        """Features of images in their order, [tokens of images, H].

        Args:
            backbone: the model without its head.
            names: of the images, K of them; equal names are equal images.
            images: K of them, whatever rows they are in.
        """
        apart = Patches(images.values, images.grids, (1,) * len(images.grids))
        new = [place for place, name in enumerate(names) if name not in self.kept]
        fresh: dict[Hashable, Tensor] = {}
        if new:
            asked = apart.select(new)
            made = backbone.get_image_features(asked.values, asked.grids, return_dict=True).pooler_output
            fresh = dict(zip([names[place] for place in new], made, strict=True))
            self._keep(fresh)
        return torch.cat([fresh[name] if name in fresh else self.kept[name] for name in names])

    def _keep(self, fresh: dict[Hashable, Tensor]) -> None:
        for name, features in fresh.items():
            size = features.numel() * features.element_size()
            if size <= self.room:
                self.room -= size
                self.kept[name] = features.clone()
