"""GRPO with other policy losses, all TRL's own: Dr. GRPO, DAPO, GSPO and SAPO.

Each is GRPO with one or two settings changed; defaults are the papers', none of which has a KL term. They are built
for several updates per batch of rollouts: with one, every ratio is 1, GSPO and SAPO have GRPO's gradients, and Dr. GRPO
and DAPO differ from it by how tokens are averaged. Compare them with ``updates_per_batch`` above 1; here an update
after the first sees the same rollouts again (TRL's ``num_iterations``), the papers split a larger batch instead.
Deliberately absent: DAPO's dynamic sampling and its soft penalty on length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from methods.advantage import centred
from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.base import Rollouts
from methods.lazy import Tensor


@dataclass(frozen=True)
class KlFreeConfig(GrpoConfig):
    """GRPO's settings, without a KL term unless one is asked for; those of Dr. GRPO."""

    kl: NonNegativeFloat = 0.0
    """Coefficient of the k3 KL term to the base (0: no reference model is kept)."""


@dataclass(frozen=True)
class TwoClipsConfig(KlFreeConfig):
    """Settings with one clipping range below 1, ``clip``, and another above."""

    clip_high: PositiveFloat = 0.28
    """Clipping range above 1 (above 0)."""


# Settings of the losses by what TRL's ``GRPOConfig`` calls them.
TRL_NAMES = {
    "clip_high": "epsilon_high",
    "mask_truncated": "mask_truncated_completions",
    "temperature_positive": "sapo_temperature_pos",
    "temperature_negative": "sapo_temperature_neg",
}


class OtherLoss(Grpo):
    """GRPO with settings of TRL's loss that make it another method, and with those of its config."""

    loss: ClassVar[Mapping[str, Any]]

    @property
    def loss_arguments(self) -> dict[str, Any]:
        values = vars(self.config)
        return {**self.loss, **{trl: values[name] for name, trl in TRL_NAMES.items() if name in values}}


class DrGrpo(OtherLoss):
    """GRPO without its two biases: no division by the group's deviation, nor by a completion's own length."""

    name = "dr_grpo"
    Config = KlFreeConfig
    source = "arXiv 2503.20783"
    loss: ClassVar[Mapping[str, Any]] = {"loss_type": "dr_grpo", "scale_rewards": "none"}

    def normalize_advantages(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        return centred(rewards, rollouts.group_size)


@dataclass(frozen=True)
class DapoConfig(TwoClipsConfig):
    """Settings of DAPO."""

    mask_truncated: bool = True
    """Leave completions that were cut off at the limit out of the loss."""


class Dapo(OtherLoss):
    """GRPO averaged over tokens, with a wider clip upwards and without completions that were cut off."""

    name = "dapo"
    Config = DapoConfig
    source = "arXiv 2503.14476"
    loss: ClassVar[Mapping[str, Any]] = {"loss_type": "dapo"}


@dataclass(frozen=True)
class GspoConfig(TwoClipsConfig):
    """Settings of GSPO."""

    clip: PositiveFloat = 3e-4
    """Clipping range of a sequence's ratio below 1 (above 0); a mean over its tokens, hence so small."""
    clip_high: PositiveFloat = 4e-4
    """Clipping range of a sequence's ratio above 1 (above 0)."""


class Gspo(OtherLoss):
    """GRPO with one ratio per completion, the geometric mean of its tokens' ratios."""

    name = "gspo"
    Config = GspoConfig
    source = "arXiv 2507.18071"
    loss: ClassVar[Mapping[str, Any]] = {"importance_sampling_level": "sequence"}


@dataclass(frozen=True)
class SapoConfig(KlFreeConfig):
    """Settings of SAPO; ``clip`` has no effect."""

    temperature_positive: PositiveFloat = 1.0
    """Sharpness of the soft gate on ratios where the advantage is positive (above 0)."""
    temperature_negative: PositiveFloat = 1.05
    """Sharpness of the soft gate on ratios where the advantage is not positive (above 0)."""


class Sapo(OtherLoss):
    """GRPO with a soft gate on the ratio, a sigmoid, instead of clipping."""

    name = "sapo"
    Config = SapoConfig
    source = "arXiv 2511.20347"
    loss: ClassVar[Mapping[str, Any]] = {"loss_type": "sapo"}
