"""Image files to RGB images: upright by their EXIF orientation, 8 bits a channel, nothing transparent.

Grayscale, palette, CMYK (with or without Adobe's inversion) and 16-bit images are converted; what is transparent is
laid on white, as a browser shows it. An animation is refused, because all but a part of it would be lost in
silence. Only formats that image datasets use are tried, none that starts another program.
"""

from dataclasses import dataclass
from io import BytesIO
from struct import error as StructError

from PIL import Image, ImageOps, UnidentifiedImageError

from task_streams.sources.records import Damaged, Source

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, StructError, Image.DecompressionBombError)
STILLS = ("MPO",)  # a photo with a preview or a second view beside it: its first frame is the photo


@dataclass(frozen=True, slots=True)
class ImageDecoder:
    """Decodes an image file."""

    identity: str = "image"

    def __call__(self, source: Source) -> Image.Image:
        return decode_image(source.read())


def decode_image(data: bytes) -> Image.Image:
    """The image of a file's bytes as RGB, upright.

    Raises:
        Damaged: the bytes are no image, end too early, or hold what an RGB image cannot show.
    """
    if not data:
        raise Damaged("the file is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format not in STILLS:
                raise Damaged(f"an animation of {frames} frames; expected one image")
            return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise Damaged(f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image in its {len(data)} bytes") from error
    except DECODE_ERRORS as error:
        raise Damaged(str(error) or type(error).__name__) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode of these formats as RGB."""
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value / 256).convert("L").convert("RGB")  # Pillow alone would cut at 255
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
