"""RaPO, retention-aware policy optimisation (arXiv 2605.09640, sections 3.1-3.3): ``grpo+retention+ctan``.

GRPO with a retention reward for low drift from the anchor (the previous task's policy, or another past one), and with
advantages normalised by a running scale (CTAN) that crosses task boundaries: two parts that join any group rollouts,
here with their settings in one place. The paper is the default; ``preset: released_code`` switches to what the released
code does where the two differ. A value given by name wins over the preset's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from methods.advantage import group_advantages
from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.base import AnchorKind, AnchorRule, Need, Rollouts
from methods.lazy import Tensor
from methods.parts.ctan import Ctan, CtanConfig, resolved
from methods.parts.retention import RetentionConfig, RetentionShaper
from task_streams.config import Momentum

# The policy loss, where paper and released code differ: the defaults of EasyR1, which the latter is built on. The
# authors' own file of that loss is not public.
LOSSES: dict[str, dict[str, Any]] = {
    "paper": {"token_mean": False, "clip_high": 0.0, "dual_clip": 0.0},
    "released_code": {"token_mean": True, "clip_high": 0.3, "dual_clip": 3.0},
}


@dataclass(frozen=True)
class RapoConfig(CtanConfig, GrpoConfig):
    """Settings of RaPO on top of GRPO's; null stands for the preset's value."""

    retention: bool = True
    """Add the retention reward (from task 2 on)."""
    retention_weight: NonNegativeFloat = 0.5
    """Weight lambda of the retention reward (0 or more)."""
    retention_sharpness: PositiveFloat = 20.0
    """Sharpness alpha in exp(-alpha * drift) (above 0), per nat."""
    anchor: AnchorKind = "previous"
    """Policy that drift is measured from: previous (task's), first (task's), average (of past tasks') or base."""
    anchor_momentum: Momentum = 0.9
    """Momentum m of the average, a <- m a + (1 - m) policy once per task, in [0, 1)."""
    ctan: bool = True
    """Normalise advantages by the running scale instead of each group's deviation."""
    token_mean: bool | None = None
    """Average the loss over all tokens of an update, instead of over each completion's first."""
    clip_high: NonNegativeFloat | None = None
    """Clipping range of the policy ratio above 1 (0: that of ``clip``)."""
    dual_clip: float | None = None
    """Largest policy ratio that counts where the advantage is negative (0: no such limit)."""

    def problems(self) -> list[str]:
        if self.dual_clip in (None, 0) or self.dual_clip > 1:
            return []
        return [f"dual_clip: got {self.dual_clip}, expected a number above 1, or 0."]


class Rapo(Ctan, Grpo):
    """GRPO with the retention reward and cross-task advantage normalisation."""

    name, family = "rapo", "reinforcement"
    Config = RapoConfig
    needs_with: ClassVar[Mapping[Need, str]] = {"reference": "kl", "anchor": "retention"}
    includes: ClassVar[frozenset[str]] = frozenset({"retention", "ctan"})

    config: RapoConfig

    def __init__(self, config: RapoConfig) -> None:
        super().__init__(config)
        self.loss = resolved(config, LOSSES)
        weight, sharpness = config.retention_weight, config.retention_sharpness
        self.retention = RetentionShaper(RetentionConfig(weight, sharpness, config.anchor, config.anchor_momentum))

    @property
    def anchor_rule(self) -> AnchorRule:
        return self.retention.anchor_rule

    @property
    def loss_arguments(self) -> dict[str, Any]:
        high, dual = self.loss["clip_high"], self.loss["dual_clip"]
        return {
            "loss_type": "dapo" if self.loss["token_mean"] else "grpo",
            **({"epsilon_high": high} if high else {}),
            **({"delta": dual} if dual else {}),
        }

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Equation 4: the task reward, plus lambda times the retention reward from task 2 on, [B*G]."""
        return self.retention.shape_rewards(rewards, rollouts) if self.config.retention else rewards

    def normalize_advantages(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Equations 5 and 6, or by each group's deviation, [B*G] to [B*G]."""
        if self.config.ctan:
            return super().normalize_advantages(rewards, rollouts)
        return group_advantages(rewards, rollouts.group_size, self.rule["group_epsilon"])

    def describe(self) -> dict[str, Any]:
        anchor = {"anchor": str(self.anchor_rule)} if "anchor" in self.needs else {}
        return {"preset_values": {**self.rule, **self.loss}, **anchor}


@dataclass(frozen=True)
class RapoRetentionConfig(RapoConfig):
    """RaPO's settings with the running scale off."""

    ctan: bool = False
    """Normalise advantages by the running scale instead of each group's deviation."""


class RapoRetention(Rapo):
    """RaPO's retention reward alone: ``grpo+retention``."""

    name = "rapo_rr"
    Config = RapoRetentionConfig
    includes: ClassVar[frozenset[str]] = frozenset({"retention"})


@dataclass(frozen=True)
class RapoScaleConfig(RapoConfig):
    """RaPO's settings with the retention reward off."""

    retention: bool = False
    """Add the retention reward (from task 2 on)."""


class RapoScale(Rapo):
    """RaPO's running scale alone: ``grpo+ctan``."""

    name = "rapo_ctan"
    Config = RapoScaleConfig
    includes: ClassVar[frozenset[str]] = frozenset({"ctan"})
