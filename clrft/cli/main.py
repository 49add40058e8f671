"""The command line: words to a command, its errors to sentences and exit codes.

Exit codes: 0 done, 1 something failed while working (a cell of a sweep, the disk, memory), 2 the input cannot work,
130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from clrft.cli.parser import build_parser
from clrft.utils import interrupt
from clrft.utils.console import SafeConsole
from clrft.utils.failures import GO_ON, explained
from clrft.utils.process_end import end_in_time
from clrft.utils.quiet import quiet_environment
from task_streams.errors import UserError


class Output(SafeConsole):
    """What a command writes to; that nobody reads it any more is an error like others."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    ``arguments``: the words after ``clrft``; None: those of this process, which then ends with the command.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    try:
        code = command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())  # for what Python still has to write as it ends
        code = 1
        show_end(code, [f"stdout was closed before all was written, as by head. {GO_ON}"])
    if arguments is None:
        end_in_time(code)
    return code


def command(arguments: Sequence[str] | None) -> int:
    """Run one command with its words; returns its exit code."""
    quiet_environment()
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    quiet = several and os.environ.get("RANK", "0") != "0"  # one process speaks
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may hold what no encoding has
            stream.reconfigure(errors="backslashreplace")
    console = Output(emoji=False, quiet=quiet)
    options = parsed(arguments)
    interrupt.watch()
    words = " ".join(["clrft", *(arguments if arguments is not None else sys.argv[1:])])
    if several:
        return one_of_several(options, console, words)
    code, sentences = outcome(options, console, words)
    show_end(code, sentences)
    return code


def outcome(options: argparse.Namespace, console: Console, words: str) -> tuple[int, tuple[str, ...]]:
    """Run a command: its exit code, and the sentences that say why it is not 0."""
    try:
        files = [str(Path(file).expanduser().resolve()) for file in getattr(options, "plugin", ())]
        if files:
            from methods.registry import load_plugins

            load_plugins(files)
            if hasattr(options, "words"):  # which become the configuration
                options.words = [*options.words, f"run.plugins={json.dumps(files)}"]
        if options.former:
            show_end(0, ["clrft {} is now clrft {}.".format(*options.former)])
        module, name = options.command  # imported now, so that no command waits for what others import
        return int(getattr(import_module(f"clrft.cli.{module}"), name)(options, console)), ()
    except UserError as error:
        return 2, tuple(error.problems)
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if not isinstance(error, KeyboardInterrupt) and not interrupt.asked():
            reason = explained(error)
            if reason is None:
                raise
            return 1, (reason,)
        exec("")  # else Python ends by SIGINT where the interrupt came up through an exec of text, whatever is returned
        return interrupt.asked() or 130, (f"stopped; finished tasks are kept. Go on with the same command: {words}",)


def show_end(code: int, sentences: Sequence[str]) -> None:
    """Tell why a command ended with an exit code."""
    errors = SafeConsole(stderr=True, emoji=False)
    head = {1: "[bold red]failed[/bold red] ", 2: "[bold red]error[/bold red] "}.get(code, "")
    for one in sentences:
        errors.print(f"{head}{escape(one)}", highlight=False, soft_wrap=True)


def one_of_several(options: argparse.Namespace, console: Console, words: str) -> int:
    """Run a command as one of the processes of a run; all end with one code, and the first says why."""
    from clrft.utils.process_watchdog import ProcessWatchdog
    from methods.distributed import ranks

    if not options.several:
        count = os.environ["WORLD_SIZE"]
        text = f"{count} processes were launched for a command that is for one; expected clrft run: {words}"
        show_end(2, () if console.quiet else (text,))
        return 2
    try:
        store = ranks.join()
    except UserError as error:  # maybe on one machine alone, and nobody can be told yet
        show_end(2, [f"process {os.environ.get('RANK', '?')}: {one}" for one in error.problems])
        return 2
    watchdog = ProcessWatchdog(store, lambda failure: show_end(failure.code, failure.words))
    try:
        code, sentences = outcome(options, console, words)
    except ranks.OtherFailed:
        code, sentences = 1, ("another process of the run has failed",)
    except Exception as error:
        traceback.print_exc()
        code, sentences = 1, (f"{type(error).__name__}: {error}",)
    if code != 0:
        interrupt.ignore()
    first, code = ranks.is_rank0(), watchdog.ended(code, sentences)
    if code == 0:
        ranks.leave()
        if first:
            return 0
    sys.stdout.flush()
    sys.stderr.flush()
    # A library that waits for a process that is gone would wait for ever; and its threads may end a process by SIGABRT
    # that leaves while they run. All but the first have nothing to write any more.
    os._exit(code)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as options; KEY=VALUE words may stand before and after options."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "words") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.words = [*options.words, *rest]
    return options
