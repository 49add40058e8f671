"""Image files to RGB images: upright by their EXIF orientation, 8 bits a channel, nothing transparent.

Grayscale, palette, CMYK (with or without Adobe's inversion) and 16-bit images are converted; what is transparent is
laid on white, as a browser shows it. An animation is refused, because all but a part of it would be lost in
silence. Only formats that image datasets use are tried, none that starts another program.
"""

from io import BytesIO
from struct import error as StructError

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from task_streams.errors import open_file
from task_streams.sources.records import Damaged, Decoder, FileSource

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, StructError, Image.DecompressionBombError)
STILLS = ("MPO",)  # a photo with a preview or a second view beside it: its first frame is the photo

QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def stored_frame(source: FileSource) -> tuple[int, int, int]:
    """Width and height of an image file as it is stored, and its EXIF orientation, from 1 (upright) to 8.

    Only the header is read, except of a PNG file without EXIF in front of its pixels.

    Raises:
        Damaged: the file is no image.
    """
    try:
        with open_file(source.path) as file, Image.open(file, formats=FORMATS) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return *image.size, orientation if orientation in range(1, 9) else 1
    except DECODE_ERRORS as error:
        raise Damaged(str(error) or type(error).__name__) from error


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
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                grey = upright.point(lambda value: value / 256)  # Pillow alone would cut at 255
                return grey.convert("L").convert("RGB")
            if upright.has_transparency_data:
                rgba = upright.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise Damaged(f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image in its {len(data)} bytes") from error
    except DECODE_ERRORS as error:
        raise Damaged(str(error) or type(error).__name__) from error


IMAGES = Decoder("image", decode_image)
