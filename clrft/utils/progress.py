"""What a run tells while it works: a protocol, a bar for the terminal, and silence for tests."""

from contextlib import AbstractContextManager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


def say(console: Console, *lines: object) -> None:
    """Print lines as they are: square brackets are no styles, numbers have no colours, nothing is wrapped."""
    for line in lines:
        console.print(str(line), highlight=False, markup=False, soft_wrap=True)


class Reporter(Protocol):
    """Receives a run's progress, and does nothing with it; ``cell`` names the run."""

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        """An activity of ``total`` units starts in a run; None = it is not known how many."""
        return

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        """Units were done; ``figures`` is a short text such as the reward."""
        return

    def say(self, text: str) -> None:
        """A line worth keeping above the bars."""
        return


class Silent(Reporter):
    """Reports nothing."""


class Bars(AbstractContextManager["Bars"]):
    """A bar per run in the terminal: activity, units, figures and time left; plain lines when piped."""

    def __init__(self, console: Console, cells: int = 1) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.bars: dict[str, TaskID] = {}
        self.whole = self.progress.add_task("[bold]all runs", total=cells, figures="") if cells > 1 else None

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        text = f"{cell}  {activity}"
        if not self.console.is_terminal:
            say(self.console, text)
        if cell not in self.bars:
            self.bars[cell] = self.progress.add_task(text, total=total, figures="")
        self.progress.reset(self.bars[cell], description=text, total=total, figures="")

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.progress.update(self.bars[cell], advance=units, figures=figures)

    def finished(self, cell: str) -> None:
        """Take a run's bar away and count it; a run without a bar was done already."""
        if cell in self.bars:
            self.progress.remove_task(self.bars.pop(cell))
        if self.whole is not None:
            self.progress.advance(self.whole)

    def say(self, text: str) -> None:
        say(self.console, text)
