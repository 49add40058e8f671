"""Clips: frames sampled from a video file at a set rate, decoded by PyAV (FFmpeg's libraries).

The sampling rule, exact and the same on every machine:

- The frames of the decoder are on display one after the other, at the stream's time stamps in ascending order (AVI
  stores frames in another order than it shows them); a stream without time stamps runs at its average rate. Frames
  are found by time, so a variable frame rate needs nothing special.
- A clip lasts from its first time stamp to its last, plus the last gap between two; a single frame lasts ``2 / fps``.
- The rate is ``fps``, lowered to ``max_frames / length`` for a long clip and raised to ``2 / length`` for a short one,
  so there are 2 to ``max_frames`` frames: Qwen2-VL's own video input takes frames in pairs (and repeats the last one
  of an odd number). Frame k is the one on display at k / rate after the start. All of it in fractions.

Decoded clips are kept on disk within a size limit (``ClipCache``): one file for each clip, written whole or not at all.

Frames are upright by the file's rotation. A clip that does not open, has no video, fails to decode, breaks off inside
of a frame or shows clearly less than it declares is damaged (``refuse_cut_off``). Deliberately absent: sound, pixel
aspect ratios, and playlists (FFmpeg may read the formats in ``FORMATS`` only, so a file cannot name other files).
"""

import hashlib
import json
import os
import re
import tempfile
import time
import zipfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image

from task_streams.errors import UserError
from task_streams.sources.records import Damaged, FileSource
from task_streams.types import Clip, Feed

SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
FORMATS = "3g2,3gp,asf,avi,flv,m4a,matroska,mj2,mov,mp4,mpeg,mpegts,mpegvideo,ogg,webm"
LEAST_FRAMES = 2
RULE = 1  # raise it when the same bytes come to give other frames: what was cached before is then not used
WHOLE = Fraction(4, 5)  # a clip with less than this share of its declared frames (or length) is cut off
HELD_BYTES = 2**25  # decoded frames are held up to this size; a larger clip is decoded twice
MICROSECONDS = 10**6  # FFmpeg's unit of a container's duration, in a second
MATROSKA_LENGTH = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")  # of a stream, in its tag DURATION
TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
CACHE_SUFFIX, UNFINISHED, HEAD = ".zip", ".part", "clip.json"
ABANDONED_SECONDS = 3600.0  # an unfinished file of that age was left by a writer that was killed

Frames = tuple[Image.Image, ...]


@dataclass(slots=True)
class Packets:
    """What the packets of a file tell about its length.

    Attributes:
        ends: second at which the last packet of each stream of pictures or sound ends.
        shown: packets of the video that hold a frame and are not hidden by an edit list.
    """

    ends: dict[int, Fraction] = field(default_factory=dict)
    shown: int = 0


@dataclass(frozen=True, slots=True)
class ClipCache:
    """A folder of decoded clips; picklable, nothing open.

    A file is an uncompressed zip of the frames (WebP without loss, so a cached clip equals a fresh one to the last bit)
    and ``clip.json`` with their rate. Files are written beside and renamed; several processes may share a folder. Above
    the limit the files that were used the longest ago go first (a file's time of change is when it was last used). A
    file that cannot be read is treated as absent and written again. Nothing is pickled.

    Attributes:
        folder: where they are; made when the first clip is kept.
        limit: bytes that all files together may take.
    """

    folder: Path
    limit: int

    def load(self, key: str) -> tuple[Frames, float] | None:
        """Frames and their rate, None if they are not there (or not whole)."""
        path = self.folder / f"{key}{CACHE_SUFFIX}"
        try:
            with zipfile.ZipFile(path) as archive:
                head = json.loads(archive.read(HEAD))
                frames = []
                for index in range(head["frames"]):
                    with Image.open(BytesIO(archive.read(f"{index:05d}.webp"))) as image:
                        frames.append(image.convert("RGB"))
                    frames[-1].info = {}  # what the file format adds is no part of a frame
            os.utime(path)
        except (OSError, zipfile.BadZipFile, KeyError, ValueError):
            return None  # absent, removed in the meantime, or damaged: it is decoded and written anew
        return tuple(frames), head["fps"]

    def store(self, key: str, frames: Frames, fps: float) -> None:
        """Keep a clip, then remove what was not used for the longest time until all fit; too large a clip is not kept.

        Raises:
            UserError: the folder cannot be written.
        """
        buffer = BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:  # entries without a date: a clip always gives the same file
            archive.writestr(zipfile.ZipInfo(HEAD), json.dumps({"fps": fps, "frames": len(frames)}))
            for index, frame in enumerate(frames):
                image = BytesIO()
                frame.save(image, "WEBP", lossless=True, quality=0, method=0)
                archive.writestr(zipfile.ZipInfo(f"{index:05d}.webp"), image.getvalue())
        data = buffer.getvalue()
        if len(data) > self.limit:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(UNFINISHED, dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(unfinished, self.folder / f"{key}{CACHE_SUFFIX}")
            self._make_room()
        except OSError as error:
            raise UserError(
                f"{self.folder}: decoded clips cannot be kept ({error.strerror}); make room or set cache_mb=0"
            ) from error

    def _make_room(self) -> None:
        """Remove the files used the longest ago, as far as the limit asks, and what killed writers left."""
        used: list[tuple[float, int, str]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue  # another process removed or finished it
                used.append((status.st_mtime, status.st_size, entry.path))
        abandoned = time.time() - ABANDONED_SECONDS
        total = sum(size for _, size, _ in used)
        for moment, size, path in sorted(used):
            unfinished = path.endswith(UNFINISHED)
            if moment < abandoned if unfinished else total > self.limit:
                Path(path).unlink(missing_ok=True)
                total -= size


@dataclass(frozen=True, slots=True)
class ClipDecoder:
    """Decodes video files to sampled frames, through a cache if there is one.

    Attributes:
        fps: frames per second to sample, above 0.
        max_frames: most frames of a clip, 2 or more.
        max_side: longest side of a frame in pixels, a larger frame is made smaller in proportion; None = as it is.
        feed: how a model gets the frames: as so many images, or as its own kind of video.
        cache: where decoded clips are kept; None = decode each time.
    """

    fps: float = 2.0
    max_frames: int = 16
    max_side: int | None = None
    feed: Feed = "images"
    cache: ClipCache | None = None

    @property
    def identity(self) -> str:
        """Everything that the frames depend on, beside the bytes."""
        return f"clip {RULE} fps={Fraction(str(self.fps))} max_frames={self.max_frames} max_side={self.max_side}"

    def __call__(self, source: FileSource) -> Clip:
        """The sampled clip."""
        key = hashlib.sha256("\0".join((source.name, source.stamp(), self.identity)).encode()).hexdigest()
        if self.cache and (kept := self.cache.load(key)):
            return Clip(*kept, self.feed)
        sampled, rate = sampled_frames(source.read(), Fraction(str(self.fps)), self.max_frames)
        for place, frame in enumerate(sampled):
            longest = max(frame.size)
            if self.max_side is not None and longest > self.max_side:
                width, height = (max(1, round(side * self.max_side / longest)) for side in frame.size)
                sampled[place] = frame.resize((width, height), Image.Resampling.BICUBIC)
        if self.cache:
            self.cache.store(key, tuple(sampled), float(rate))
        return Clip(tuple(sampled), float(rate), self.feed)


def sampled_frames(data: bytes, fps: Fraction, max_frames: int) -> tuple[list[Image.Image], Fraction]:
    """Frames of a video file by the module's rule, RGB and upright, and their rate."""
    stamps: list[Fraction | None] = []
    held: list[Any] = []
    room = HELD_BYTES
    packets = Packets()
    with opened(data) as (container, stream):
        for frame in frames_of(container, stream, packets):
            stamps.append(None if frame.pts is None else frame.pts * Fraction(frame.time_base))
            room -= 2 * frame.width * frame.height
            if room >= 0:
                held.append(frame)
        times = display_times(stamps, stream.average_rate)
        refuse_cut_off(container, stream, times, packets)
        indices, rate = sampled_indices(times, fps, max_frames)
        if len(held) == len(times):
            return _images(held, indices), rate
    with opened(data) as (container, stream):
        return _images(frames_of(container, stream, Packets()), indices), rate


def sampled_indices(times: Sequence[Fraction], fps: Fraction, max_frames: int) -> tuple[list[int], Fraction]:
    """Which frames are sampled by the module's rule of those shown at ascending ``times`` (seconds), and their rate."""
    length = _length(times) or LEAST_FRAMES / fps
    rate = max(LEAST_FRAMES / length, min(fps, max_frames / length))
    return [bisect_right(times, times[0] + k / rate) - 1 for k in range(ceil(length * rate))], rate


def display_times(stamps: Sequence[Fraction | None], average_rate: Fraction | None) -> list[Fraction]:
    """When each decoded frame comes on display, in seconds, ascending."""
    if not stamps:
        raise Damaged("no frame of the video can be decoded")
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps):
        return sorted(known)
    if not average_rate:
        raise Damaged("frames without time stamps in a video without a frame rate")
    return [index / Fraction(average_rate) for index in range(len(stamps))]


@contextmanager
def opened(data: bytes) -> Iterator[tuple[Any, Any]]:
    """The container and the video stream of a file; whatever FFmpeg refuses in the meantime is damage."""
    import av  # here, because the command line lists streams without it

    if not data:
        raise Damaged("an empty file")
    options = {"format_whitelist": FORMATS}
    try:
        with av.open(BytesIO(data), metadata_errors="replace", container_options=options) as container:
            pictures = av.stream.Disposition.attached_pic  # the cover of a sound file is no video
            streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
            if not streams:
                raise Damaged("no video in the file")
            streams[0].codec_context.thread_count = 1  # clips are decoded side by side
            yield container, streams[0]
    except av.FFmpegError as error:
        raise Damaged(f"no readable video: {error.strerror or error}") from error


def frames_of(container: Any, stream: Any, packets: Packets) -> Iterator[Any]:
    """Decoded frames in the order in which they are shown; what the packets tell goes into ``packets``."""
    for packet in container.demux(stream, *container.streams.audio):
        start = packet.dts if packet.pts is None else packet.pts
        if start is not None:
            end = (start + (packet.duration or 0)) * Fraction(packet.time_base)
            packets.ends[packet.stream.index] = max(end, packets.ends.get(packet.stream.index, end))
        if packet.stream is not stream:
            continue
        if packet.is_corrupt:
            raise Damaged("the file breaks off inside of a frame")
        packets.shown += packet.size > 0 and not packet.is_discard
        yield from packet.decode()


def refuse_cut_off(container: Any, stream: Any, times: Sequence[Fraction], packets: Packets) -> None:
    """Refuse a clip that shows clearly less than it declares.

    It is whole if it yields the frames that it declares; or, since an edit list hides frames, and empty ones count in
    AVI, if all that is to be shown is decoded and lasts as long as the video declares; or, of a file without a number
    of frames, if its sound lasts as long as the file declares, so that it was read to its end.
    """
    if stream.frames and len(times) >= WHOLE * stream.frames:
        return
    length = max(_length(times), packets.ends.get(stream.index, times[-1]) - times[0])
    own = _own_length(stream)
    if own and length >= WHOLE * own and len(times) >= WHOLE * min(packets.shown, stream.frames or 0):
        return
    if stream.frames:
        raise Damaged(f"cut off: {len(times)} of {stream.frames} declared frames can be decoded")
    declared = Fraction(container.duration or 0, MICROSECONDS)
    reached = max(packets.ends.values(), default=times[-1]) - Fraction(container.start_time or 0, MICROSECONDS)
    if max(length, reached) < WHOLE * declared:
        raise Damaged(f"cut off: {float(length):.2f} of {float(declared):.2f} declared seconds can be decoded")


def _own_length(stream: Any) -> Fraction:
    """Seconds that a file declares for its video alone, after its edit list; 0 where it doesn't."""
    if stream.duration:
        return Fraction(stream.duration * stream.time_base)
    if found := MATROSKA_LENGTH.fullmatch(stream.metadata.get("DURATION", "")):
        return int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3])
    return Fraction(0)


def _length(times: Sequence[Fraction]) -> Fraction:
    """Length of a clip in seconds, 0 for a single frame."""
    moments = sorted(set(times))
    return moments[-1] - moments[0] + moments[-1] - moments[-2] if len(moments) > 1 else Fraction(0)


def _images(frames: Any, indices: Sequence[int]) -> list[Image.Image]:
    """The wanted frames as RGB images, turned upright as the file says; an index may come twice."""
    wanted = set(indices)
    images: dict[int, Image.Image] = {}
    for index, frame in enumerate(frames):
        if index in wanted:
            turn = TURNS.get(frame.rotation % 360)
            image: Image.Image = frame.to_image()
            images[index] = image if turn is None else image.transpose(turn)
    return [images[index] for index in indices]
