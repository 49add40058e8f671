"""Small sources for the tests: examples without files, and folder trees of real images."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from task_streams import STREAMS, Workspace, build_stream
from task_streams.types import Example, TaskStream


def built(
    name: str, root: Path, order_seed: int = 0, workspace: Workspace | None = None, **settings: Any
) -> TaskStream:
    """The stream of a folder."""
    config: Any = STREAMS[name].config
    return build_stream(name, config(root=str(root), **settings), order_seed, workspace or Workspace())


def black() -> Image.Image:
    return Image.new("RGB", (4, 4))


def make_examples(labels: Iterable[str], count: int, prefix: str = "item", domain: str = "") -> tuple[Example, ...]:
    """``count`` examples of each class, with distinct keys and contents."""
    keys = [(label, f"{prefix}/{label}/{i:03d}") for label in labels for i in range(count)]
    return tuple(
        Example(key, label, black, hashlib.sha256(f"{key}{domain}".encode()).hexdigest(), domain) for label, key in keys
    )


def write_tree(root: Path, folders: Iterable[str], count: int, suffix: str = ".png") -> None:
    """``count`` images of distinct colours in each folder below ``root``."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (number, i, 7)).save(root / folder / f"{i:03d}{suffix}")
