"""Streams of labelled clips, and the one from your own folder of clips: one folder per class.

Layouts: ``root/<class>/*`` or ``root/{train,test}/<class>/*``. Entries that are no clips are counted in the notes.
Every video layout is built by ``clip_stream``. Deliberately absent: detection and captions in video, domains.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from task_streams.config import Count, NamedConfig, SourceCilConfig
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import labelled_stream
from task_streams.sources.class_folders import class_tree
from task_streams.sources.clips import LEAST_FRAMES, ClipCache, ClipDecoder
from task_streams.sources.layout import existing_root, with_all_classes
from task_streams.sources.records import Found, Workspace
from task_streams.types import TaskStream

AUTO: Final = "auto"
CACHE_FOLDER = "clips"  # of decoded clips, in the workspace's cache


@dataclass(frozen=True, kw_only=True)
class ClipCilConfig(NamedConfig, SourceCilConfig):
    """Labelled clips, new classes in each task."""

    root: str
    """Path of the folder that holds the data."""
    fps: PositiveFloat = 2.0
    """Frames per second sampled from a clip, > 0; lower for clips longer than max_frames / fps seconds."""
    max_frames: Annotated[int, Field(ge=LEAST_FRAMES)] = 16
    """Most frames of a clip, >= 2, spread evenly over all of it."""
    max_side: Count | None = None
    """Longest side of a frame in pixels, >= 1, to which larger ones are brought once; null = as filmed."""
    feed: Literal["auto", "images", "video"] = AUTO
    """How a model gets a clip: images (one after the other), video (its own video input), or auto (video if it can)."""
    cache_mb: NonNegativeInt = 4096
    """MiB on disk for decoded clips, >= 0; 0 = decode each time."""


def clip_stream(
    name: str, find: Callable[[Any], Found], config: ClipCilConfig, order_seed: int, workspace: Workspace
) -> TaskStream:
    """Stream of the clips that ``find`` finds for some settings; raises as ``labelled_stream``."""
    feed = workspace.feed if config.feed == AUTO else config.feed
    cache = None
    if workspace.cache and config.cache_mb:
        cache = ClipCache(workspace.cache / CACHE_FOLDER, config.cache_mb * 2**20)
    decoder = ClipDecoder(config.fps, config.max_frames, config.max_side, feed, cache)
    stream = labelled_stream(name, find, config, order_seed, workspace, decoder)
    return replace(stream, feed=feed)


def clips(config: ClipCilConfig) -> Found:
    """Clips of a folder of one's own; raises as ``existing_root`` and ``class_tree``."""
    root = existing_root(config.root, "<class>/<clip> or {train,test}/<class>/<clip>")
    return with_all_classes(class_tree(root, root, clips=True))


CIL = StreamSpec(
    ClipCilConfig,
    partial(clip_stream, "clips_cil", clips),
    "your own folder of labelled clips, new classes in each task",
    "that of the clips",
    "none: a folder of your own",
)
