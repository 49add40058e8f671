"""Files as the truth: a file or a task folder appears whole or not at all.

Everything is written beside its final place, flushed to the disk and renamed. What a killed process leaves
behind begins with a dot, names its process and its machine, and is removed by ``clean_partials``.

Deliberately absent: pickle, and locks that outlive their process (``locked`` is released by the kernel).
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from clrft.utils.plain import from_json
from clrft.utils.process_identity import boot_and_space, lives
from task_streams.errors import UserError, open_file

_PARTIAL = re.compile(r"^\..+\.partial-(\d+)(?:-([0-9a-f]{8}))?$")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]*")
_LONGEST_NAME = 200
COMPARISON, REPORT = "comparison", "report"  # folders beside or in runs that comparisons of them are written to


def config_root() -> Path:
    """Folder of the shipped YAML configs: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside, beside = package / "configs", package.parent / "configs"
    return inside if inside.is_dir() else beside


def safe_name(name: str) -> str:
    """The name itself, once it is known to stay inside its folder.

    Raises:
        UserError: empty, too long, hidden, or with a character that could lead out of the folder.
    """
    if _SAFE_NAME.fullmatch(name) and len(name) <= _LONGEST_NAME:
        return name
    raise UserError(
        f"{name!r} can't name a file or folder; expected 1 to {_LONGEST_NAME} letters, digits or any of "
        ". _ + = , @ -, the first one a letter or a digit."
    )


def check_writable(folder: Path) -> None:
    """Make sure, before any work, that files can be made in a folder; missing parents are created.

    A file is really created and removed: permission bits say nothing about root or a read-only mount.

    Raises:
        UserError: it can't be created or written, or it is (or lies under) a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(prefix=".writable-", dir=folder).close()
    except OSError as error:
        raise UserError(
            f"can't write to the folder {str(folder)!r} ({error.strerror or error}); expected a folder in which files "
            "can be created. Choose another output folder or mend its permissions."
        ) from error


def check_inside(folder: Path) -> None:
    """Refuse a run folder with links that lead out of it: what is written or removed there would be elsewhere.

    The folder itself may be reached by a link.
    """
    root = folder.resolve()
    entries = [Path(place, name) for place, folders, names in os.walk(root) for name in (*folders, *names)]
    targets = {path: Path(os.path.realpath(path)) for path in entries if path.is_symlink()}  # a circle's is itself
    leading_out = {path: target for path, target in targets.items() if not target.is_relative_to(root)}
    said = "outside of the run's folder; expected the file itself."
    if leading_out:
        raise UserError(*(f"{path} is a link to {target}, {said}" for path, target in leading_out.items()))


def comparison_folder(first: Path, asked: str | None, name: str = COMPARISON) -> Path:
    """Folder for tables and pictures: as asked, else that of a name in the first folder of runs; no link out of it."""
    if asked:
        return Path(asked)
    folder = first / name
    target = Path(os.path.realpath(folder))
    if os.path.islink(folder) and not target.is_relative_to(first.resolve()):
        raise UserError(f"{folder} is a link to {target}; expected a folder. Name it with -o to write there.")
    return folder


def partial_of(path: Path) -> Path:
    """Name beside a file or folder under which this process writes it; no other has it, on any machine that sees it."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}-{machine()}")


@cache
def machine() -> str:
    """This machine and its space of process numbers, in 8 hex digits: containers on one disk use the same numbers."""
    facts = " ".join((socket.gethostname(), *boot_and_space()))
    return hashlib.sha256(facts.encode()).hexdigest()[:8]


def write_json_atomic(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part.

    Raises:
        ValueError: the data hold NaN or an infinity; an undefined number is written as null by its owner.
    """
    write_text_atomic(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text_atomic(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with whole_file(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name of a file that becomes ``path`` when the block ends well, and vanishes otherwise.

    What lies at ``path`` is replaced, so that a link there is not followed.

    Raises:
        UserError: a folder lies at ``path``.
    """
    if path.is_dir() and not path.is_symlink():
        raise UserError(f"{path} is a folder; expected a file, or nothing yet. Remove it.")
    beside = partial_of(path)
    try:
        beside.unlink(missing_ok=True)
        yield beside
        _sync(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def read_json(path: Path, schema: int | None = None) -> dict[str, Any]:
    """Read a JSON object, and check its ``schema`` number if one is named.

    Raises:
        UserError: missing, damaged, not an object, or of another schema.
    """
    try:
        with open_file(path) as file:
            data = from_json(file.read().decode("utf-8"))
    except OSError as error:
        raise UserError(f"can't read {path} ({error.strerror or error}); expected a JSON file.") from error
    except ValueError as error:  # bad JSON, bad UTF-8, or no plain value
        raise UserError(f"{path} is damaged or is no JSON ({error}); restore it or remove its folder.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a JSON {type(data).__name__}; expected an object.")
    found = data.get("schema")
    if schema is not None and found != schema:
        raise UserError(
            f"{path} has schema {found!r}; expected {schema}. It comes from another version of clrft or was edited."
        )
    return data


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    Every file in it is flushed to the disk before the rename, so that a power cut shows all of it or none.

    Raises:
        UserError: ``path`` exists already.
    """
    partial = partial_of(path)
    _refuse_existing(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for place, _, names in os.walk(partial):
            for each in (*names, "."):
                _sync(Path(place, each))
        _refuse_existing(path)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(path.parent)


def write_first(path: Path, text: str) -> None:
    """Write a text file unless it is there already: of several that do so at once, on any machine, one wins."""
    beside = partial_of(path)
    try:
        beside.write_text(text, encoding="utf-8")
        _sync(beside)
        os.link(beside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _sync(path.parent)


def link_or_copy(source: str, target: str) -> None:
    """Let a file that is never written again appear in a second place, copied where links cannot be."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def clean_partials(parent: Path) -> list[str]:
    """Remove what dead processes left half-written in a folder; returns the removed names.

    Partials of live processes of this machine stay. Those of other machines go: call it where the folder is this
    process's alone, by its lock (``clrft/utils/locks.py``).
    """
    removed = []
    for entry in sorted(parent.iterdir()) if parent.is_dir() else []:
        match = _PARTIAL.match(entry.name)
        if match is None or (match[2] in (None, machine()) and lives(int(match[1]))):
            continue
        remove(entry)
        removed.append(entry.name)
    return removed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's exclusive lock: one process of this machine at a time; a dead one's is free at once.

    On a disk that machines share, others may not see it: what it guards must come out right without it too.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"the lock {path} can't be opened ({error.strerror or error}); expected a file.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


class Damaged(UserError):
    """Files that are not what was written."""


def remove(path: Path) -> None:
    """Remove a file, a folder, or a link and not what it leads to; nothing if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def digest(values: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; expected a new folder. Remove it or go on from it.")


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
