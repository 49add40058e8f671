"""GRPO whose loss-level KL holds to the previous task's policy instead of the base.

The natural control for RaPO's retention reward: the same anchor, held to through the loss instead of the reward.
In the first task the anchor is the base, so the term is GRPO's own. The log-probabilities of the anchor are those that
hooks get too, so no second frozen model runs.
"""

from collections.abc import Mapping
from typing import ClassVar

from methods.algorithms.grpo import Grpo
from methods.base import KlTarget, Need


class AnchoredKl(Grpo):
    """GRPO with its KL term to the previous task's policy."""

    name = "anchored_kl"
    source = "control"
    kl_target: KlTarget = "anchor"
    needs_with: ClassVar[Mapping[Need, str]] = {"anchor": "kl", "reference": "kl"}
