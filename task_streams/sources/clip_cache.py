"""Decoded clips kept on disk within a size limit: one file for each clip, written whole or not at all.

A file is an uncompressed zip of the frames (WebP without loss, so a cached clip equals a fresh one to the last bit)
and ``clip.json`` with their rate. Files are written beside and renamed; several processes may share a folder. Above
the limit the files that were used the longest ago go first (a file's time of change is when it was last used). A file
that cannot be read is treated as absent and written again. Nothing is pickled.
"""

import hashlib
import json
import os
import tempfile
import time
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from task_streams.errors import UserError
from task_streams.sources.records import Source

FOLDER = "clips"
SUFFIX = ".zip"
UNFINISHED = ".part"
ABANDONED_SECONDS = 3600.0  # an unfinished file of that age was left by a writer that was killed
MEBIBYTE = 2**20
HEAD = "clip.json"

Frames = tuple[Image.Image, ...]


@dataclass(frozen=True, slots=True)
class ClipCache:
    """A folder of decoded clips; picklable, nothing open.

    Attributes:
        folder: where they are; made when the first clip is kept.
        limit: bytes that all files together may take.
    """

    folder: Path
    limit: int

    @classmethod
    def below(cls, workspace_cache: Path | None, mebibytes: int) -> "ClipCache | None":
        """The cache in a workspace's folder, None without a folder or room."""
        return cls(workspace_cache / FOLDER, mebibytes * MEBIBYTE) if workspace_cache and mebibytes else None

    def key(self, source: Source, decoder: str) -> str:
        """Name of a clip's file: of its source, as it is now, and the decoder's identity.

        Raises:
            Damaged: there is nothing to read.
        """
        return hashlib.sha256("\0".join((source.name, source.stamp(), decoder)).encode()).hexdigest()

    def load(self, key: str) -> tuple[Frames, float] | None:
        """Frames and their rate, None if they are not there (or not whole)."""
        path = self.folder / f"{key}{SUFFIX}"
        try:
            with zipfile.ZipFile(path) as archive:
                head = json.loads(archive.read(HEAD))
                frames = tuple(_image(archive.read(_name(index))) for index in range(head["frames"]))
            os.utime(path)
        except (OSError, zipfile.BadZipFile, KeyError, ValueError):
            return None  # absent, removed in the meantime, or damaged: it is decoded and written anew
        return frames, head["fps"]

    def store(self, key: str, frames: Frames, fps: float) -> None:
        """Keep a clip, then remove what was not used for the longest time until all fit; too large a clip is not kept.

        Raises:
            UserError: the folder cannot be written.
        """
        data = _packed(frames, fps)
        if len(data) > self.limit:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(UNFINISHED, dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(unfinished, self.folder / f"{key}{SUFFIX}")
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


def _name(index: int) -> str:
    return f"{index:05d}.webp"


def _packed(frames: Frames, fps: float) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(HEAD, json.dumps({"fps": fps, "frames": len(frames)}))
        for index, frame in enumerate(frames):
            image = BytesIO()
            frame.save(image, "WEBP", lossless=True, quality=0, method=0)
            archive.writestr(_name(index), image.getvalue())
    return buffer.getvalue()


def _image(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data)) as image:
        frame = image.convert("RGB")
    frame.info = {}  # what the file format adds is no part of a frame
    return frame
