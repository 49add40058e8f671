"""Drift from the previous task's policy, and the reward for keeping it low. Tensors in, tensors out.

Equations 2 and 3 of RaPO (arXiv 2605.09640). No gradient flows through either.
"""

from __future__ import annotations

from methods.lazy import Tensor, torch


def drift(actor_logps: Tensor, anchor_logps: Tensor, mask: Tensor, clamped: bool = True) -> Tensor:
    """Mean log-ratio of each completion's tokens, clamped at zero after the mean: D, [N, L] to [N], in nats.

    Not clamped it is an estimate of the KL that may be negative.

    Args:
        actor_logps: log-probabilities under the policy that is trained, [N, L].
        anchor_logps: the same tokens under the previous task's snapshot, [N, L].
        mask: 1 for generated tokens (end of sequence included), 0 for padding, [N, L].
        clamped: 0 instead of a mean below it.

    Raises:
        ValueError: a completion without tokens: its drift is undefined.
    """
    lengths = mask.sum(dim=1)  # [N]
    if bool((lengths == 0).any()):
        raise ValueError("drift of a completion without tokens is undefined")
    log_ratio = torch.where(mask.bool(), actor_logps.detach() - anchor_logps.detach(), 0.0)  # [N, L]
    mean = log_ratio.sum(dim=1) / lengths
    return mean.clamp(min=0.0) if clamped else mean


def retention_reward(drifts: Tensor, sharpness: float) -> Tensor:
    """``R_ret = exp(-alpha D)`` in (0, 1], [N] to [N]; ``sharpness`` is alpha (20 in the paper)."""
    return torch.exp(-sharpness * drifts)
