"""``clrft ui``: MLflow's own user interface over a local store: a server on loopback, ended with us."""

import argparse
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from rich.console import Console

from clrft.tracking.store import DATABASE, artifacts_of, follow_move, redacted_uri, tracking_uri
from task_streams.errors import UserError


def ui_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft ui``: MLflow's own interface on loopback until Ctrl-C; returns its exit code. For the main thread.

    Raises:
        UserError: there is no store yet, or tracking goes to a server, which has its own interface.
    """
    console.print(f"MLflow at http://127.0.0.1:{options.port} (Ctrl-C stops it)", highlight=False)
    root = Path(options.output)
    uri = tracking_uri(root)
    if urlsplit(uri).scheme in ("http", "https"):
        raise UserError(f"MLFLOW_TRACKING_URI is a server; open {redacted_uri(uri)} in a browser.")
    if "MLFLOW_TRACKING_URI" not in os.environ and not (root / DATABASE).exists():
        raise UserError(f"no MLflow store in {str(root)!r}; expected mlflow.db, which the first run makes.")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        try:
            follow_move(root)
        except sqlite3.Error as error:
            raise UserError(f"{root / DATABASE}: expected MLflow's database, which can be written; {error}.") from error
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}  # not an argument: process lists show those

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # these signals end it as Ctrl-C does

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    words = f"-m mlflow ui --host 127.0.0.1 --port {options.port} --workers 1 --default-artifact-root".split()
    try:
        # A session of its own: Ctrl-C ends it through us, with its workers and without their tracebacks.
        server = subprocess.Popen([sys.executable, *words, artifacts_of(root)], env=environment, start_new_session=True)
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.killpg(server.pid, signal.SIGTERM)
                server.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
