"""Streams from a folder of labelled images: one folder per class, optionally below a split or a domain.

Layouts: ``root/<class>/*``, ``root/{train,test}/<class>/*``, and either of them below ``root/<domain>/``.
Hidden files are passed over; files that are no images, and folders without any, are counted in the notes. Symbolic
links are followed inside of the root only.
"""

from dataclasses import dataclass, replace

from task_streams.config import SourceCilConfig, SourceDilConfig
from task_streams.errors import UserError, shown, unknown_name
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import cil_stream, dil_stream
from task_streams.sources.class_folders import class_tree
from task_streams.sources.layout import existing_root, joined, subfolders
from task_streams.sources.records import Found, Workspace
from task_streams.types import TaskStream


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
    """Class-incremental stream of a folder tree."""
    root = existing_root(config.root, "<class>/<image> or {train,test}/<class>/<image>")
    return cil_stream("folder_cil", _with_empty_noted(class_tree(root, root)), config, order_seed, workspace)


def folder_dil(config: FolderDilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Domain-incremental stream of a folder tree."""
    root = existing_root(config.root, "<domain>/<class>/<image> or <domain>/{train,test}/<class>/<image>")
    names = [folder.name for folder in subfolders(root)]
    if unknown := [unknown_name("domain", name, names) for name in config.domains if name not in names]:
        raise UserError(*unknown)
    found = joined(_with_empty_noted(class_tree(root, root / name, name), name) for name in config.domains or names)
    return dil_stream("folder_dil", found, config, order_seed, workspace)


def _with_empty_noted(found: Found, domain: str = "") -> Found:
    """A folder without images is no class of one's own data; that it was left out is recorded."""
    there = {record.label for record in found.records}
    empty = [name for name in found.classes if name not in there]
    if not empty:
        return found
    note = f"{domain or 'root'}: folders without images left out: {shown(empty)}"
    return replace(found, notes=(*found.notes, note), classes=tuple(sorted(there)))


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
