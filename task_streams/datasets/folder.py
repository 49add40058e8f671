"""Streams from a folder of labelled images: one folder per class, optionally below a split or a domain.

Layouts: ``root/<class>/*``, ``root/{train,test}/<class>/*``, and either of them below ``root/<domain>/``.
Hidden files are passed over; files that are no images, and folders without any, are counted in the notes. Symbolic
links are followed inside of the root only.
"""

from dataclasses import dataclass, replace
from functools import partial

from task_streams.config import NamedConfig, SourceCilConfig, SourceDilConfig
from task_streams.errors import UserError, shown, unknown_name
from task_streams.labels import shown_form
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import labelled_stream
from task_streams.sources.class_folders import class_tree
from task_streams.sources.layout import existing_root, joined, subfolders
from task_streams.sources.records import Found


@dataclass(frozen=True, kw_only=True)
class FolderCilConfig(NamedConfig, SourceCilConfig):
    """A folder of labelled images, new classes in each task."""

    root: str
    """Path of the folder that holds <class>/ or {train,test}/<class>/."""


@dataclass(frozen=True, kw_only=True)
class FolderDilConfig(NamedConfig, SourceDilConfig):
    """A folder of labelled images in several domains, a new domain in each task."""

    root: str
    """Path of the folder that holds <domain>/<class>/ or <domain>/{train,test}/<class>/."""


def folder(config: FolderCilConfig | FolderDilConfig) -> Found:
    """Images of a folder tree, or of that of each domain.

    A folder without images is no class of one's own data; that it was left out is recorded.
    """
    if isinstance(config, FolderDilConfig):
        root = existing_root(config.root, "<domain>/<class>/<image> or <domain>/{train,test}/<class>/<image>")
        names = [folder.name for folder in subfolders(root)]
        on_disk = {shown_form(name): name for name in names} | {name: name for name in names}
        if unknown := [
            unknown_name("domain", name, names) for name in config.domains if shown_form(name) not in on_disk
        ]:
            raise UserError(*unknown)
        wanted = [on_disk.get(name) or on_disk[shown_form(name)] for name in config.domains]
        parts = {name: class_tree(root, root / name, name) for name in wanted or names}
    else:
        root = existing_root(config.root, "<class>/<image> or {train,test}/<class>/<image>")
        parts = {"": class_tree(root, root)}
    for domain, found in parts.items():
        there = {record.label for record in found.records}
        if empty := [name for name in found.classes if name not in there]:
            note = f"{domain or 'root'}: folders without images left out: {shown(empty)}"
            parts[domain] = replace(found, notes=(*found.notes, note), classes=tuple(sorted(there)))
    return joined(parts.values())


LICENCE = "that of the images"
CITATION = "none: a folder of your own"
CIL = StreamSpec(
    FolderCilConfig,
    partial(labelled_stream, "folder_cil", folder),
    "your own folder of labelled images, new classes in each task",
    LICENCE,
    CITATION,
)
DIL = StreamSpec(
    FolderDilConfig,
    partial(labelled_stream, "folder_dil", folder),
    "your own folder of labelled images by domain, a new domain in each task",
    LICENCE,
    CITATION,
)
