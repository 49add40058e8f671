"""MLflow's own user interface over a local store: a server on loopback, ended with us."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from clrft.tracking.store import redacted_uri, tracking_uri
from clrft.utils.quiet import quiet_environment
from task_streams.errors import UserError


def serve_ui(root: Path, port: int = 5000) -> int:
    """Run MLflow's user interface on loopback until Ctrl-C; returns its exit code. For the main thread.

    Raises:
        UserError: there is no store yet, or tracking goes to a server, which has its own interface.
    """
    quiet_environment()
    uri = tracking_uri(root)
    if urlsplit(uri).scheme in ("http", "https"):
        raise UserError(f"MLFLOW_TRACKING_URI is a server; open {redacted_uri(uri)} in a browser.")
    if "MLFLOW_TRACKING_URI" not in os.environ and not (root / "mlflow.db").exists():
        raise UserError(f"no MLflow store in {str(root)!r}; expected mlflow.db, which the first run makes.")
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}  # not an argument: process lists show those
    with _stopped_by(signal.SIGTERM, signal.SIGHUP):
        # A session of its own: Ctrl-C ends it through us, with its workers and without their tracebacks.
        server = subprocess.Popen(ui_command(root, port), env=environment, start_new_session=True)
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end_group(server)


def ui_command(root: Path, port: int = 5000) -> list[str]:
    """Command of MLflow's user interface, bound to loopback; the store comes from its environment."""
    artifacts = (root.resolve() / "mlartifacts").as_uri()
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    return [*command, "--workers", "1", "--default-artifact-root", artifacts]


@contextmanager
def _stopped_by(*signals: signal.Signals) -> Iterator[None]:
    """Let these signals interrupt the block as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(server.pid, signal.SIGTERM)
    except ProcessLookupError:  # it ended by itself
        return
    server.wait()
