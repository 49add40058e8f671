"""Processes of tests: a program as several that know of each other, as a launcher starts them; one that has ended."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence


def free_port() -> int:
    """A port of loopback at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def several(
    count: int, words: Sequence[str], environment: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """The processes of ``python <words>``, one thread each; their output can be read."""
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    started, pipe = [], subprocess.PIPE
    for place in map(str, range(count)):
        own = {**os.environ, **common, **(environment or {}), "RANK": place, "LOCAL_RANK": place}
        started.append(subprocess.Popen([sys.executable, *words], env=own, stdout=pipe, stderr=pipe, text=True))
    return started


def ended(processes: Sequence[subprocess.Popen[str]], seconds: float) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each; all are killed if they have not ended by then."""
    try:
        told = [one.communicate(timeout=seconds) for one in processes]
        return [(one.returncode, *said) for one, said in zip(processes, told, strict=True)]
    finally:
        for one in processes:
            one.kill()
            one.wait()


def ended_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid
