"""The task reward times soft penalties instead of a weighted sum (CaRL, arXiv 2504.17838).

CaRL rewards one thing, the progress on the route, and multiplies it by factors in [0, 1] for what should not be.
Choices made here: the one thing is what is left of the reward without its format component; a completion without the
format costs a factor, and from task 2 on drift from the previous task's policy costs ``f + (1 - f) exp(-alpha D)``.
A wrong answer thus earns nothing whatever its form.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveFloat

from methods.base import Method, Need, Rollouts
from methods.lazy import Tensor
from methods.parts.retention import retention_of
from task_streams.config import Settings, Share


@dataclass(frozen=True)
class MultiplicativeConfig(Settings):
    """Settings of multiplicative penalties."""

    format_factor: Share = 0.5
    """Factor for a completion without any of the format, in [0, 1]; a part of the format costs a part of it."""
    drift_factor: Share = 0.5
    """Factor f that the greatest drift costs from task 2 on, in [0, 1]; 1: drift costs nothing, no anchor is kept."""
    sharpness: PositiveFloat = 20.0
    """Sharpness alpha in exp(-alpha * drift) (above 0), per nat."""


class Multiplicative(Method):
    """The task reward times soft penalties for a broken format and for drift."""

    name, family = "multiplicative", "part"
    joins = frozenset({"reinforcement"})
    works_split = True
    Config = MultiplicativeConfig
    source = "arXiv 2504.17838"

    config: MultiplicativeConfig

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"anchor"} if self.config.drift_factor < 1 else ())

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        form = rollouts.components["format"]
        shaped = (rewards - form) * (self.config.format_factor + (1 - self.config.format_factor) * form)
        if rollouts.task_index == 1 or self.config.drift_factor == 1:
            return shaped
        floor = self.config.drift_factor
        return shaped * (floor + (1 - floor) * retention_of(rollouts, self.config.sharpness))
