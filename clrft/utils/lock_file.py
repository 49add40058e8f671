"""A lock as a file: whom it names, how it appears whole, how it is read.

A lock is a hidden file beside what it guards, a JSON object that names process, host and time (``Holder``). It appears
by a link to a file already written. Deliberately absent: whether the holder lives (``clrft.utils.lease``), and taking a
lock over (``clrft.utils.locks``).
"""

import errno
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from clrft.utils.process_identity import boot, space, start_of
from task_streams.errors import UserError

NEW = ".new-"  # what stands behind a lock's name, before the token of who writes it


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock.

    Attributes:
        process: its number.
        host: name of its machine.
        space: the kernel's name of the space that the number counts in (containers have their own); empty if unknown.
        boot: identity of the machine's start; empty where the system tells none.
        started: when the process began, in the kernel's ticks; empty where the system tells none.
        taken: when it took the lock, UTC.
        token: of this one taking.
    """

    process: int
    host: str
    space: str
    boot: str
    started: str
    taken: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (since {self.taken})"


def lock_path(folder: Path) -> Path:
    """The lock of a run folder: hidden, beside it; where a link leads to it, beside the folder itself."""
    place = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
    return place.parent / f".{place.name}.lock"


def this_process() -> Holder:
    """This process as the holder of a lock that it takes now."""
    taken_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    own = os.getpid()
    return Holder(own, socket.gethostname(), space(), boot(), start_of(own), taken_at, secrets.token_hex(8))


def appear(path: Path, own: Holder) -> bool:
    """Make the lock appear whole, if none is there; returns whether it is one's own now."""
    if path.exists():
        return False
    beside = written(path, own)
    try:
        os.link(beside, path)
        return True
    except FileExistsError:  # a network may ask twice, and the second time find what the first has made
        return token_of(path) == own.token
    except OSError:  # a file system without hard links
        return exclusive(path, own)
    finally:
        beside.unlink(missing_ok=True)


def exclusive(path: Path, own: Holder) -> bool:
    """Make the lock by opening it as a new file; for a moment it is there and empty."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(own)))
        return True
    except FileExistsError:
        return False
    except OSError:  # a full disk
        path.unlink(missing_ok=True)
        raise


def written(path: Path, own: Holder) -> Path:
    """One's own lock, written under a name of its own beside the lock's."""
    beside = path.with_name(f"{path.name}{NEW}{own.token}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(own)))
        file.flush()
        os.fsync(file.fileno())
    return beside


def read(path: Path) -> tuple[str, os.stat_result]:
    """What a lock holds, and the facts of its file.

    The file is opened for its facts too: a network's file system may keep old ones until it is.

    Raises:
        FileNotFoundError: there is none, or another machine has just removed it.
        UserError: it is a link or a folder, which no process makes.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8", errors="replace") as file:
            return file.read(), os.fstat(file.fileno())
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR):
            raise UserError(f"{path} is no file, as a lock is; remove it if no process works there.") from error
        if error.errno == errno.ESTALE:
            raise FileNotFoundError(errno.ENOENT, "removed by another machine", str(path)) from error
        raise


def token_of(path: Path) -> str:
    """Token of the lock that lies there; empty if none does."""
    try:
        text, facts = read(path)
    except FileNotFoundError:
        return ""
    holder = parsed(text)
    return holder.token if holder is not None else f"file{facts.st_ino}"


def parsed(text: str) -> Holder | None:
    """The holder that a lock's text names; None for a damaged one."""
    try:
        values = json.loads(text)
        holder = Holder(**values)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (holder.host, holder.space, holder.boot, holder.started, holder.taken, holder.token)
    sound = type(holder.process) is int and all(isinstance(one, str) for one in texts)
    return holder if sound and holder.token.isalnum() else None
