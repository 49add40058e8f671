"""Ctrl-C that is never lost: Python drops an interrupt that arrives in a destructor, and libraries may swallow one.

The handler raises at once, as Python's own does, and remembers; ``check`` raises again at the next safe point.
"""

import signal
import threading
from types import FrameType

_asked = threading.Event()


def watch() -> None:
    """Take over SIGINT in the main thread; an ignored one (a background job's) stays ignored."""
    _asked.clear()
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


def asked() -> bool:
    """Whether an interrupt came since ``watch``."""
    return _asked.is_set()


def check() -> None:
    """Raise the interrupt that came but was swallowed on its way."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt
