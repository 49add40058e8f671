"""How a cell's work is shared by its processes, one for each of its devices: who has how much of it.

It follows ``methods/distributed``: ``ranks.py`` (rollouts, batches of tests), ``batch_sharding.py`` (rows that are
learned from). What every process does by itself (drift, Fisher information) is counted as often as there are processes,
and takes as long as it takes one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """What a process has of some rows."""

    rows: int  # that it learns from, or samples
    prompts: float  # different ones that it computes for them


Shares = Mapping[Share, int]  # and how many processes have such a one


@dataclass(frozen=True, slots=True)
class Sharing:
    """The processes of a cell."""

    processes: int = 1  # each has a device
    split: bool = False  # each keeps a part of weights, gradients and moments (FSDP2); else every one has all of them

    @property
    def parts(self) -> int:
        """Parts of the weights."""
        return self.processes if self.split else 1

    def drawn(self, rows: int, group: int) -> Shares:
        """Rollouts of a batch that each samples and scores, groups adjacent: as ``ranks.share`` deals them out."""
        whole = rows % group == 0 and rows // group >= self.processes
        size = group if whole else 1
        own = [range(one.start * size, one.stop * size) for one in self._even(rows // size)]
        return Counter(Share(len(one), len({row // group for row in one})) for one in own if one)

    def learned(self, rows: int, parts: int, group: int) -> Shares:
        """Of each of a batch's parts, of so many rollouts, those that each learns from; groups are adjacent."""

        def prompts(own: range) -> float:
            return fmean(len({(part * rows + row) // group for row in own}) for part in range(parts))

        return Counter(Share(len(own), prompts(own)) for own in self._even(rows) if own)

    def supervised(self, rows: int) -> Shares:
        """Rows of a supervised batch; a process without one computes a row from which nothing is learned."""
        return Counter(Share(len(own), max(1, len(own))) for own in self._even(rows))

    def _even(self, rows: int) -> list[range]:
        ends = [rows * place // self.processes for place in range(self.processes + 1)]
        return [range(start, end) for start, end in pairwise(ends)]


ALONE = Sharing()
