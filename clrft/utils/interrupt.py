"""Ctrl-C that is never lost: Python drops an interrupt that arrives in a destructor, and libraries may swallow one.

The handler raises at once, as Python's own does, and remembers; ``check`` raises again at the next safe point.
SIGTERM, by which schedulers end a job, is taken the same way.
"""

import signal
import threading
from types import FrameType

from task_streams.errors import Interrupted

_code = 0  # what ``asked`` returns


def watch() -> None:
    """Take over SIGINT and SIGTERM in the main thread; an ignored one (a background job's) stays ignored."""
    global _code
    _code = 0

    def stop(number: int, frame: FrameType | None) -> None:
        global _code
        _code = 128 + number
        raise Interrupted

    for number in (signal.SIGINT, signal.SIGTERM):
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def ignore() -> None:
    """Take no more signals: the process is about to end, and tells others why."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def asked() -> int:
    """Exit code of the last interrupt since ``watch``, as shells count (130 Ctrl-C, 143 SIGTERM); 0 if none came."""
    return _code


def check() -> None:
    """Raise the interrupt that came but was swallowed on its way."""
    if _code:
        raise Interrupted
