"""One call of the command line inside this process, and what it must never do: the judge of ``benchmarks/fuzz.py``.

The working folder, ``HOME`` and some files that nobody named lie in one tree. Before and after each call the tree is
compared: nothing may differ but what lies under the folder that the call was given to write to.
"""

import contextlib
import hashlib
import io
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from clrft.cli.main import main

EXITS = (0, 1, 2)
SECONDS = 120  # after which a call counts as hanging
LIBRARIES = (".cache", ".config")  # of a home: what matplotlib and others keep there, made when they are imported
OUTPUT = "out"  # the folder under the working folder that a call may write to
LARGE = 1 << 30  # bytes of a file that is not read to see whether it changed
LONGEST_ERROR = 20_000  # characters that a person can still read

Tree = dict[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call did.

    Attributes:
        arguments: its words.
        code: exit code; None if it did not come to one.
        out, err: what it printed.
        faults: what it must not do and did, empty if nothing.
    """

    arguments: tuple[str, ...]
    code: int | None
    out: str
    err: str
    faults: tuple[str, ...]


class Hanging(BaseException):
    """A call did not end."""


class Place:
    """A tree of its own with a working folder, a home and files that nobody named.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work, self.home, self.outside = (root / name for name in ("work", "home", "outside"))
        for folder in (self.work, self.home, self.outside / "weights", self.outside / "task_01" / "weights"):
            folder.mkdir(parents=True)
        for name in ("sentinel.json", "weights/model.safetensors", "task_01/weights/model.safetensors", "x.png"):
            (self.outside / name).write_text('{"schema": 1, "kept": true}\n')

    @property
    def output(self) -> Path:
        """The folder that calls may write to."""
        return self.work / OUTPUT

    def call(self, arguments: Sequence[str]) -> Outcome:
        """One call of ``clrft`` in the working folder."""
        before = tree(self.root, self.output)
        faults: list[str] = []
        code = None
        with captured() as (out, err), inside(self.work, self.home), time_limit(SECONDS):
            try:
                code = main(list(arguments))
            except SystemExit as error:  # argparse
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:  # whatever it is, it reached the user
                faults.append(traceback.format_exc())
        said = [stream.getvalue().decode("utf-8", "replace") for stream in (out, err)]
        if code not in EXITS and not faults:
            faults.append(f"exit code {code}")
        if len(said[1]) > LONGEST_ERROR:
            faults.append(f"the error is {len(said[1])} characters long")
        if code == 2 and not said[1].strip():
            faults.append("exit code 2 without a sentence")
        if any("Traceback (most recent call last)" in text for text in said):
            faults.append(f"a traceback was printed: {said}")
        faults += [f"outside the given folder: {name}" for name in differing(before, tree(self.root, self.output))]
        return Outcome(tuple(arguments), code, *said, tuple(faults))


@contextmanager
def captured() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Standard output and error as bytes, written as strictly as a terminal's."""
    out, err = io.BytesIO(), io.BytesIO()
    texts = [io.TextIOWrapper(stream, encoding="utf-8", write_through=True) for stream in (out, err)]
    with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
        yield out, err
    for text in texts:
        text.detach()  # or the bytes would be closed with it


@contextmanager
def inside(work: Path, home: Path) -> Iterator[None]:
    """A working folder and a home."""
    before, known = Path.cwd(), os.environ.get("HOME")
    os.chdir(work)
    os.environ["HOME"] = str(home)
    try:
        yield
    finally:
        os.chdir(before)
        if known is not None:
            os.environ["HOME"] = known


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise ``Hanging`` in the block once it takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hanging(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tree(root: Path, without: Path) -> Tree:
    """Everything under a folder, without one of its folders: kind, mode, time and digest of each entry by name."""
    found: Tree = {}
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = [name for name in names if here / name != without and name not in LIBRARIES]
        for name in [*names, *files]:
            path = here / name
            if path.is_symlink():
                found[str(path)] = ("link", os.readlink(path))
            elif not path.is_file():
                found[str(path)] = ("folder or special file", path.stat().st_mode)
            else:
                facts = path.stat()
                digest = hashlib.sha256(path.read_bytes()).hexdigest() if facts.st_size < LARGE else facts.st_size
                found[str(path)] = ("file", facts.st_mode, facts.st_mtime_ns, digest)
    found.pop(str(without), None)
    return found


def differing(before: Tree, after: Tree) -> list[str]:
    """Names of the entries that are new, gone or changed."""
    return [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
