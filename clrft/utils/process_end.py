"""A process that ends when its work is done, whatever code of a method's own has left behind in it.

Python waits for threads and for child processes before it ends, for ever if they never do.
"""

import multiprocessing
import os
import sys
import threading
import time

GRACE_SECONDS = 3.0  # for what is left to end by itself


def left_behind() -> list[str]:
    """Threads and child processes that Python waits for, in words."""
    threads = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    children = [one for one in multiprocessing.active_children() if not one.daemon]
    return [f"thread {one.name!r}" for one in threads] + [f"process {one.name!r} ({one.pid})" for one in children]


def end_in_time(code: int) -> None:
    """Have this process, whose work is done, end with an exit code soon; what it does not wait for is told."""

    def watch() -> None:
        time.sleep(GRACE_SECONDS)
        while not (left := left_behind()):  # libraries may be tidying up
            time.sleep(GRACE_SECONDS)
        try:
            print(f"not waited for: {', '.join(left)}, which code of a method has left behind.", file=sys.stderr)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for child in multiprocessing.active_children():
                child.kill()
        finally:
            os._exit(code)

    threading.Thread(target=watch, name="end in time", daemon=True).start()
