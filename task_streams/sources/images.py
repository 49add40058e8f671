"""Image files to RGB images: upright by their EXIF orientation, 8 bits a channel, nothing transparent.

Grayscale, palette, CMYK (with or without Adobe's inversion) and 16-bit images are converted; what is transparent is
laid on white, as a browser shows it. A 16-bit image with values of fewer bits, as cameras and scanners write them, is
scaled by these, or it would be black. An animation is refused, because all but a part of it would be lost in silence.
Only formats that image datasets use are tried, none that starts another program.
"""

from io import BytesIO
from struct import error as StructError

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from task_streams.errors import open_file
from task_streams.sources.records import Damaged, Decoder, FileSource

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, StructError, Image.DecompressionBombError)
DEPTHS = (8, 10, 12, 14, 16)  # bits that the values of a 16-bit image may have
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
            deep = image.format == "PNG" and data[24] == 16  # bits of a channel, in the file's head
            upright = ImageOps.exif_transpose(_eight_bits(image, data) if deep else image)
            if upright.has_transparency_data:
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
                upright.info = rgba.info
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise Damaged(f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image in its {len(data)} bytes") from error
    except DECODE_ERRORS as error:
        raise Damaged(str(error) or type(error).__name__) from error


def _eight_bits(image: Image.Image, data: bytes) -> Image.Image:
    """An opened 16-bit PNG file with 8 bits a channel; ``info["bits"]`` tells how many its values have, if fewer.

    They are those that the file declares (sBIT) or, where it doesn't or its values are larger, as many as these take.
    """
    pixels = np.asarray(image)
    if image.mode == "RGBA":
        pixels = pixels[..., :3]
    if image.mode.startswith("I"):
        values = pixels[..., None]
    elif pixels.max() < 128:  # Pillow holds the upper 8 bits alone; the others count only where these are small
        values = _png_values(data)
    else:
        return image
    colours = values.shape[2] - (values.shape[2] + 1) % 2  # without the alpha channel
    largest = int(values[..., :colours].max())
    at = data.find(b"sBIT", 0, data.find(b"IDAT"))
    declared = max(data[at + 4 : at + 4 + colours]) if at > 0 else 0
    bits = declared if largest < 2**declared <= 2**16 else next(bits for bits in DEPTHS if largest < 2**bits)
    shifts = [max(bits - 8, 0)] * colours
    if len(shifts) < values.shape[2]:
        shifts.append(max(bits - 8, 0) if values[..., -1].max() < 2**bits else 8)
    small = (values >> np.array(shifts, dtype=values.dtype)).astype(np.uint8)
    made = Image.fromarray(small if small.shape[2] > 1 else small[..., 0])
    made.info = image.info | ({"bits": bits} if largest and bits < 16 else {})
    return made


def _png_values(data: bytes) -> NDArray[np.uint16]:
    """Values of a 16-bit PNG file, [height, width, channels]; Pillow reads those of grey files only."""
    import av  # here, because hardly any file needs it

    try:
        with av.open(BytesIO(data), format="png_pipe") as file:
            frame = next(file.decode(video=0))  # type: ignore[union-attr]
    except (av.FFmpegError, StopIteration) as error:
        raise Damaged(f"a 16-bit PNG file that cannot be read ({error})") from error
    row = frame.planes[0].line_size // 2
    channels = len(frame.format.components)
    values = np.frombuffer(memoryview(frame.planes[0]), ">u2").reshape(frame.height, row)[:, : frame.width * channels]
    return values.astype(np.uint16).reshape(frame.height, frame.width, channels)


IMAGES = Decoder("image 2", decode_image)
