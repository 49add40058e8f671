"""Answers to questions, batch after batch, by a policy whose weights do not change: what later batches can reuse."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from methods.costs.meter import meter_of
from methods.generation.rollout import Sampling, sample_after
from methods.generation.shared_prefix import plain, prefill
from methods.generation.speculative_decoding import NgramDrafter
from methods.generation.static_decode import StaticSteps, sample_static
from methods.inputs.media import Patches
from methods.inputs.prompts import Prompts
from task_streams.prompt import Request

LIMIT = 2**28  # bytes of image features that are kept: 256 MiB


@dataclass(slots=True)
class ImageFeatures:
    """Features of images by name; of one model, as it is now: make a new one when weights have changed."""

    room: int = LIMIT  # bytes that are left; images beyond them are computed whenever they are asked about
    kept: dict[Hashable, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def features(self, backbone: Any, names: Sequence[Hashable], images: Patches) -> Tensor:
        """Features of K images in their order, [tokens of images, H]; equal names are equal images."""
        apart = Patches(images.values, images.grids, (1,) * len(images.grids))
        new = [place for place, name in enumerate(names) if name not in self.kept]
        fresh: dict[Hashable, Tensor] = {}
        if new:
            asked = apart.select(new)
            made = backbone.get_image_features(asked.values, asked.grids, return_dict=True).pooler_output
            fresh = dict(zip([names[place] for place in new], made, strict=True))
            for name, features in fresh.items():
                size = features.numel() * features.element_size()
                if size <= self.room:
                    self.room -= size
                    self.kept[name] = features.clone()
        return torch.cat([fresh[name] if name in fresh else self.kept[name] for name in names])


@dataclass(frozen=True, slots=True)
class Session:
    """What is reused between questions to a policy whose weights do not change; answers are the same without."""

    drafter: NgramDrafter = field(default_factory=NgramDrafter)  # guesses how answers go on, from those before
    images: ImageFeatures = field(default_factory=ImageFeatures)  # what the vision tower makes of items' images
    steps: StaticSteps | None = None  # recorded steps to decode with, in place of guesses; None: the cache grows


@torch.no_grad()
def answered(
    model: Any, requests: Sequence[Request], prompts: Prompts, sampling: Sampling, session: Session | None
) -> list[list[int]]:
    """A completion of every question, as token lists.

    ``prompts`` are the N requests, encoded; ``session`` has what questions before these have left, None: nothing.
    """
    meter_of(model).asked(prompts.mask)
    rows = torch.arange(len(requests), device=prompts.ids.device)
    features = None
    if session is not None and prompts.images is not None:
        names = [(one.key, place) for one in requests for place in range(len(one.images))]
        features = session.images.features(plain(model).model, names, prompts.images)
    if session is not None and session.steps is not None:
        return sample_static(session.steps, model, prefill(model, prompts, features), rows, sampling)
    after_prompts = prefill(model, prompts, features).repeated(rows)
    return sample_after(model, after_prompts, sampling, None if session is None else session.drafter)
