"""Replay: examples of earlier tasks mixed into the batches. Not rehearsal-free, and every table says so.

The memory is drawn anew for each task, from the earlier tasks' training examples: equal shares per task and class.
Source: experience replay as baselines use it, e.g. arXiv 1902.10486.
"""

from dataclasses import dataclass

from methods.base import Method, Need, ReplayPlan
from task_streams.config import Count, PartialShare, Settings


@dataclass(frozen=True)
class ReplayConfig(Settings):
    """Settings of replay."""

    items: Count = 100
    """Examples of all earlier tasks together that are kept (at least 1)."""
    share: PartialShare = 0.5
    """Share of replayed examples in the batches, on average, in (0, 1)."""


class Replay(Method):
    """Examples of earlier tasks mixed into the batches; not rehearsal-free."""

    name, family = "replay", "part"
    works_split = True
    Config = ReplayConfig
    source = "arXiv 1902.10486"
    needs: frozenset[Need] = frozenset({"replay"})

    config: ReplayConfig

    @property
    def replay(self) -> ReplayPlan:
        return ReplayPlan(self.config.items, self.config.share)
