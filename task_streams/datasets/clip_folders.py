"""Streams of labelled clips, and the one from your own folder of clips: one folder per class.

Layouts: ``root/<class>/*`` or ``root/{train,test}/<class>/*``. Entries that are no clips are counted in the notes.
Every video layout ends in ``clip_stream``. Deliberately absent: detection and captions in video, domains.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat

from task_streams.config import Count, SourceCilConfig
from task_streams.errors import UserError, shown
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import cil_stream
from task_streams.sources.class_folders import class_folders
from task_streams.sources.clips import LEAST_FRAMES, SUFFIXES, ClipCache, ClipDecoder
from task_streams.sources.layout import existing_root, joined, subfolders, with_all_classes
from task_streams.sources.records import Found, Split, Workspace
from task_streams.types import Feed, TaskStream

AUTO: Final = "auto"
FEEDS: tuple[Feed, ...] = get_args(Feed)
SPLITS: Mapping[str, Split] = {"train": "train", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class ClipCilConfig(SourceCilConfig):
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

    def decoder(self, workspace: Workspace) -> ClipDecoder:
        """The decoder that these settings ask for."""
        cache = ClipCache.below(workspace.cache, self.cache_mb)
        feed = next((feed for feed in FEEDS if feed == self.feed), workspace.feed)
        return ClipDecoder(self.fps, self.max_frames, self.max_side, feed, cache)


def clip_stream(name: str, found: Found, config: ClipCilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Class-incremental stream of the clips that a layout found; raises as ``classification.cil_stream``."""
    decoder = config.decoder(workspace)
    return replace(cil_stream(name, found, config, order_seed, workspace, decoder), feed=decoder.feed)


def clip_tree(root: Path, splits: Mapping[str, Split] = SPLITS) -> Found:
    """Clips of ``root/<class>/`` or of ``root/<split>/<class>/``, of each kind of split the first folder that is there.

    Raises:
        UserError: one split without the other, or no clip at all.
    """
    names = [folder.name for folder in subfolders(root)]
    there: dict[Split, str] = {}
    for folder, split in splits.items():
        if folder in names:
            there.setdefault(split, folder)
    if len(there) == 1:
        raise UserError(f"{root}: found {next(iter(there.values()))}/ alone; expected train and test clips, or neither")
    beside = [name for name in names if there and name not in there.values()]
    notes = [f"{shown(beside)} beside {' and '.join(there.values())} left out"] if beside else []
    folders: list[tuple[Path, Split]] = [(root / folder, split) for split, folder in there.items()] or [(root, "")]
    found = joined(class_folders(root, base, split, suffixes=SUFFIXES) for base, split in folders)
    if not found.records and not found.problems:
        raise UserError(
            f"{root}: expected <class>/<clip> with a clip's name ending in {', '.join(SUFFIXES)}; "
            f"found {shown(names, limit=5) or 'no folders'}, and no clip in there"
        )
    return replace(with_all_classes(found), notes=(*notes, *found.notes))


def clips_cil(config: ClipCilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Class-incremental stream of a folder of clips."""
    root = existing_root(config.root, "<class>/<clip> or {train,test}/<class>/<clip>")
    return clip_stream("clips_cil", clip_tree(root), config, order_seed, workspace)


CIL = StreamSpec(
    ClipCilConfig,
    clips_cil,
    "your own folder of labelled clips, new classes in each task",
    "that of the clips",
    "none: a folder of your own",
)
