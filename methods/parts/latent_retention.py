"""Retention measured in hidden states instead of log-probabilities.

An idea of RLFR (arXiv 2510.10201), which takes a reward from how far a policy's latents stray from a flow of good
ones, applied to retention without its flow model: drift is the mean distance, one minus the cosine, between the last
hidden states of policy and anchor over the tokens of a completion, and ``R + lambda exp(-alpha drift)`` from task 2 on.
Alpha is a choice made here: cosine distances are not nats.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveFloat

from methods.base import Rollouts
from methods.drift.log_ratio import retention_reward
from methods.lazy import Tensor, torch
from methods.parts.retention import RetentionConfig, RetentionShaper


@dataclass(frozen=True)
class LatentRetentionConfig(RetentionConfig):
    """Settings of latent retention."""

    sharpness: PositiveFloat = 20.0
    """Sharpness alpha in exp(-alpha * distance) (above 0)."""


class LatentRetention(RetentionShaper):
    """Reward for hidden states near those of the previous task's policy."""

    name = "latent_retention"
    Config = LatentRetentionConfig
    source = "idea of arXiv 2510.10201"

    config: LatentRetentionConfig

    def retained(self, rollouts: Rollouts) -> Tensor:
        if rollouts.views is None:
            raise RuntimeError("no views: hidden states are undefined")
        policy, anchor = (rollouts.views.hidden(whose).float() for whose in ("policy", "anchor"))  # [N, L, H]
        apart = (1 - torch.nn.functional.cosine_similarity(policy, anchor, dim=2)) * rollouts.mask  # [N, L]
        distance = (apart.sum(dim=1) / rollouts.mask.sum(dim=1)).clamp(min=0.0)  # rounding can go below
        rollouts.log("latent_drift", distance.mean().item())
        return retention_reward(distance, self.config.sharpness)
