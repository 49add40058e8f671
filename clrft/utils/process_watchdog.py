"""A run of several processes at the command line: one speaks, and all end together, with one message.

A process that fails leaves why with the launcher's store, where the others look twice a second. They are interrupted;
one that cannot be, since it waits for the failed one inside of a library, is ended a little later. Nothing is lost by
that: whatever is on disk is whole. Deliberately absent: starting processes, which ``torchrun`` or ``accelerate launch``
does.
"""

import _thread
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from methods.distributed import ranks

FAILURE, TOLD = "clrft/failure", "clrft/told"
BEAT = 0.5  # seconds between two looks at the store
GRACE = 15.0  # seconds to end by itself in
LOST = "the first process of the run has ended, and left no reason"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run of several processes ends."""

    place: int  # number of the process that failed first
    code: int  # exit code of all
    words: Sequence[str]  # sentences, as the first process tells them: with the number of another one


class ProcessWatchdog:
    """The processes of a run.

    Args:
        store: of the launcher, with every process as its client.
        tell: shows a failure; called once, in the first process, maybe by a thread of its own.
    """

    def __init__(self, store: Any, tell: Callable[[Failure], None]) -> None:
        self.store = store
        self.tell = tell
        self._over = threading.Event()
        self._telling = threading.Lock()
        self._told = False
        self._watcher = threading.Thread(target=self._watch, args=(store.clone(),), daemon=True)
        self._watcher.start()

    def ended(self, code: int, words: tuple[str, ...]) -> int:
        """End with an exit code, or with that of a process that failed before; tells why, and returns it.

        Args:
            code: of this process; 0: it has done its part.
            words: why it failed.
        """
        if code == 0:
            self._over.set()
            self._watcher.join(GRACE)  # a thread that is inside of the store when Python ends takes the process with it
            return 0
        own = Failure(ranks.rank(), code, words)
        if not ranks.is_rank0():
            own = Failure(ranks.rank(), code, [f"process {ranks.rank()}: {one}" for one in words])
            self._over.wait(2 * BEAT)  # where all fail alike, the first process says so for all
        try:
            first = Failure(**json.loads(self.store.compare_set(FAILURE, "", json.dumps(asdict(own)))))
            self._show(first)
            if not ranks.is_rank0():
                self.store.wait([TOLD], timedelta(seconds=GRACE))  # else the launcher ends all at once
        except RuntimeError:  # the store is gone, or nobody tells; then this process does
            first = own
            self.tell(own)
        self._over.set()
        return first.code

    def _show(self, failure: Failure) -> None:
        with self._telling:
            if not ranks.is_rank0() or self._told:
                return
            self._told = True
            self.tell(failure)
            self.store.set(TOLD, "1")

    def _watch(self, store: Any) -> None:
        """Look whether another process has failed; then interrupt this one, and end it if that is of no use."""
        while not self._over.wait(BEAT):
            try:
                if not store.check([FAILURE]):
                    continue
                failure = Failure(**json.loads(store.get(FAILURE)))
            except RuntimeError:
                if self._over.is_set():
                    return  # all is done, and the first process has ended
                failure = Failure(0, 1, (LOST,))
            if failure.place == ranks.rank():
                return
            self._show(failure)
            _thread.interrupt_main()
            if not self._over.wait(GRACE):
                sys.stderr.flush()
                os._exit(failure.code)
            return
