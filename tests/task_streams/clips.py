"""Small video files for the tests, made with PyAV; every frame tells its number by its brightness."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

STEP = 6  # brightness between two frames
MILLISECOND = Fraction(1, 1000)


def flat(number: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A frame that tells its number, up to 40."""
    return Image.new("RGB", size, (8 + STEP * number,) * 3)


def number_of(frame: Image.Image) -> int:
    """The number that a frame tells."""
    return round((float(np.asarray(frame).mean()) - 8) / STEP)


def write_clip(
    path: Path,
    frames: int | Sequence[Image.Image],
    fps: int = 10,
    stamps: Sequence[int] | None = None,
    between: int = 0,
    fast_start: bool = False,
) -> Path:
    """A video file of flat frames (or of given ones).

    Args:
        path: the ending says which container.
        frames: how many, or which.
        fps: frames per second.
        stamps: milliseconds at which each frame comes on display, instead of ``fps``.
        between: frames that are coded from frames before and after them (B-frames).
        fast_start: whether the table of frames of an mp4 file comes before the frames.
    """
    images = [flat(i) for i in range(frames)] if isinstance(frames, int) else frames
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"} if fast_start else {}) as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 1
        stream.codec_context.max_b_frames = between
        if stamps is not None:
            stream.time_base = stream.codec_context.time_base = MILLISECOND
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
            frame.time_base = MILLISECOND if stamps is not None else Fraction(1, fps)
            frame.pts = i if stamps is None else stamps[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file with sound and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(path: Path) -> Path:
    """Change an mp4 file's display matrix to a quarter turn clockwise, as telephones write it."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version and flags 4, times and track 20, reserved 8, layer to volume 8
    for place, value in enumerate((0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)):
        data[matrix + 4 * place : matrix + 4 * place + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path
