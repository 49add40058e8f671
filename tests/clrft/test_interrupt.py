"""An interrupt that is swallowed on its way is raised again at the next check."""

import os
import signal

import pytest

from clrft import interrupt


def test_a_swallowed_interrupt_comes_back_at_the_next_check() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        interrupt.watch()
        interrupt.check()  # nothing came yet
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10**6):  # the handler runs between two instructions
                pass
        assert interrupt.asked()
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        interrupt.watch()
        assert not interrupt.asked()
    finally:
        signal.signal(signal.SIGINT, before)
