"""Image files to RGB images: upright by their EXIF orientation; grayscale, palette, CMYK and alpha are converted."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageOps

from task_streams.records import Damaged, Source

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class ImageDecoder:
    """Decodes what Pillow reads."""

    identity: str = "image"

    def __call__(self, source: Source) -> Image.Image:
        """The image of a source as RGB."""
        return decode_image(source.read())


def decode_image(data: bytes) -> Image.Image:
    """The image of a file's bytes as RGB, upright.

    Raises:
        Damaged: the bytes are no image, or end too early.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except DECODE_ERRORS as error:
        raise Damaged(str(error) or type(error).__name__) from error
