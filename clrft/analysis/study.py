"""A study of runs: what was found of a comparison's groups, and what is to be told beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from clrft.analysis.compare import Comparison, Group


class Studied(Protocol):
    """What a study found of one group."""

    @property
    def group(self) -> Group:
        """The group."""


Found = TypeVar("Found", bound=Studied)


def told_over(groups: Sequence[Studied], figure: str = "mean ± standard deviation") -> str:
    """Words for what a table's figures are over: the class orders, or the one there is.

    Args:
        groups: what the table shows.
        figure: what is shown of several orders.
    """
    orders = max(len(one.group.runs) for one in groups)
    return f"{figure} over n class orders" if orders > 1 else "one class order"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is told beside tables and pictures of runs.

    Attributes:
        comparison: the runs, and in what they differ although a comparison holds it equal.
        without: a sentence for each group or run that has nothing to show.
    """

    comparison: Comparison
    without: tuple[str, ...]

    def sentences(self) -> list[str]:
        """In what the runs differ, and what has nothing to show."""
        return [*(f"the runs differ: {one}." for one in self.comparison.mixed), *self.without]

    def mixed(self, stream: str) -> str:
        """In what the runs of one stream differ, for the column ``mixed`` of a CSV file; empty for nothing."""
        return " ".join(self.comparison.mixed_in(stream))


@dataclass(frozen=True, slots=True, kw_only=True)
class Study(Told, Generic[Found]):
    """What was found of the groups of a comparison.

    Attributes:
        groups: of those that have something to show, in the order of the comparison.
    """

    groups: tuple[Found, ...]

    def streams(self) -> list[str]:
        """Names of the streams, in order of appearance."""
        return list(dict.fromkeys(one.group.stream for one in self.groups))

    def of_stream(self, stream: str) -> list[Found]:
        """What was found of one stream's groups."""
        return [one for one in self.groups if one.group.stream == stream]
