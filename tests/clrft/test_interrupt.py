"""An interrupt that is swallowed on its way is raised again at the next check."""

import os
import signal

import pytest

from clrft.utils import interrupt


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_swallowed_interrupt_comes_back_at_the_next_check(number: signal.Signals, code: int) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        interrupt.watch()
        interrupt.check()  # nothing came yet
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            for _ in range(10**6):  # the handler runs between two instructions
                pass
        assert interrupt.asked() and interrupt.exit_code() == code
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        interrupt.watch()
        assert not interrupt.asked()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
