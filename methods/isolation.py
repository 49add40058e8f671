"""What belongs to the whole process, and is put back after code of a method's own: a hook, or a file as it is loaded.

A working folder that was changed would split a run, gradients left off would end it, and a seed set anew would draw the
same rollouts again; the rest of the run would go on with that in silence. So each is put back and told. Deliberately
absent: patched libraries, environment variables, and the generators of numpy and Python, from which no training draws.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from methods.lazy import Tensor, torch
from task_streams.errors import Interrupted

CHANGEABLE = (list, dict, set, bytearray, deque)  # what code fills as it goes
AUTOCAST = ("cpu", "cuda")
HANDLED = (signal.SIGINT, signal.SIGTERM)
# Of the state of torch's generator on the CPU, in bytes: how many draws are left of its words, and the words.
LEFT, WORDS = slice(8, 12), slice(24, 24 + 8 * 624)


@dataclass(frozen=True, slots=True)
class ProcessSetting:
    """A setting of the whole process."""

    name: str  # as a sentence calls it
    get: Callable[[], Any]
    put: Callable[[Any], object]
    module: str = "sys"  # library that has it
    default: Any = None  # its value, as text or number, when that library has just been loaded


def working_folder() -> str:
    """The working folder; empty if it is gone."""
    with suppress(OSError):
        return os.getcwd()
    return ""


def put_handlers(before: list[Any]) -> None:
    """Have Ctrl-C and SIGTERM handled as before; Python allows that in the main thread alone."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in zip(HANDLED, before, strict=True):
            if handler is not None:  # else it is not Python's
                signal.signal(number, handler)


def warnings_as_errors() -> list[Any]:
    """Rules by which a warning is an error."""
    return [rule for rule in warnings.filters if rule[0] == "error"]


def drop_warnings_as_errors(before: list[Any]) -> None:
    """Have no more warnings be errors than before."""
    kept = [rule for rule in warnings.filters if rule[0] != "error" or rule in before]
    warnings.filters[:] = kept  # type: ignore[index]


SETTINGS = (
    ProcessSetting("the working folder", working_folder, lambda folder: os.chdir(folder) if folder else None),
    ProcessSetting("signal.signal", lambda: [signal.getsignal(number) for number in HANDLED], put_handlers),
    ProcessSetting("logging.disable", lambda: logging.root.manager.disable, logging.disable),
    ProcessSetting("sys.stdout", lambda: sys.stdout, lambda stream: setattr(sys, "stdout", stream)),
    ProcessSetting("sys.stderr", lambda: sys.stderr, lambda stream: setattr(sys, "stderr", stream)),
    ProcessSetting("warnings.simplefilter", warnings_as_errors, drop_warnings_as_errors),
    ProcessSetting(
        "numpy.seterr",
        lambda: sys.modules["numpy"].geterr(),
        lambda rules: sys.modules["numpy"].seterr(**rules),
        "numpy",
        {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
    ProcessSetting(
        "torch.set_grad_enabled", lambda: torch.is_grad_enabled(), lambda on: torch.set_grad_enabled(on), "torch", True
    ),
    ProcessSetting(
        "torch.set_default_dtype",
        lambda: str(torch.get_default_dtype()),
        lambda name: torch.set_default_dtype(getattr(torch, name.removeprefix("torch."))),
        "torch",
        "torch.float32",
    ),
    ProcessSetting(
        "torch.set_default_device",
        lambda: str(torch.get_default_device()),
        lambda name: torch.set_default_device(None if name == "cpu" else name),
        "torch",
        "cpu",
    ),
    ProcessSetting(
        "torch.set_autocast_enabled",
        lambda: [torch.is_autocast_enabled(device) for device in AUTOCAST],
        lambda modes: [torch.set_autocast_enabled(*one) for one in zip(AUTOCAST, modes, strict=True)],
        "torch",
        [False, False],
    ),
    ProcessSetting(
        "torch.use_deterministic_algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda modes: torch.use_deterministic_algorithms(modes[0], warn_only=modes[1]),
        "torch",
        (False, False),
    ),
)


@dataclass(slots=True)
class PutBack:
    """Code of a method's own runs in the block; what it changed of the process is put back at the end.

    ``draws``: also torch's generators where they were seeded anew, and the number of threads. A file that is loaded
    may set both, as a user may: a training seeds them itself.
    """

    draws: bool
    changed: list[str] = field(default_factory=list)  # what was put back, as a sentence calls it
    closed: str = ""  # streams that were closed, for good
    _before: list[tuple[ProcessSetting, Any]] = field(default_factory=list)
    _random: Draws | None = None
    _threads: int = 0
    _streams: set[str] = field(default_factory=set)
    _exit: Any = None

    def __enter__(self) -> PutBack:
        process, thread, ends = os.getpid(), threading.get_ident(), os._exit

        def leave(status: int) -> NoReturn:
            """``os._exit`` as an error, but in a child process, and in the suite's own threads."""
            if (os.getpid(), threading.get_ident()) == (process, thread):
                raise SystemExit(status)
            ends(status)

        self._exit, os._exit = ends, leave
        self._before = [(one, one.get() if one.module in sys.modules else one.default) for one in SETTINGS]
        self._streams = open_streams()
        if self.draws:
            self._random, self._threads = Draws(), torch.get_num_threads()
        return self

    def __exit__(self, *_: object) -> None:
        os._exit = self._exit
        for one, before in self._before:
            if one.module in sys.modules and one.get() != before:
                one.put(before)
                self.changed.append(one.name)
        closed = self._streams - open_streams()
        self.closed = " and ".join(sorted(closed))
        if "sys.stderr" in closed:  # by which a reason is told
            sys.stderr = io.StringIO() if "sys.stdout" in closed else sys.stdout
        if self._random is not None and self._random.seeded():
            self._random.put_back()
            self.changed.append("torch.manual_seed")
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
            self.changed.append("torch.set_num_threads")


class Draws:
    """Where torch's global generators stand; of GPUs once they are in use."""

    def __init__(self) -> None:
        self.seed, self.cpu = torch.initial_seed(), torch.get_rng_state()
        self.gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]

    def seeded(self) -> bool:
        """Whether one was seeded since, and not only drawn from; with the same seed too."""
        now = Draws()
        # a GPU's state is its seed and how far it has come
        pairs = list(zip(self.gpus, now.gpus, strict=False))
        ahead = [torch.equal(one[:8], two[:8]) and _number(one[8:]) <= _number(two[8:]) for one, two in pairs]
        if now.seed != self.seed or not all(ahead):
            return True
        if torch.equal(self.cpu[WORDS], now.cpu[WORDS]):
            return _number(now.cpu[LEFT]) > _number(self.cpu[LEFT])
        first = torch.Generator().manual_seed(self.seed)
        fresh = first.get_state()
        torch.rand(1, generator=first)
        again = any(torch.equal(one[WORDS], now.cpu[WORDS]) for one in (fresh, first.get_state()))
        return again and not torch.equal(self.cpu[WORDS], fresh[WORDS])

    def put_back(self) -> None:
        """Have the generators stand where they stood."""
        torch.set_rng_state(self.cpu)
        for number, state in enumerate(self.gpus):
            torch.cuda.set_rng_state(state, number)


def _number(raw: Tensor) -> int:
    """The whole number that some bytes are."""
    return int.from_bytes(bytes(raw.tolist()), "little")


def copies(values: Mapping[str, Any], kinds: tuple[type, ...] = CHANGEABLE) -> dict[str, Any]:
    """Copies of those values, by name, that are of such kinds, whatever Python itself keeps left out.

    What cannot be copied, as with a lock or a file in it, stays one for all.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, kinds) and not name.startswith("__"):
            with suppress(TypeError, RuntimeError):
                found[name] = copy.deepcopy(value)
    return found


def open_streams() -> set[str]:
    """Names of the process's streams that can be written to."""
    streams = {"sys.stdout": sys.stdout, "sys.stderr": sys.stderr}
    return {name for name, stream in streams.items() if stream is not None and not getattr(stream, "closed", False)}


def words_of(error: BaseException) -> str:
    """An error's type, and what it says."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def by_user(error: BaseException) -> bool:
    """Whether an error comes from Ctrl-C or SIGTERM; where a program has its own handling, Python's own is taken so."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, Interrupted):
            return True
        at = at.__context__
    python = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, KeyboardInterrupt) and python
