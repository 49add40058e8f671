"""How a cell's work is dealt out among its processes, one for each of its devices: who has how much of it.

It follows ``methods/distributed``: ``ranks.py`` (rollouts, batches of tests), ``batch_sharding.py`` (rows that are
learned from). What every process does by itself (drift, Fisher information) is counted as often as there are processes,
and takes as long as it takes one.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """What a process has of some rows.

    Attributes:
        rows: that it learns from, or samples.
        prompts: different ones that it computes for them.
    """

    rows: int
    prompts: float


Shares = Mapping[Share, int]  # and how many processes have such a one


@dataclass(frozen=True, slots=True)
class Sharing:
    """The processes of a cell.

    Attributes:
        processes: how many; each has a device.
        split: each keeps a part of weights, gradients and moments (FSDP2); else every one has all of them.
    """

    processes: int = 1
    split: bool = False

    @property
    def parts(self) -> int:
        """Parts of the weights."""
        return self.processes if self.split else 1

    def drawn(self, rows: int, group: int) -> Shares:
        """Rollouts of a batch that each samples and scores, groups adjacent: as ``ranks.share`` deals them out."""
        units = rows // group if rows % group == 0 and rows // group >= self.processes else rows
        size, count = rows // units, self.processes
        ends = [units * place // count * size for place in range(count + 1)]
        own = [range(start, end) for start, end in pairwise(ends)]
        return Counter(Share(len(one), len({row // group for row in one})) for one in own if one)

    def learned(self, rows: int, parts: int, group: int) -> Shares:
        """Of each of a batch's parts, of so many rollouts, those that each learns from; groups are adjacent."""

        def prompts(own: range) -> float:
            return fmean(len({(part * rows + row) // group for row in own}) for part in range(parts))

        return Counter(Share(len(own), prompts(own)) for own in self._even(rows) if own)

    def supervised(self, rows: int) -> Shares:
        """Rows of a supervised batch; a process without one computes a row from which nothing is learned."""
        return Counter(Share(len(own), max(1, len(own))) for own in self._even(rows))

    def first(self, batches: Sequence[int]) -> Sequence[int]:
        """Of a test's batches those of the first process, which has most of them."""
        return batches[:: self.processes]

    def _even(self, rows: int) -> list[range]:
        ends = [rows * place // self.processes for place in range(self.processes + 1)]
        return [range(start, end) for start, end in pairwise(ends)]


ALONE = Sharing()


def in_batches(items: int, size: int) -> list[int]:
    """Items in batches as ``evaluate`` makes them: as few as can be, all but the last of one size."""
    each = math.ceil(items / math.ceil(items / size)) if items else 1
    return [min(each, items - start) for start in range(0, items, each)]
