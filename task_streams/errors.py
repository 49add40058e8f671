"""Errors a user can mend: what was given, what is expected, the nearest valid name; keys that stand twice; and files
that are no plain files.
"""

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from io import BufferedReader
from pathlib import Path
from typing import Any

LONGEST_SHOWN = 80  # characters of a value in a sentence
PLAIN = (str, int, float, bool, type(None))
ODD_FILES = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
MOST_SPARSE = 2**26  # bytes of a file that may be holes for the greater part


class UserError(Exception):
    """A mistake in input that the user can mend; the command line prints it and exits with code 2.

    Args:
        problems: one sentence each, all that were found, not only the first.
    """

    def __init__(self, *problems: str) -> None:
        if not problems:
            raise ValueError("UserError needs at least one problem")
        self.problems = problems
        super().__init__("\n".join(problems))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM of the user, which no code of a plugin's own raises."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> str:
    """Sentence for a name that does not exist: what was given, the nearest valid name, all valid names."""
    names = sorted(known)
    nearest = get_close_matches(given, names, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {given!r}.{hint} Known: {', '.join(names)}."


def brief(value: Any) -> str:
    """A value as it stands in a sentence: short, however large it is."""
    parts = value if isinstance(value, dict | list) and len(value) <= LONGEST_SHOWN else [value]
    written = all(isinstance(one, PLAIN) and not (isinstance(one, int) and abs(one) >= 10**100) for one in parts)
    text = repr(value) if written else f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


class RepeatedKeys(ValueError):
    """Keys that stand twice in a mapping of a YAML text."""


def checked_yaml(loader: Any) -> Any:
    """The value of the text that a loader of PyYAML was made with; None where nothing is in it.

    Raises:
        RepeatedKeys: all of them; a loader would keep the last of each.
    """
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if problems := repeated_keys(root):
            raise RepeatedKeys("; ".join(problems))
        return loader.construct_document(root)
    finally:
        loader.dispose()


def repeated_keys(root: Any) -> list[str]:
    """Sentences for the keys that stand twice in a mapping under a node of PyYAML."""
    problems: list[str] = []
    waiting, met = [root], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node.value, str) or id(node) in met:  # met: behind an alias
            continue
        met.add(id(node))
        pairs = [part for part in node.value if isinstance(part, tuple)]  # of a mapping; parts of a list are nodes
        lines: dict[tuple[str, str], list[int]] = {}
        for key, _ in pairs:
            if isinstance(key.value, str):
                lines.setdefault((key.tag, key.value), []).append(key.start_mark.line + 1)
        problems += [
            f"the key {brief(name)} is given {len(where)} times, in lines {', '.join(map(str, where))}"
            for (_, name), where in lines.items()
            if len(where) > 1
        ]
        waiting += [node for pair in pairs for node in pair] or node.value
    return problems


def shown(names: Sequence[str], limit: int = 20) -> str:
    """Names joined by commas; beyond the limit the rest is counted."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def open_file(path: Path | str) -> BufferedReader:
    """A file of the user's, opened for its bytes; nothing that another process would have to write is waited for.

    Raises:
        OSError: not there, not readable, no regular file (a folder, pipe, socket or device), or a large file of holes.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # what Linux says of a socket
            raise OSError(errno.EINVAL, "a socket; expected a regular file", os.fspath(path)) from error
        raise
    try:
        status = os.fstat(file)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"{ODD_FILES.get(kind, 'no file')}; expected a regular file", os.fspath(path))
        size, stored = status.st_size, status.st_blocks * 512
        if size > MOST_SPARSE and stored < size / 2 and os.lseek(file, 0, os.SEEK_HOLE) < size:
            said = f"a sparse file of {size} bytes, of which {stored} are on the disk; expected a whole file"
            raise OSError(errno.EINVAL, said, os.fspath(path))
        os.lseek(file, 0, os.SEEK_SET)
        return os.fdopen(file, "rb")
    except OSError:
        os.close(file)
        raise
