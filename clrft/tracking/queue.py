"""Calls to the tracking store, made by one thread beside the training, which never waits for them.

A store that does not answer is asked again, at longer and longer intervals. The queue is bounded: when it is full, the
oldest figures of steps go, which are in the run's files too.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from clrft.tracking.store import Unreachable
from task_streams.errors import UserError

QUEUED_CALLS = 200
END_SECONDS = 4.0  # without any call coming to an end, after which a run's end waits no longer
END_SECONDS_AT_MOST = 30.0
FIRST_PAUSE, LONGEST_PAUSE, LAST_PAUSE = 0.5, 30.0, 0.25  # before a call is made again; the last when a run ends

_told: set[str] = set()  # stores whose failure this process has told


@dataclass(frozen=True, slots=True)
class Call:
    """Something to tell the store, which may be told again after a failure.

    Attributes:
        make: makes the call.
        figures: it holds figures of steps, and may be dropped.
    """

    make: Callable[[], object]
    figures: bool = False


class CallQueue:
    """Calls in order, made by a thread that lives while there are any.

    Args:
        store: name of the store, without secrets: its failure is told once in a process.
        moved: how many calls of the store have ended so far.
        say: tells the user a sentence.
        size: how many calls wait at most before figures are dropped.

    Attributes:
        lost: calls, other than figures, that the store refused.
        dropped: calls with figures that were dropped or refused.
    """

    def __init__(
        self, store: str, moved: Callable[[], int], say: Callable[[str], None], size: int = QUEUED_CALLS
    ) -> None:
        self.lost = 0
        self.dropped = 0
        self._store, self._moved, self._say, self._size = store, moved, say, size
        self._waiting: deque[Call] = deque()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._closed = False
        self._pause = FIRST_PAUSE

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, make: Callable[[], object], figures: bool = False) -> None:
        """Take a call; returns at once."""
        with self._change:
            if self._closed:
                self.dropped, self.lost = self.dropped + figures, self.lost + (not figures)
                return
            self._waiting.append(Call(make, figures))
            if len(self._waiting) > self._size:
                self._drop_figures()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def drain(self) -> bool:
        """Wait until all calls are made or the store is still; returns whether it took all but figures.

        Calls that are left when the wait is over are dropped, and no more are taken.
        """
        with self._change:
            self._ending = True
            self._change.notify_all()
            start = last = time.monotonic()
            moved = self._moved()
            while self._thread is not None:
                now = time.monotonic()
                if self._moved() != moved and not self._failing():
                    moved, last = self._moved(), now
                if now - last > END_SECONDS or now - start > END_SECONDS_AT_MOST:
                    self._close()
                    break
                self._change.wait(0.1)
            self._ending = False
            return self.lost == 0

    def _close(self) -> None:
        self.lost += 1 + sum(not call.figures for call in self._waiting)
        self._waiting.clear()
        self._closed = True
        self._change.notify_all()

    def _drop_figures(self) -> None:
        oldest = next((call for call in self._waiting if call.figures), None)
        if oldest is not None:
            self._waiting.remove(oldest)
            self.dropped += 1

    def _failing(self) -> bool:
        return self._pause > FIRST_PAUSE

    def _work(self) -> None:
        """Make calls until none is left."""
        while True:
            with self._change:
                if not self._waiting:
                    self._thread = None
                    self._change.notify_all()
                    return
                call = self._waiting.popleft()
            if not self._made(call):
                self._put_back(call)

    def _made(self, call: Call) -> bool:
        """Make a call; whether it is over, done or refused for good."""
        try:
            call.make()
            self._pause = FIRST_PAUSE
            return True
        except Unreachable as error:
            self._tell(error)
            return False
        except Exception as error:  # whatever goes wrong in tracking, training goes on
            with self._change:
                self.dropped, self.lost = self.dropped + call.figures, self.lost + (not call.figures)
            if not self._closed:
                self._tell(error)
            return True

    def _put_back(self, call: Call) -> None:
        """Let a call that failed be the next again, after a pause."""
        with self._change:
            if self._closed:
                return
            self._waiting.appendleft(call)
            if len(self._waiting) > self._size:
                self._drop_figures()
            end = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._change.wait_for(lambda: self._closed or self._ending, end - time.monotonic())
            if self._ending:
                self._change.wait(LAST_PAUSE)

    def _tell(self, error: Exception) -> None:
        if self._store not in _told:
            _told.add(self._store)
            text = str(error) if isinstance(error, UserError) else f"tracking: {type(error).__name__}: {error}"
            self._say(f"warning: {text}")
