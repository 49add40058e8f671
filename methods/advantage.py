"""Rewards to advantages: group centring, and the running scale of RaPO. Tensors in, tensors out.

Equations 5 and 6 of RaPO (arXiv 2605.09640): ``A_i = (R_i - mean of its group) / (sigma_hat + eps)`` with
``sigma_hat <- beta sigma_hat + (1 - beta) sigma_batch`` once per optimizer step, carried over task boundaries.
Standard deviations are sample deviations (n - 1), as TRL's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from methods.lazy import Tensor, torch

GROUP_EPSILON = 1e-4  # TRL's, added to a group's standard deviation


def centred(rewards: Tensor, group_size: int) -> Tensor:
    """Rewards minus the mean of their group, [B*G] to [B*G]; groups are adjacent."""
    groups = rewards.view(-1, group_size)  # [B, G]
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()


def group_advantages(rewards: Tensor, group_size: int, epsilon: float = GROUP_EPSILON) -> Tensor:
    """GRPO's advantages (arXiv 2402.03300): centred and divided by the group's deviation, [B*G] to [B*G].

    A group of equal rewards gives zeros.
    """
    deviations = rewards.view(-1, group_size).std(dim=1).repeat_interleave(group_size)  # [B*G], of samples
    return centred(rewards, group_size) / (deviations + epsilon)


def zero_variance_share(rewards: Tensor, group_size: int) -> float:
    """Share of groups whose rewards are all equal: they teach nothing."""
    spread = rewards.view(-1, group_size).std(dim=1)
    return torch.isclose(spread, torch.zeros_like(spread)).float().mean().item()


def scaled_advantages(rewards: Tensor, group_size: int, scale: float, epsilon: float) -> Tensor:
    """Centred rewards over one common scale (RaPO equation 6), [B*G] to [B*G]."""
    return centred(rewards, group_size) / (scale + epsilon)


def guarded(advantages: Tensor, rewards: Tensor, group_size: int, limit: float, epsilon: float) -> Tensor:
    """Replace groups in which any ``|A|`` exceeds ``limit`` by their own group-scaled advantages (released code)."""
    wild = (advantages.abs() > limit).view(-1, group_size).any(dim=1).repeat_interleave(group_size)
    return torch.where(wild, group_advantages(rewards, group_size, epsilon), advantages)


@dataclass(frozen=True, slots=True)
class RunningScale:
    """The running scale sigma-hat of RaPO's CTAN: a value that each ``observed`` returns anew."""

    value: float | None = None  # sigma-hat; None until a batch has initialised it
    # a batch initialises it only if its deviation exceeds this, so that a first batch of equal rewards cannot blow up
    # every later advantage
    init_above: float = 0.01
    floor: float = 0.0  # lower bound of the value; 0 for none
    # batches whose plain mean of deviations the scale is (warm start), before the momentum takes over
    init_batches: int = 1
    averaged: int = 0  # batches in that mean so far; 0 when the value was set

    def observed(self, batch_std: float, momentum: float) -> RunningScale:
        """The scale after one optimizer step whose rewards have deviation ``batch_std``."""
        if self.value is None or 0 < self.averaged < self.init_batches:
            if batch_std <= self.init_above:
                return self
            total = (self.value or 0.0) * self.averaged + max(batch_std, self.floor)
            return self.at(total / (self.averaged + 1), self.averaged + 1)  # the plain mean with one batch more
        return self.at(max(momentum * self.value + (1 - momentum) * batch_std, self.floor))

    def at(self, value: float | None, averaged: int = 0) -> RunningScale:
        """The same rule at another value, the mean of ``averaged`` batches."""
        return replace(self, value=value, averaged=averaged)
