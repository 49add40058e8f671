"""Printed digits and letters, rendered from the fonts that matplotlib ships.

They are what the embedded base model is pretrained on, and, in fonts it never saw, the probe of its general
ability. Fonts come from matplotlib's own data folder (DejaVu: Bitstream Vera licence; STIX: SIL OFL; Computer
Modern: Knuth's terms), never from the system, so two machines render the same set.
Absent on purpose: lower-case letters (an answer is compared in lower case) and the letters I and O, which
many fonts draw like 1 and 0. Letters are called "letter a": a bare "a" would also be found in ordinary prose.
"""

import hashlib
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from task_streams.errors import UserError, unknown_name
from task_streams.types import Example

IMAGE_SIZE = 64  # pixels, both sides
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = tuple(f"letter {letter}" for letter in "abcdefghjklmnpqrstuvwxyz")
CHARACTERS = dict(zip(DIGITS, "0123456789", strict=True)) | {label: label[-1].upper() for label in LETTERS}

HELD_OUT_FONTS = ("DejaVuSansMono", "DejaVuSerif-Italic", "STIXGeneralBol", "cmss10")
TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmb10", "cmmi10", "cmr10", "cmti10", "cmtt10"),
)

Bitmap = NDArray[np.uint8]


@cache
def _font(name: str, points: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(path, points, layout_engine=ImageFont.Layout.BASIC)


def render_glyph(label: str, font: str, height: int = 52) -> Bitmap:
    """White glyph on black, its ink box scaled to ``height`` pixels and centred.

    Wide glyphs are narrowed to 60 pixels. Returns [64, 64], uint8.

    Raises:
        UserError: unknown label or font.
    """
    if label not in CHARACTERS:
        raise UserError(unknown_name("glyph", label, CHARACTERS))
    if font not in TRAIN_FONTS + HELD_OUT_FONTS:
        raise UserError(unknown_name("font", font, TRAIN_FONTS + HELD_OUT_FONTS))
    canvas = Image.new("L", (256, 256))
    ImageDraw.Draw(canvas).text((48, 24), CHARACTERS[label], fill=255, font=_font(font, 128))
    ink = canvas.crop(canvas.getbbox())
    width = min(max(round(ink.width * height / ink.height), 4), 60)
    glyph = ink.resize((width, height), Image.Resampling.BICUBIC)
    image = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    image.paste(glyph, ((IMAGE_SIZE - width) // 2, (IMAGE_SIZE - height) // 2))
    return np.asarray(image, dtype=np.uint8)


def _distorted(bitmap: Bitmap, rng: np.random.Generator) -> Bitmap:
    """A slightly turned, slanted, scaled and shifted copy; the printed look stays. [64, 64] -> [64, 64]."""
    angle, shear = np.deg2rad(rng.uniform(-8, 8)), rng.uniform(-0.1, 0.1)
    scale = rng.uniform(0.8, 1.05, size=2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(1 / scale)  # output pixel -> input pixel
    centre = np.full(2, (IMAGE_SIZE - 1) / 2)
    offset = centre - matrix @ (centre + rng.uniform(-3, 3, size=2))
    data = (*matrix[0], offset[0], *matrix[1], offset[1])
    size = (IMAGE_SIZE, IMAGE_SIZE)
    moved = Image.fromarray(bitmap).transform(size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    return np.asarray(moved, dtype=np.uint8)


def glyph_examples(
    count: int, seed: int, labels: Sequence[str] = DIGITS + LETTERS, fonts: Sequence[str] = HELD_OUT_FONTS
) -> tuple[Example, ...]:
    """Printed glyphs, the labels in turn, font and distortion drawn from the seed.

    Raises:
        UserError: a count below 1, an unknown label or font.
    """
    if count < 1:
        raise UserError(f"glyph count {count}: expected at least 1.")
    rng = np.random.default_rng(seed)
    examples = []
    for index in range(count):
        label, font = labels[index % len(labels)], str(rng.choice(fonts))
        bitmap = _distorted(render_glyph(label, font), rng)
        content = hashlib.sha256(bitmap.tobytes()).hexdigest()
        key = f"glyphs/{seed}/{index:04d}"
        media = partial(Image.fromarray, np.stack([bitmap] * 3, axis=-1))  # [64, 64, 3]
        examples.append(Example(key, label, media, content, domain=font))
    return tuple(examples)
