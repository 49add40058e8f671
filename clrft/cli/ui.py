"""``clrft ui``: MLflow's own interface."""

import argparse
from pathlib import Path

from rich.console import Console


def ui_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft ui``: MLflow's own interface on loopback."""
    from clrft.tracking.ui import serve_ui

    console.print(f"MLflow at http://127.0.0.1:{options.port} (Ctrl-C stops it)", highlight=False)
    return serve_ui(Path(options.output), options.port)
