"""Work of a cell's processes: of all together, and of the one for which the others wait."""

from collections.abc import Callable
from dataclasses import dataclass

from clrft.memory.sharing import Share, Shares, Sharing
from clrft.planning.operation_counts import Tally


@dataclass(frozen=True, slots=True)
class Dealt:
    """Work of a cell's processes.

    Attributes:
        all: of all together, as a run's costs have it.
        own: of the one that has most, for which the others wait.
    """

    all: Tally
    own: Tally

    def __add__(self, other: "Dealt") -> "Dealt":
        return Dealt(self.all + other.all, self.own + other.own)

    def __mul__(self, times: float) -> "Dealt":
        return Dealt(self.all * times, self.own * times)

    @classmethod
    def of(cls, shares: Shares, work: Callable[[Share], Tally]) -> "Dealt":
        """The work that each does by its share."""
        each = {share: work(share) for share in shares}
        total = sum((each[share] * count for share, count in shares.items()), Tally())
        return cls(total, each[max(shares)])

    @classmethod
    def alike(cls, work: Tally, sharing: Sharing) -> "Dealt":
        """Work that every process does by itself."""
        return cls(work * sharing.processes, work)


NOTHING = Dealt(Tally(), Tally())
