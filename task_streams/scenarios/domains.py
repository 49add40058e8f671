"""Visual domains: named functions from image to image, for streams that learn one domain after the other.

A domain's strength is a constant here, chosen so that the embedded base model starts between 25 % and 75 %
on handwritten digits in that domain; ``benchmarks/domain_accuracy.py`` measures it. Randomness comes from a
seed made of the item's key and the domain's name, so an item looks the same in every process.
Made for bright strokes on a dark ground; images are RGB and keep their size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from PIL.Image import Resampling, Transform

from task_streams.scenarios.draw import random_state

Transformation = Callable[[Image.Image, float, np.random.RandomState], Image.Image]


@dataclass(frozen=True, slots=True)
class Domain:
    """One visual domain: what is done to an image, and how strongly.

    Attributes:
        name: name of the domain, and of its task.
        transformation: (image, strength, random generator) to image.
        strength: in the transformation's own unit.
    """

    name: str
    transformation: Transformation
    strength: float

    def apply(self, image: Image.Image, key: str) -> Image.Image:
        """The image of item ``key`` as this domain shows it; the given image is left as it is."""
        return self.transformation(image, self.strength, random_state(0, f"{self.name} {key}"))

    @property
    def identity(self) -> str:
        """Text that changes whenever the domain's images would, e.g. ``rotated=-35.0``."""
        return f"{self.name}={self.strength}"


def unchanged(image: Image.Image, strength: float, rng: np.random.RandomState) -> Image.Image:
    """The image as it is."""
    return image.copy()


def rotate(image: Image.Image, degrees: float, rng: np.random.RandomState) -> Image.Image:
    """Turned counter-clockwise by ``degrees``, give or take 5."""
    return image.rotate(degrees + rng.uniform(-5, 5), Resampling.BICUBIC)


def add_noise(image: Image.Image, deviation: float, rng: np.random.RandomState) -> Image.Image:
    """Grey Gaussian noise of the given standard deviation (0 to 255), the same in all channels."""
    pixels = np.asarray(image, dtype=np.float64)  # [H, W, 3]
    noise = rng.normal(0.0, deviation, (*pixels.shape[:2], 1))
    return Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))


def blur(image: Image.Image, radius: float, rng: np.random.RandomState) -> Image.Image:
    """Gaussian blur of ``radius`` pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def thicken(image: Image.Image, pixels: float, rng: np.random.RandomState) -> Image.Image:
    """Bright strokes grown by ``pixels`` on each side (a whole number)."""
    return image.filter(ImageFilter.MaxFilter(2 * int(pixels) + 1))


def thin(image: Image.Image, pixels: float, rng: np.random.RandomState) -> Image.Image:
    """Bright strokes eaten by ``pixels`` on each side (a whole number)."""
    return image.filter(ImageFilter.MinFilter(2 * int(pixels) + 1))


def shear(image: Image.Image, slope: float, rng: np.random.RandomState) -> Image.Image:
    """Slanted: rows are moved sideways by ``slope`` pixels for each pixel from the middle."""
    coefficients = (1, slope, -slope * image.height / 2, 0, 1, 0)
    return image.transform(image.size, Transform.AFFINE, coefficients, Resampling.BICUBIC)


def occlude(image: Image.Image, share: float, rng: np.random.RandomState) -> Image.Image:
    """A grey square over ``share`` of the side, at a random place."""
    side = round(share * image.width)
    left, top = (int(rng.randint(0, extent - side + 1)) for extent in image.size)
    covered = image.copy()
    covered.paste((128, 128, 128), (left, top, left + side, top + side))
    return covered


def fade(image: Image.Image, contrast: float, rng: np.random.RandomState) -> Image.Image:
    """Contrast reduced to the share ``contrast`` around mid-grey."""
    pixels = np.asarray(image, dtype=np.float64)  # [H, W, 3]
    return Image.fromarray(np.rint(128 + contrast * (pixels - 128)).astype(np.uint8))


def shrink(image: Image.Image, share: float, rng: np.random.RandomState) -> Image.Image:
    """Shrunk to ``share`` of the side and put at a random place on black."""
    size = (round(share * image.width), round(share * image.height))
    left, top = (int(rng.randint(0, outer - inner + 1)) for outer, inner in zip(image.size, size, strict=True))
    ground = Image.new(image.mode, image.size)
    ground.paste(image.resize(size, Resampling.BICUBIC), (left, top))
    return ground


def binarise(image: Image.Image, threshold: float, rng: np.random.RandomState) -> Image.Image:
    """Black and white only, cut at ``threshold`` (0 to 255)."""
    return image.point(lambda value: 255 if value > threshold else 0)


_ALL = (
    Domain("clean", unchanged, 0.0),
    Domain("rotated", rotate, -40.0),
    Domain("tilted", rotate, 30.0),
    Domain("noisy", add_noise, 75.0),
    Domain("blurred", blur, 7.0),
    Domain("thick", thicken, 4.0),
    Domain("thin", thin, 2.0),
    Domain("slanted", shear, 0.5),
    Domain("occluded", occlude, 0.35),
    Domain("faded", fade, 0.5),
    Domain("small", shrink, 0.6),
    Domain("stark", binarise, 96.0),
)

DOMAINS: dict[str, Domain] = {domain.name: domain for domain in _ALL}
