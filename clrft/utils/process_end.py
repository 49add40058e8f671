"""A process that ends when its work is done, whatever code of a method's own has left behind in it.

Python waits for threads before it ends, for ever if they never do, and so do those who read the output for a child
process that has it open. Processes in a session of their own are left: they were meant to stay.
"""

import contextlib
import os
import sys
import threading
import time

GRACE_SECONDS = 3.0  # for what is left to end by itself
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # Python's own, which end with us


def end_in_time(code: int) -> None:
    """Have this process, whose work is done, end with an exit code soon; what it does not wait for is told."""
    end_children()
    threading.Thread(target=end_threads, args=(code,), name="end in time", daemon=True).start()


def end_children() -> None:
    """End child processes that do not end by themselves."""
    import psutil  # which takes a while, and is not needed before

    session, left = os.getsid(0), []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended
            if os.getsid(child.pid) == session and not any(name in " ".join(child.cmdline()) for name in HELPERS):
                left.append(child)
    _, left = psutil.wait_procs(left, GRACE_SECONDS)
    for child in left:
        with contextlib.suppress(psutil.Error):
            tell(f"process {child.pid} ({child.name()})")
            child.kill()


def end_threads(code: int) -> None:
    """End this process where threads keep it: Python, meanwhile, ends those that only wait for work."""
    left: list[str] = []
    while not left:
        time.sleep(GRACE_SECONDS)
        left = [
            repr(one.name) for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()
        ]
    try:
        tell(f"thread {', '.join(left)}")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)


def tell(what: str) -> None:
    """Say what is not waited for."""
    print(f"not waited for: {what}, which code of a method has left behind.", file=sys.stderr)
