"""Small sources for the tests: examples without files, trees of real images, lists and what is wrong with them."""

import hashlib
from collections.abc import Callable, Iterable
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from task_streams import STREAMS, Workspace, build_stream
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import check_stream
from task_streams.types import Example, TaskStream


def built(
    name: str, root: Path, order_seed: int = 0, workspace: Workspace | None = None, **settings: Any
) -> TaskStream:
    """The stream of a folder."""
    config: Any = STREAMS[name].config
    return build_stream(name, config(root=str(root), **settings), order_seed, workspace or Workspace())


def sizes(stream: TaskStream) -> list[tuple[int, int]]:
    """Numbers of training and test items of each task, of a stream without faults."""
    assert check_stream(stream) == []
    return [(len(task.train), len(task.test)) for task in stream.tasks]


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


_numbers = count()


def write_image(path: Path, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> Path:
    """A JPEG unlike any other: its number stands behind the end of the image, where decoders do not look."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(data, "JPEG")
    path.write_bytes(data.getvalue() + str(next(_numbers)).encode())
    return path


def write_images(root: Path, paths: Iterable[str]) -> None:
    """An image at each path below the root."""
    for path in paths:
        write_image(root / path)


def write_lines(path: Path, lines: Iterable[str], end: str = "\n") -> None:
    """A text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())


def add_lines(path: Path, *lines: str) -> None:
    """Add these lines to a text file."""
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def cut(path: Path) -> None:
    """Keep the first half of a file, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def problems_of(build: Callable[[], object]) -> tuple[str, ...]:
    """The problems that a call reports; none when it succeeds."""
    try:
        build()
    except UserError as error:
        return error.problems
    return ()


def png(colour: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """A PNG of two by two pixels."""
    stream = BytesIO()
    Image.new("RGB", (2, 2), colour).save(stream, "PNG")
    return stream.getvalue()
