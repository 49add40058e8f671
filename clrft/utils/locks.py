"""Locks that outlive their process, on a local disk or one that machines share: one process works in a folder.

A lock is a file beside what it guards; a thread touches it while the holder lives. Process numbers are used again and
clocks are set, so a holder is gone only if

- on this host its process has ended, or another has its number (the start time tells),
- this host was started anew since, and nothing has touched the lock for some beats,
- or it is on another host and nothing has touched the lock for ``Timing.silent`` seconds by the file system's own
  clock, nor while the taker watched for two beats.

Taking over: who wants to replace a lock whose token is T first takes the lock ``<lock>.after-T`` in this same manner,
and then replaces the lock only if it still holds T. The holder lets go of its lock in the same way. So of any number
of takers one wins, and nobody takes away a lock that is not the one that was judged.

Deliberately absent: fcntl's locks alone, which other machines may not see; waiting for a lock. ``filelock``'s leases
were tried instead and lose two guarantees: what looks at a lock (``clrft status``, a sweep) can tell at once that its
holder on another host is gone, where a lease only tells whoever watches it for its whole duration; and who knows that
a holder was killed (Ray's executor) may wait less for that lock, where all must have one duration.
"""

import contextlib
import errno
import json
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from clrft.utils.process_identity import boot_and_space, lives, start_of
from task_streams.errors import UserError


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock."""

    process: int  # its number
    host: str  # name of its machine
    space: str  # the kernel's name of the space that the number counts in (containers have their own); empty if unknown
    boot: str  # identity of the machine's start; empty where the system tells none
    started: str  # when the process began, in the kernel's ticks; empty where the system tells none
    taken: str  # when it took the lock, UTC
    token: str  # of this one taking

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (since {self.taken})"


@dataclass(frozen=True, slots=True)
class Timing:
    """How a lock's life is told, in seconds."""

    beat: float = 20.0  # between two touches by the holder
    silent: float = 600.0  # without a touch, after which a holder on another host counts as gone


TIMING = Timing()
NEW = ".new-"  # what stands behind a lock's name, before the token of who writes it
AFTER = ".after-"  # what stands there while it changes hands, before the token of the lock judged


@dataclass(frozen=True, slots=True)
class Found:
    """A lock as it lies there."""

    holder: Holder | None  # who holds it; None for a file that tells nobody (damaged, or being written)
    token: str  # of the holder, or of the file itself
    touched: int  # when it was touched last, by the file system's clock, ns
    gone: str  # why its holder is gone, as half a sentence; empty while it may live
    certain: bool  # the holder's process was looked for; False when only its silence tells

    @property
    def who(self) -> str:
        """The holder in words."""
        return str(self.holder) if self.holder is not None else "a process that its lock does not name"


def look(path: Path, timing: Timing = TIMING) -> Found | None:
    """A lock as it is now; None if there is none."""
    lying = read(path)
    if lying is None:
        return None
    holder, token, touched = lying
    limit = timing.silent
    if holder is not None and holder.host == socket.gethostname():
        boot, space = boot_and_space()
        if holder.boot == boot and holder.space == space:
            gone = "" if lives(holder.process) else f"process {holder.process} has ended"
            if not gone and holder.started and start_of(holder.process) not in ("", holder.started):
                gone = f"process {holder.process} has ended, and another has its number"
            return Found(holder, token, touched, gone, True)
        if holder.boot != boot:  # or another machine of the same name: then it goes on touching
            limit = min(limit, 3 * timing.beat)
    silent = age(path, touched)
    if silent < -timing.beat:  # the clock was set back since: the time is counted from now
        with contextlib.suppress(OSError):
            os.utime(path)
    gone = f"its lock was not touched for {silent:.0f} s" if silent > limit else ""
    return Found(holder, token, touched, gone, False)


def read(path: Path) -> tuple[Holder | None, str, int] | None:
    """A lock's holder (None for a damaged one), its token, and when it was touched (ns); None if there is no lock.

    The file is opened for its facts too: a network's file system may keep old ones until it is.

    Raises:
        UserError: it is a link or a folder, which no process makes.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8", errors="replace") as file:
            text, facts = file.read(), os.fstat(file.fileno())
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR):
            raise UserError(f"{path} is no file, as a lock is; remove it if no process works there.") from error
        if error.errno in (errno.ENOENT, errno.ESTALE):  # stale: another machine has just removed it
            return None
        raise
    try:
        holder = Holder(**json.loads(text))
        texts = (holder.host, holder.space, holder.boot, holder.started, holder.taken, holder.token)
        if type(holder.process) is int and all(isinstance(one, str) for one in texts) and holder.token.isalnum():
            return holder, holder.token, facts.st_mtime_ns
    except (ValueError, TypeError, RecursionError):
        pass
    return None, f"file{facts.st_ino}", facts.st_mtime_ns


def token_of(path: Path) -> str:
    """Token of the lock that lies there; empty if none does."""
    found = read(path)
    return "" if found is None else found[1]


def age(path: Path, touched: int) -> float:
    """Seconds since a lock was touched, by the clock of the file system that it lies on."""
    try:
        now = file_system_now(path.parent)
    except OSError:  # nothing can be written here; who only looks takes its own clock
        now = time.time_ns()
    return (now - touched) / 1e9


def file_system_now(folder: Path) -> int:
    """The time by the clock of the file system that a folder lies on, ns."""
    with tempfile.NamedTemporaryFile(prefix=".clock-", dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime_ns


def lock_path(folder: Path) -> Path:
    """The lock of a run folder: hidden, beside it; where a link leads to it, beside the folder itself."""
    place = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
    return place.parent / f".{place.name}.lock"


def this_process() -> Holder:
    """This process as the holder of a lock that it takes now."""
    taken_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    own, (boot, space) = os.getpid(), boot_and_space()
    return Holder(own, socket.gethostname(), space, boot, start_of(own), taken_at, secrets.token_hex(8))


def appear(path: Path, own: Holder) -> bool:
    """Make the lock appear whole, if none is there; returns whether it is one's own now."""
    if path.exists():
        return False
    beside = written(path, own)
    try:
        os.link(beside, path)
    except FileExistsError:  # a network may ask twice, and the second time find what the first has made
        return token_of(path) == own.token
    except OSError:  # a file system without hard links: for a moment it is there and empty
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(own)))
        except FileExistsError:
            return False
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
            raise
    finally:
        beside.unlink(missing_ok=True)
    return True


def written(path: Path, own: Holder) -> Path:
    """One's own lock, written under a name of its own beside the lock's."""
    beside = path.with_name(f"{path.name}{NEW}{own.token}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(own)))
        file.flush()
        os.fsync(file.fileno())
    return beside


class Locked(UserError):
    """A process that may live holds the lock.

    Attributes:
        who: the holder in words.
    """

    def __init__(self, what: Path, who: str) -> None:
        self.who = who
        super().__init__(
            f"{what} is being worked on by {who}; expected nobody. Wait for its end or stop it; "
            f"clrft status {what} tells how far it is."
        )


class Held:
    """A lock that this process holds, touched by a thread until ``release``."""

    def __init__(self, path: Path, holder: Holder, timing: Timing) -> None:
        self.path = path
        self.holder = holder
        self._timing = timing
        self._place = path.absolute()  # for the thread, whatever the working folder is meanwhile
        self._file = os.open(path, os.O_RDONLY)  # touching needs no more, and a disk may be made read-only under it
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"beat {path.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Refuse to go on if the lock was taken over, as after a long sleep of the machine."""
        if self._lost.is_set():
            found = look(self.path, self._timing)
            now = "nobody" if found is None else found.who
            raise UserError(
                f"{self.path}: this process was silent for so long that its lock was taken from it; now {now} holds "
                "it. Nothing is lost: what was finished is on disk."
            )

    def release(self) -> None:
        """Let go of the lock, unless it is another's by now; on a disk that takes no file it stays until the end.

        Whoever comes after the end of this process finds it gone, and takes the lock over.
        """
        self._ended.set()
        self._thread.join()
        os.close(self._file)
        with contextlib.suppress(Locked, OSError), taken(guard(self.path, self.holder.token), self._timing):
            if token_of(self.path) == self.holder.token:
                self.path.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(self._timing.beat):
            with contextlib.suppress(OSError):  # the disk may be away for a moment; the next beat tells
                if token_of(self._place) == self.holder.token:
                    os.utime(self._file)
                else:
                    self._lost.set()


@contextmanager
def held(folder: Path, timing: Timing = TIMING) -> Iterator[Held]:
    """Hold a folder's lock while the block runs; a dead process's is taken over.

    Args:
        folder: what is guarded; it need not exist, the folder around it must.
        timing: how often the lock is touched, and what counts as silent.

    Raises:
        Locked: a process that may live holds it.
        UserError: the lock cannot be written.
    """
    path = lock_path(folder)
    try:
        holder = take(path, folder, timing)
        lock = Held(path, holder, timing)
    except OSError as error:
        raise UserError(f"the lock {path} cannot be written ({error.strerror or error}).") from error
    try:
        for left in path.parent.iterdir():  # by takers that died on the way to this lock
            if left.name.startswith((path.name + AFTER, path.name + NEW)):
                with contextlib.suppress(OSError):
                    if age(left, left.stat().st_mtime_ns) > timing.silent:
                        left.unlink()
        yield lock
    finally:
        lock.release()


def take(path: Path, what: Path, timing: Timing = TIMING) -> Holder:
    """Take a lock that nobody holds, or that a process holds that is gone; returns this process as its holder.

    Raises:
        Locked: a process that may live holds it, or is taking it over; ``what`` is named as what it works on.
    """
    own = this_process()
    while not appear(path, own):
        found = look(path, timing)
        if found is None:  # let go in between
            continue
        may_live = not found.gone
        if found.gone and not found.certain:
            # a clock set forward makes a living holder look silent, until its next beat
            time.sleep(2 * timing.beat)
            again = look(path, timing)
            may_live = again is None or (again.token, again.touched) != (found.token, found.touched)
        if may_live:
            raise Locked(what, found.who)
        try:
            with taken(guard(path, found.token), timing):
                if token_of(path) == found.token:  # else another was faster
                    written(path, own).replace(path)
                    return own
        except Locked as error:
            raise Locked(what, error.who) from error
    return own


@contextmanager
def taken(path: Path, timing: Timing) -> Iterator[None]:
    """Hold a lock for a moment, untouched: that of a replacement."""
    own = take(path, path, timing)
    try:
        yield
    finally:
        if token_of(path) == own.token:
            path.unlink(missing_ok=True)


def guard(path: Path, token: str) -> Path:
    """The lock under which the lock with a token, itself such a one or not, is replaced or let go."""
    return path.with_name(f"{path.name.partition(AFTER)[0]}{AFTER}{token}")
