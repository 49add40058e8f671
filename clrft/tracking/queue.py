"""Calls to MLflow, made by one thread beside the training, which never waits for them.

A store that does not answer is asked again, at longer and longer intervals.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from clrft.tracking.store import Unreachable
from task_streams.errors import UserError

END_SECONDS = 4.0  # without any call coming to an end, after which a run's end waits no longer
END_SECONDS_AT_MOST = 30.0
FIRST_PAUSE, LONGEST_PAUSE, LAST_PAUSE = 0.5, 30.0, 0.25  # before a call is made again; the last when a run ends

_told: set[str] = set()  # stores whose failure this process has told


class CallQueue:
    """Calls in order, made by a thread that lives while there are any; one that fails may be made again.

    Args:
        store: name of the store, without secrets: its failure is told once in a process.
        moved: how many calls of the store have ended so far.
        say: tells the user a sentence.

    Attributes:
        lost: calls that the store refused, or that were left when the wait for it was over.
        waiting: calls to be made, the one that is being made included.
    """

    def __init__(self, store: str, moved: Callable[[], int], say: Callable[[str], None]) -> None:
        self.lost = 0
        self._store, self._moved, self._say = store, moved, say
        self.waiting: deque[Callable[[], object]] = deque()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ending = self._closed = False
        self._pause = FIRST_PAUSE

    def put(self, call: Callable[[], object]) -> None:
        """Take a call; returns at once."""
        with self._change:
            if self._closed:
                self.lost += 1
                return
            self.waiting.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()

    def drain(self) -> bool:
        """Wait until all calls are made or the store is still; returns whether it took all.

        Calls that are left when the wait is over are dropped, and no more are taken.
        """
        with self._change:
            self._ending = True
            self._change.notify_all()
            start = last = time.monotonic()
            moved = self._moved()
            while self._thread is not None:
                now = time.monotonic()
                if self._moved() != moved and self._pause == FIRST_PAUSE:
                    moved, last = self._moved(), now
                if now - last > END_SECONDS or now - start > END_SECONDS_AT_MOST:
                    self.lost += len(self.waiting)
                    self.waiting.clear()
                    self._closed = True
                    self._change.notify_all()
                    break
                self._change.wait(0.1)
            self._ending = False
            return self.lost == 0

    def _work(self) -> None:
        """Make calls until none is left; one that fails is made again after a pause."""
        while True:
            with self._change:
                if not self.waiting:
                    self._thread = None
                    self._change.notify_all()
                    return
                call = self.waiting[0]
            failure: Exception | None = None
            try:
                call()
            except Exception as error:  # whatever goes wrong in tracking, training goes on
                failure = error
            passing = isinstance(failure, Unreachable)
            if failure is not None and (passing or not self._closed) and self._store not in _told:
                _told.add(self._store)
                named = "" if isinstance(failure, UserError) else f"tracking: {type(failure).__name__}: "
                self._say(f"warning: {named}{failure}")
            with self._change:
                if self._closed:  # and nothing waits any more
                    continue
                if passing:
                    pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
                    self._change.wait_for(lambda: self._closed or self._ending, pause)
                    if self._ending:
                        self._change.wait(LAST_PAUSE)
                else:
                    self.waiting.popleft()
                    self.lost += failure is not None
                    self._pause = self._pause if failure is not None else FIRST_PAUSE
