"""Visual domains: ways to change an image, for streams that learn one domain after the other.

A domain's strength is a constant here, chosen so that the embedded base model starts between 25 % and 75 %
on handwritten digits in that domain; ``benchmarks/domain_accuracy.py`` measures it. Randomness comes from a
seed made of the item's key and the domain's name, so an item looks the same in every process.
Made for bright strokes on a dark ground; images are RGB and keep their size.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from PIL.Image import Resampling, Transform
from PIL.ImageFilter import GaussianBlur, MaxFilter, MinFilter

from task_streams.scenarios.draw import random_state

Change = Literal["none", "turn", "noise", "blur", "thicken", "thin", "slant", "cover", "fade", "shrink", "binarise"]


@dataclass(frozen=True, slots=True)
class Domain:
    """One visual domain: what is done to an image, and how strongly.

    Attributes:
        name: name of the domain, and of its task.
        change: what is done.
        strength: in the change's own unit.
    """

    name: str
    change: Change
    strength: float

    def apply(self, image: Image.Image, key: str) -> Image.Image:
        """A copy of the image of item ``key`` as this domain shows it."""
        by, rng = self.strength, random_state(0, f"{self.name} {key}")
        match self.change:
            case "turn":  # counter-clockwise by degrees, give or take 5
                return image.rotate(by + rng.uniform(-5, 5), Resampling.BICUBIC)
            case "noise":  # grey Gaussian noise of a standard deviation (0 to 255), the same in all channels
                pixels = np.asarray(image, dtype=np.float64)  # [H, W, 3]
                noise = rng.normal(0.0, by, (*pixels.shape[:2], 1))
                return Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))
            case "blur":  # Gaussian, of a radius in pixels
                return image.filter(GaussianBlur(by))
            case "thicken":  # bright strokes grown by so many whole pixels on each side
                return image.filter(MaxFilter(2 * int(by) + 1))
            case "thin":  # bright strokes eaten, likewise
                return image.filter(MinFilter(2 * int(by) + 1))
            case "slant":  # rows are moved sideways by so many pixels for each pixel from the middle
                coefficients = (1, by, -by * image.height / 2, 0, 1, 0)
                return image.transform(image.size, Transform.AFFINE, coefficients, Resampling.BICUBIC)
            case "cover":  # a grey square over a share of the side, at a random place
                side = round(by * image.width)
                left, top = (int(rng.randint(0, extent - side + 1)) for extent in image.size)
                covered = image.copy()
                covered.paste((128, 128, 128), (left, top, left + side, top + side))
                return covered
            case "fade":  # contrast reduced to a share, around mid-grey
                pixels = np.asarray(image, dtype=np.float64)  # [H, W, 3]
                return Image.fromarray(np.rint(128 + by * (pixels - 128)).astype(np.uint8))
            case "shrink":  # to a share of the side, at a random place on black
                size = (round(by * image.width), round(by * image.height))
                room = (image.width - size[0], image.height - size[1])
                left, top = (int(rng.randint(0, most + 1)) for most in room)
                ground = Image.new(image.mode, image.size)
                ground.paste(image.resize(size, Resampling.BICUBIC), (left, top))
                return ground
            case "binarise":  # black and white only, cut at a brightness (0 to 255)
                return image.point(lambda value: 255 if value > by else 0)
            case "none":
                return image.copy()

    @property
    def identity(self) -> str:
        """Text that changes whenever the domain's images would, e.g. ``rotated=-35.0``."""
        return f"{self.name}={self.strength}"


_ALL = (
    Domain("clean", "none", 0.0),
    Domain("rotated", "turn", -40.0),
    Domain("tilted", "turn", 30.0),
    Domain("noisy", "noise", 75.0),
    Domain("blurred", "blur", 7.0),
    Domain("thick", "thicken", 4.0),
    Domain("thin", "thin", 2.0),
    Domain("slanted", "slant", 0.5),
    Domain("occluded", "cover", 0.35),
    Domain("faded", "fade", 0.5),
    Domain("small", "shrink", 0.6),
    Domain("stark", "binarise", 96.0),
)

DOMAINS: dict[str, Domain] = {domain.name: domain for domain in _ALL}
