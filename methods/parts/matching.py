"""Dense credit per item, by Hungarian matching of predicted and true items (MatchTIR, arXiv 2601.10712).

MatchTIR matches predicted with true tool calls by the likeness of their parts; its hard assignment, one to one, is the
better of its two. Choices made here: items are the boxes of an image (half of the credit for the category, half for
the IoU, nothing without the category), or the words of a class name or answer (by the letters that need no edit); the
sum over the greater number of items takes the place of a penalty for what is unmatched, as in RaPO's detection reward.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import NonNegativeFloat

from methods.base import Method, Rollouts
from methods.lazy import Tensor
from methods.parts.likeness import item_likeness, likeness_of
from task_streams.config import Settings


@dataclass(frozen=True)
class MatchingConfig(Settings):
    """Settings of the matching reward."""

    weight: NonNegativeFloat = 0.5
    """Credit of an answer whose items all match in full (0 or more)."""


class Matching(Method):
    """Credit for every predicted item that matches a true one: boxes, or the words of a name."""

    name, family = "matching", "part"
    joins = frozenset({"reinforcement"})
    works_split = True
    Config = MatchingConfig
    source = "arXiv 2601.10712"

    config: MatchingConfig

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        return rewards + self.config.weight * likeness_of(rollouts, item_likeness)
