"""Small trees of real images for the tests of layouts."""

from collections.abc import Callable, Iterable
from io import BytesIO
from itertools import count
from pathlib import Path

from PIL import Image

from task_streams.errors import UserError

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
