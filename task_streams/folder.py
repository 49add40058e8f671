"""Streams from a folder of labelled images: one folder per class, optionally below a split or a domain.

Layouts: ``root/<class>/*``, ``root/{train,test}/<class>/*``, and either of them below ``root/<domain>/``.
Every image is decoded once when the stream is built, so a damaged file is found before any training; what
is kept of it is its path and the SHA-256 of its bytes. Hidden files are passed over, files that are no
images are counted in the notes. Symbolic links are followed inside of the root only.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from task_streams.config import ON_DAMAGED, CilConfig, DilConfig, choice_problems, repeated
from task_streams.draw import Pool, shown
from task_streams.errors import UserError, unknown_name
from task_streams.split import build_cil, build_dil
from task_streams.types import Example, TaskStream

LICENCE = "that of the images"
CITATION = "none: a folder of your own"
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
SPLITS = ("train", "test")
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

Progress = Callable[[int, int], None]  # (images verified, images in all)


@dataclass(frozen=True, kw_only=True)
class FolderCilConfig(CilConfig):
    """A folder of labelled images, new classes in each task."""

    root: str
    """Path of the folder that holds <class>/ or {train,test}/<class>/."""
    on_damaged: str = "error"
    """An image that cannot be decoded: error (stop before training) or skip (leave it out and record it)."""

    def problems(self) -> list[str]:
        """One sentence for each value that is out of range."""
        return super().problems() + choice_problems("on_damaged", self.on_damaged, ON_DAMAGED)


@dataclass(frozen=True, kw_only=True)
class FolderDilConfig(DilConfig):
    """A folder of labelled images in several domains, a new domain in each task."""

    root: str
    """Path of the folder that holds <domain>/<class>/ or <domain>/{train,test}/<class>/."""
    domains: tuple[str, ...] = ()
    """Names of the domain folders to use; empty = all, sorted by name."""
    on_damaged: str = "error"
    """An image that cannot be decoded: error (stop before training) or skip (leave it out and record it)."""

    def problems(self) -> list[str]:
        """One sentence for each value that is out of range."""
        found = super().problems() + choice_problems("on_damaged", self.on_damaged, ON_DAMAGED)
        return found + [f"domain {name!r} is listed more than once" for name in repeated(tuple(self.domains))]


@dataclass(frozen=True, slots=True)
class _File:
    """An image file that was found: where it belongs, not yet decoded."""

    path: Path
    key: str
    label: str
    domain: str
    split: str  # "train", "test" or "" when the source has no splits


def folder_cil(config: FolderCilConfig, order_seed: int, progress: Progress | None = None) -> TaskStream:
    """Class-incremental stream of a folder tree.

    Raises:
        UserError: the tree is not as expected, an image is damaged, or too few classes.
    """
    root = _existing(config.root, "<class>/<image> or {train,test}/<class>/<image>")
    files, notes = _class_folders(root, root, "")
    examples, skipped = _verified(files, config.on_damaged, progress)
    return build_cil(
        "folder_cil",
        _pool(files, examples),
        sizes=config.sizes,
        order_seed=order_seed,
        notes=[*notes, *skipped],
        **config.draw_settings,
    )


def folder_dil(config: FolderDilConfig, order_seed: int, progress: Progress | None = None) -> TaskStream:
    """Domain-incremental stream of a folder tree.

    Raises:
        UserError: the tree is not as expected, an image is damaged, or a domain is unknown.
    """
    root = _existing(config.root, "<domain>/<class>/<image> or <domain>/{train,test}/<class>/<image>")
    found = [folder.name for folder in _subfolders(root)]
    if unknown := [unknown_name("domain", name, found) for name in config.domains if name not in found]:
        raise UserError(*unknown)
    names = tuple(config.domains) or tuple(found)
    files, notes = [], []
    for name in names:
        of_domain, found_notes = _class_folders(root, root / name, name)
        files += of_domain
        notes += found_notes
    examples, skipped = _verified(files, config.on_damaged, progress)
    return build_dil(
        "folder_dil",
        {name: _pool([file for file in files if file.domain == name], examples) for name in names},
        order_seed=order_seed,
        seeded_order=config.domain_order == "seeded",
        notes=[*notes, *skipped],
        **config.draw_settings,
    )


def load_image(path: Path) -> Image.Image:
    """The image of a file as RGB, upright by its EXIF orientation."""
    return _decode(path.read_bytes())


def _decode(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _existing(root: str, layout: str) -> Path:
    """The root, resolved; a folder with at least one subfolder."""
    path = Path(root).expanduser()
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise UserError(f"root {root!r}: expected a folder with {layout}; found {found} there")
    if not _subfolders(path):
        found = shown([entry.name for entry in _entries(path)], limit=5) or "an empty folder"
        raise UserError(f"root {root!r}: expected a folder with {layout}; found {found}")
    return path.resolve()


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, hidden entries left out."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: expected a readable folder; {error.strerror}") from error


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _class_folders(root: Path, base: Path, domain: str) -> tuple[list[_File], list[str]]:
    """Image files of all class folders below ``base``, and notes on what else lies there.

    Raises:
        UserError: one split without the other, no images, or a link that leads out of the root.
    """
    names = [folder.name for folder in _subfolders(base)]
    splits = [name for name in SPLITS if name in names]
    if len(splits) == 1:
        raise UserError(f"{base}: found {splits[0]}/ alone; expected both train/ and test/, or neither")
    beside = [name for name in names if splits and name not in splits]
    notes = [f"{domain or 'root'}: {shown(beside)} beside train and test left out"] if beside else []
    files: list[_File] = []
    for split in splits or [""]:
        for folder in _subfolders(base / split):
            found, passed_over = _images(root, folder)
            files += [_File(path, path.relative_to(root).as_posix(), folder.name, domain, split) for path in found]
            notes += passed_over
    _refuse_escaping(root, files)
    if not files:
        raise UserError(
            f"{base}: expected <class>/<image> with an image name ending in {', '.join(SUFFIXES)}; "
            f"found {shown(names, limit=5) or 'no folders'}, and no image in there"
        )
    return files, notes


def _images(root: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Image files of one class folder, and a note on how many entries are something else."""
    entries = _entries(folder)
    images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
    others = len(entries) - len(images)
    where = folder.relative_to(root).as_posix()
    return images, [f"{where}: {others} entries that are no images passed over"] if others else []


def _refuse_escaping(root: Path, files: Iterable[_File]) -> None:
    escaping = [file for file in files if not file.path.resolve().is_relative_to(root)]
    if escaping:
        raise UserError(*(f"{file.path}: a link that leads out of {root}; refused" for file in escaping))


def _verified(
    files: Sequence[_File], on_damaged: str, progress: Progress | None
) -> tuple[dict[str, Example], list[str]]:
    """Examples of all images that decode, by key; and, when skipping, a note that names the others.

    Raises:
        UserError: naming every damaged image, unless they are to be skipped.
    """
    examples: dict[str, Example] = {}
    damaged: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as workers:  # decoding and hashing release the interpreter
        for done, (file, (content, fault)) in enumerate(zip(files, workers.map(_verify, files), strict=True), 1):
            if fault:
                damaged.append(f"{file.key} ({fault})")
            else:
                image = partial(load_image, file.path)
                examples[file.key] = Example(file.key, file.label, image, content, file.domain)
            if progress:
                progress(done, len(files))
    if damaged and on_damaged == "error":
        remedy = "repair or remove them, or set on_damaged=skip"
        raise UserError(f"{len(damaged)} images cannot be decoded; {remedy}", *damaged)
    return examples, [f"{len(damaged)} damaged images skipped: {', '.join(damaged)}"] if damaged else []


def _verify(file: _File) -> tuple[str, str]:
    """SHA-256 of a file's bytes, and what is wrong with it (empty when it decodes to the last pixel)."""
    try:
        data = file.path.read_bytes()
        _decode(data)
    except DECODE_ERRORS as error:
        return "", str(error) or type(error).__name__
    return hashlib.sha256(data).hexdigest(), ""


def _pool(files: Iterable[_File], examples: dict[str, Example]) -> Pool:
    """The examples of files, by split."""
    splits: dict[str, list[Example]] = {}
    for file in files:
        if file.key in examples:
            splits.setdefault(file.split, []).append(examples[file.key])
    if "" in splits:
        return Pool(tuple(splits[""]))
    return Pool(tuple(splits.get("train", ())), tuple(splits.get("test", ())))
