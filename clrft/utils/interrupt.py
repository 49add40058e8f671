"""Ctrl-C that is never lost: Python drops an interrupt that arrives in a destructor, and libraries may swallow one.

The handler raises at once, as Python's own does, and remembers; ``check`` raises again at the next safe point.
SIGTERM, by which schedulers end a job, is taken the same way.
"""

import signal
import threading
from types import FrameType

_asked = threading.Event()
_number = signal.SIGINT  # of the last signal that asked


def watch() -> None:
    """Take over SIGINT and SIGTERM in the main thread; an ignored one (a background job's) stays ignored."""
    _asked.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def ignore() -> None:
    """Take no more signals: the process is about to end, and tells others why."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def exit_code() -> int:
    """Exit code of a process that the last signal ended, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + int(_number)


def asked() -> bool:
    """Whether an interrupt came since ``watch``."""
    return _asked.is_set()


def check() -> None:
    """Raise the interrupt that came but was swallowed on its way."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _number
    _number = signal.Signals(number)
    _asked.set()
    raise KeyboardInterrupt
