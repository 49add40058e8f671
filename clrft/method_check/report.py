"""What ``clrft method check`` found: one result for each check and company."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from task_streams.errors import UserError

# ``no effect``: told, and no failure: a method may have its reasons to change nothing in two small tasks
Outcome = Literal["ok", "failed", "not applicable", "no effect"]


@dataclass(frozen=True, slots=True)
class Result:
    """One check: what, in which company, how it ended and why, and how long it took."""

    check: str
    company: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Report:
    """Results in their order; ``begin`` hears of every check that starts."""

    begin: Callable[[str], None]
    results: list[Result] = field(default_factory=list)

    @contextmanager
    def check(self, name: str, company: str = "") -> Iterator[list[Any]]:
        """One check: the block puts (outcome, reason) into the list; a UserError in it is a failure."""
        self.begin(f"{company}: {name}" if company else name)
        found: list[Any] = ["ok", ""]
        start = time.perf_counter()
        try:
            yield found
        except UserError as error:
            found[:] = ["failed", " ".join(error.problems)]
        self.results.append(Result(name, company, found[0], found[1], time.perf_counter() - start))

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(one.outcome != "failed" for one in self.results)
