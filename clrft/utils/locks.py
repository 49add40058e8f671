"""Locks that outlive their process, on a local disk or one that machines share: one process works in a folder.

A lock is a file beside what it guards (``clrft.utils.lock_file``); a thread touches it while the holder lives, and what
is known of a holder tells whether it is gone (``clrft.utils.lease``).

Taking over: who wants to replace a lock whose token is T first takes the lock ``<lock>.after-T`` in this same manner,
and then replaces the lock only if it still holds T. The holder lets go of its lock in the same way. So of any number
of takers one wins, and nobody takes away a lock that is not the one that was judged.

Deliberately absent: fcntl's locks alone, which other machines may not see; waiting for a lock.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clrft.utils.lease import TIMING, Timing, age, look, still_silent
from clrft.utils.lock_file import NEW, Holder, appear, lock_path, this_process, token_of, written
from task_streams.errors import UserError

AFTER = ".after-"  # what stands behind a lock's name while it changes hands, before the token of the lock judged


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
        self._file = os.open(path, os.O_RDONLY)  # touching needs no more, and a disk may be made read-only under it
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"beat {path.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the lock was not taken over, as after a long sleep of the machine.

        Raises:
            UserError: it was.
        """
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
                if token_of(self.path) == self.holder.token:
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
        clean(path, timing)
        yield lock
    finally:
        lock.release()


def take(path: Path, what: Path, timing: Timing = TIMING) -> Holder:
    """Take a lock that nobody holds, or that a process holds that is gone; returns this process as its holder.

    Raises:
        Locked: a process that may live holds it; ``what`` is named as what it works on.
    """
    own = this_process()
    while not appear(path, own):
        found = look(path, timing)
        if found is None:  # let go in between
            continue
        if not found.gone or not (found.certain or still_silent(path, found, timing)):
            raise Locked(what, found.who)
        if replace(path, found.token, own, what, timing):
            break
    return own


def replace(path: Path, token: str, own: Holder, what: Path, timing: Timing) -> bool:
    """Put one's own lock in the place of the one with a token; False if that one is not there any more.

    Raises:
        Locked: another is replacing it at this moment.
    """
    try:
        with taken(guard(path, token), timing):
            if token_of(path) != token:
                return False
            written(path, own).replace(path)
            return True
    except Locked as error:
        raise Locked(what, error.who) from error


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


def clean(path: Path, timing: Timing) -> None:
    """Remove what takers left that died on the way to this lock, once it is old."""
    for left in path.parent.iterdir():
        if left.name.startswith((path.name + AFTER, path.name + NEW)):
            with contextlib.suppress(OSError):
                if age(left, left.stat().st_mtime_ns) > timing.silent:
                    left.unlink()
