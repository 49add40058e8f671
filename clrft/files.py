"""Files as the truth: a file or a task folder appears whole or not at all.

Everything is written beside its final place, flushed to the disk and renamed. What a killed process leaves
behind begins with a dot, names its process, and is removed by ``clean_partials``.

Deliberately absent: pickle, and locks that outlive their process (``locked`` is released by the kernel).
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from task_streams.errors import UserError

_PARTIAL = re.compile(r"^\..+\.partial-(\d+)$")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]*")
_LONGEST_NAME = 200


def config_root() -> Path:
    """Folder of the shipped YAML configs: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
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
        descriptor, probe = tempfile.mkstemp(prefix=".writable-", dir=folder)
        os.close(descriptor)
        os.unlink(probe)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"can't write to the folder {str(folder)!r} ({reason}); expected a folder in which files can be "
            "created. Choose another output folder or mend its permissions."
        ) from error


def write_json_atomic(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part.

    Raises:
        ValueError: the data hold NaN or an infinity; an undefined number is written as null by its owner.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text_atomic(path, text)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    beside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_json(path: Path, schema: int | None = None) -> dict[str, Any]:
    """Read a JSON object, and check its ``schema`` number if one is named.

    Raises:
        UserError: missing, damaged, not an object, or of another schema.
    """
    data = _parsed(path)
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a JSON {type(data).__name__}; expected an object.")
    found = data.get("schema")
    if schema is not None and found != schema:
        raise UserError(
            f"{path} has schema {found!r}; expected {schema}. It comes from another version of clrft or was edited."
        )
    return data


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read {path} ({error.strerror or error}); expected a JSON file.") from error
    except ValueError as error:  # bad JSON or bad UTF-8
        problem = f"{path} is damaged or is no JSON ({error}); restore it or remove its folder."
        raise UserError(problem) from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    Every file in it is flushed to the disk before the rename, so that a power cut shows all of it or none.

    Raises:
        UserError: ``path`` exists already.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    _refuse_existing(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _sync_tree(partial)
        _refuse_existing(path)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def clean_partials(parent: Path) -> list[str]:
    """Remove what dead processes left half-written in a folder; returns the removed names.

    Partials of live processes stay. Call it where nobody on another machine writes into the same folder.
    """
    removed = []
    for entry in sorted(parent.iterdir()) if parent.is_dir() else []:
        match = _PARTIAL.match(entry.name)
        if match is None or _lives(int(match[1])):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        removed.append(entry.name)
    return removed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's exclusive lock: one process of this machine at a time; a dead one's is free at once."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; expected a new folder. Remove it or go on from it.")


def _lives(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process has the number
        return True
    return True


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(folder))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
