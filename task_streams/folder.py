"""Streams from a folder of labelled images: one folder per class, optionally below a split or a domain.

Layouts: ``root/<class>/*``, ``root/{train,test}/<class>/*``, and either of them below ``root/<domain>/``.
Hidden files are passed over, files that are no images are counted in the notes. Symbolic links are followed
inside of the root only.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from task_streams.classification import cil_stream, dil_stream
from task_streams.config import SourceCilConfig, SourceDilConfig
from task_streams.draw import shown
from task_streams.errors import UserError, unknown_name
from task_streams.images import SUFFIXES
from task_streams.records import FileSource, Found, Record, Split, Workspace
from task_streams.spec import StreamSpec
from task_streams.types import TaskStream

SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class FolderCilConfig(SourceCilConfig):
    """A folder of labelled images, new classes in each task."""

    root: str
    """Path of the folder that holds <class>/ or {train,test}/<class>/."""


@dataclass(frozen=True, kw_only=True)
class FolderDilConfig(SourceDilConfig):
    """A folder of labelled images in several domains, a new domain in each task."""

    root: str
    """Path of the folder that holds <domain>/<class>/ or <domain>/{train,test}/<class>/."""


def folder_cil(config: FolderCilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Class-incremental stream of a folder tree.

    Raises:
        UserError: the tree is not as expected, an image is damaged, or too few classes.
    """
    root = _existing(config.root, "<class>/<image> or {train,test}/<class>/<image>")
    return cil_stream("folder_cil", _class_folders(root, root, ""), config, order_seed, workspace)


def folder_dil(config: FolderDilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Domain-incremental stream of a folder tree.

    Raises:
        UserError: the tree is not as expected, an image is damaged, or a domain is unknown.
    """
    root = _existing(config.root, "<domain>/<class>/<image> or <domain>/{train,test}/<class>/<image>")
    names = [folder.name for folder in _subfolders(root)]
    if unknown := [unknown_name("domain", name, names) for name in config.domains if name not in names]:
        raise UserError(*unknown)
    found = [_class_folders(root, root / name, name) for name in config.domains or names]
    records = tuple(record for part in found for record in part.records)
    notes = tuple(note for part in found for note in part.notes)
    return dil_stream("folder_dil", Found(records, notes), config, order_seed, workspace)


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


def _class_folders(root: Path, base: Path, domain: str) -> Found:
    """Images of all class folders below ``base``, and notes on what else lies there.

    Raises:
        UserError: one split without the other, no images, or a link that leads out of the root.
    """
    names = [folder.name for folder in _subfolders(base)]
    splits = [name for name in SPLITS if name in names]
    if len(splits) == 1:
        raise UserError(f"{base}: found {splits[0]}/ alone; expected both train/ and test/, or neither")
    beside = [name for name in names if splits and name not in splits]
    notes = [f"{domain or 'root'}: {shown(beside)} beside train and test left out"] if beside else []
    records: list[Record] = []
    for split in splits or [""]:
        for folder in _subfolders(base / split):
            found, passed_over = _images(root, folder)
            records += [_record(root, path, folder.name, split, domain) for path in found]
            notes += passed_over
    _refuse_escaping(root, records)
    if not records:
        raise UserError(
            f"{base}: expected <class>/<image> with an image name ending in {', '.join(SUFFIXES)}; "
            f"found {shown(names, limit=5) or 'no folders'}, and no image in there"
        )
    return Found(tuple(records), tuple(notes))


def _record(root: Path, path: Path, label: str, split: Split, domain: str) -> Record:
    return Record(path.relative_to(root).as_posix(), label, FileSource(path), split, domain)


def _images(root: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Image files of one class folder, and a note on how many entries are something else."""
    entries = _entries(folder)
    images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
    others = len(entries) - len(images)
    where = folder.relative_to(root).as_posix()
    return images, [f"{where}: {others} entries that are no images passed over"] if others else []


def _refuse_escaping(root: Path, records: Iterable[Record]) -> None:
    escaping = [record for record in records if not Path(record.source.name).resolve().is_relative_to(root)]
    if escaping:
        raise UserError(*(f"{record.source.name}: a link that leads out of {root}; refused" for record in escaping))


LICENCE = "that of the images"
CITATION = "none: a folder of your own"
CIL = StreamSpec(
    FolderCilConfig, folder_cil, "your own folder of labelled images, new classes in each task", LICENCE, CITATION
)
DIL = StreamSpec(
    FolderDilConfig,
    folder_dil,
    "your own folder of labelled images by domain, a new domain in each task",
    LICENCE,
    CITATION,
)
