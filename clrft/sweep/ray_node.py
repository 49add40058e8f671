"""What a node of a cluster tells about itself, in a process of its own there. Imports nothing heavy."""

import os
import platform
import socket
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clrft.runs.provenance import source_hash
from clrft.utils.files import sha256_file

SAME = ("clrft", "torch", "transformers", "trl", "ray")  # packages whose versions decide results, or what is understood


def own_versions() -> dict[str, str]:
    """Versions that must be the same on every node, by name; ``not installed`` for a package that is absent."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in SAME}, CODE: source_hash()[:12]}


CODE = "clrft's source (SHA-256)"


def version_of(name: str) -> str:
    """Version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def about_node(directory: str, marks: Sequence[str], plugins: Sequence[str]) -> dict[str, Any]:
    """What a node has.

    Args:
        directory: where the sweep was started.
        marks: files that it has just made in the folders of its cells.
        plugins: files of methods of its user's own.

    Returns:
        ``host``, ``versions``, whether there is such a ``directory``, the marks that are ``unseen``, and the SHA-256 of
        each of ``plugins``, empty for one that is missing.
    """
    if os.path.isdir(directory):
        os.chdir(directory)
    files = {path: Path(path).expanduser() for path in plugins}
    return {
        "host": socket.gethostname(),
        "versions": own_versions(),
        "directory": os.path.isdir(directory),
        "unseen": [mark for mark in marks if not os.path.exists(mark)],
        "plugins": {path: sha256_file(file) if file.is_file() else "" for path, file in files.items()},
    }
