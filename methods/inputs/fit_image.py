"""Images to the size in which a model sees them, before the model's own processor runs: in workers, ahead of time.

The processor's own ``resize`` is called, so what it computes from a fitted image is the same to the last bit.
Only processors that resize by an area between two limits (Qwen2-VL and its kin) are known; others resize themselves.
"""

from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from transformers.image_utils import SizeDict

from task_streams.prompt import Fit, Request


@dataclass(frozen=True, slots=True)
class AreaFit:
    """Resizes by a Qwen2-VL image processor's rule: area within limits, sides multiples of a merged patch."""

    processor: Any

    def __call__(self, image: Image) -> Image:
        """An RGB image, resized; itself where it fits already."""
        least, most = self.processor.size["shortest_edge"], self.processor.size["longest_edge"]
        side = self.processor.patch_size * self.processor.merge_size
        whole = image.width % side == 0 and image.height % side == 0
        if whole and least <= image.width * image.height <= most:
            return image
        pixels = pil_to_tensor(image)[None]  # [1, 3, H, W], uint8
        resized = self.processor.resize(
            images=pixels, size=SizeDict(**dict(self.processor.size)), resample=self.processor.resample, factor=side
        )
        return to_pil_image(resized[0])  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Questions as a policy is asked them; it does not hold the policy, for datasets are hashed with it."""

    media: str  # where images and clips stand
    fit: Fit  # brings images to the size in which the model sees them

    def __call__(self, asked: Request) -> Request:
        """The question, arranged, its images fitted."""
        return asked.arranged(self.media).fitted(self.fit)


def as_it_is(image: Image) -> Image:
    """Leaves the resizing to the model's processor."""
    return image


def image_fit(processor: Any) -> Fit:
    """How images are resized ahead of a model's processor; as they are where its rule is not known."""
    images = processor.image_processor
    known = type(images).__name__ == "Qwen2VLImageProcessor" and images.do_resize
    return AreaFit(images) if known else as_it_is
