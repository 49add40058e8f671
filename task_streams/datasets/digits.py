"""Streams of real handwritten digits: the 1,797 images of 8 x 8 pixels that scikit-learn ships.

Source: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI, 1998 (its test part).
Images are enlarged to 64 x 64 by bicubic interpolation, bright strokes on black. No two are equal.
"""

import hashlib
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from task_streams.config import CilConfig, Count, DilConfig, listed_twice
from task_streams.errors import unknown_name
from task_streams.probes.glyphs import DIGITS, IMAGE_SIZE
from task_streams.registry import StreamSpec
from task_streams.scenarios.domains import DOMAINS, Domain
from task_streams.scenarios.draw import Pool
from task_streams.scenarios.split import build_cil, build_dil, too_many_classes
from task_streams.sources.records import Workspace
from task_streams.types import Example, TaskStream


@dataclass(frozen=True, kw_only=True)
class DigitsCilConfig(CilConfig):
    """Handwritten digits, new classes in each task."""

    def problems(self) -> list[str]:
        found = super().problems()
        too_many = sum(self.sizes) > len(DIGITS)
        return [*found, too_many_classes("digits_cil", self.sizes, len(DIGITS))] if too_many else found


@dataclass(frozen=True, kw_only=True)
class DigitsDilConfig(DilConfig):
    """Handwritten digits, all ten in each task, every task in another visual domain."""

    shots: Count | None = 12
    """Training examples per class and task, >= 1; null = all that are not held out for testing."""
    test_per_class: Count | None = 20
    """Held-out test examples per class and task, >= 1; null = one fifth of a class's items."""
    domains: tuple[str, ...] = ("clean", "rotated", "noisy", "blurred", "thick")
    """Visual domains, at least one, each once; an underlying digit belongs to one domain only."""

    def problems(self) -> list[str]:
        found = super().problems()
        found += [unknown_name("domain", name, DOMAINS) for name in self.domains if name not in DOMAINS]
        found += listed_twice("domain", self.domains)
        return found if self.domains else [*found, "domains is empty; expected at least one"]


def digits_stream(config: DigitsCilConfig | DigitsDilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Stream of the digits; in one of several domains an underlying digit is in one domain only."""
    settings = {"order_seed": order_seed, **config.draw_settings}
    if isinstance(config, DigitsCilConfig):
        return build_cil("digits_cil", Pool(digits()), sizes=config.sizes, **settings)
    pools = {name: Pool(digits(DOMAINS[name])) for name in config.domains}
    return build_dil("digits_dil", pools, seeded_order=config.domain_order == "seeded", **settings)


@cache
def digits(domain: Domain | None = None) -> tuple[Example, ...]:
    """All 1,797 digits, plain or as a domain shows them; keys are ``digits/0000`` to ``digits/1796``."""
    pixels, targets = _arrays()
    identity = domain.identity.encode() if domain else b""
    return tuple(
        Example(
            key=f"digits/{i:04d}",
            target=DIGITS[target],
            media=partial(digit_image, i, domain),
            # of the source's pixels and of what a domain does to them: independent of the image library
            content=hashlib.sha256(pixels[i].astype(np.uint8).tobytes() + identity).hexdigest(),
            domain=domain.name if domain else "",
        )
        for i, target in enumerate(targets)
    )


def digit_image(index: int, domain: Domain | None = None) -> Image.Image:
    """Digit ``index`` as an RGB image of 64 x 64 pixels."""
    grey = Image.fromarray(np.rint(_arrays()[0][index] / 16 * 255).astype(np.uint8))
    image = grey.resize((IMAGE_SIZE, IMAGE_SIZE), Resampling.BICUBIC).convert("RGB")
    return domain.apply(image, f"digits/{index:04d}") if domain else image


@cache
def _arrays() -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:
    """Pixels [1797, 8, 8] from 0 to 16, and the digits they show."""
    from sklearn.datasets import load_digits  # here, because the import takes a second

    bunch = load_digits()
    return bunch.images, tuple(int(target) for target in bunch.target)


LICENCE = "CC BY 4.0"
CITATION = "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, doi:10.24432/C50P49"
CIL = StreamSpec(DigitsCilConfig, digits_stream, "handwritten digits, new classes in each task", LICENCE, CITATION)
DIL = StreamSpec(
    DigitsDilConfig,
    digits_stream,
    "handwritten digits, all ten in each task, a new visual domain each time",
    LICENCE,
    CITATION,
)
