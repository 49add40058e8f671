"""Shaped rewards, checked and reported: what each method that shapes them added, and how often it changed an order.

The figures of one step are ``<name>_added``, the mean of what a method changed, and ``<name>_reranked``, the share of
the pairs inside a group whose order it changed; making or breaking a tie counts as a change.
"""

from __future__ import annotations

from collections.abc import Iterable

from methods.base import Method, Rollouts
from methods.lazy import Tensor, torch


def shaped_by(members: Iterable[Method], rewards: Tensor, rollouts: Rollouts) -> Tensor:
    """Rewards after every method that shapes them, in their order, each reported by its name, [B*G] to [B*G].

    Raises:
        ValueError: a method returned another shape, or values that are not finite.
    """
    for one in members:
        if not overrides(type(one), "shape_rewards"):
            continue
        shaped = checked(one.shape_rewards(rewards, rollouts), rollouts, one, "shape_rewards")
        rollouts.log(f"{one.name}_added", (shaped - rewards).mean().item())
        rollouts.log(f"{one.name}_reranked", reranked_share(rewards, shaped, rollouts.group_size))
        rewards = shaped
    return rewards


def overrides(method: type[Method], hook: str) -> bool:
    """Whether a method has a hook of its own."""
    return getattr(method, hook) is not getattr(Method, hook)


def reranked_share(before: Tensor, after: Tensor, group_size: int) -> float:
    """Share of the pairs inside a group that are in another order after than before; values 1e-6 apart are equal."""
    pairs = torch.triu(torch.ones(group_size, group_size, dtype=torch.bool, device=before.device), diagonal=1)
    changed = order_in_groups(before, group_size) != order_in_groups(after, group_size)  # [B, G, G]
    return changed[:, pairs].float().mean().item()


def order_in_groups(values: Tensor, group_size: int) -> Tensor:
    """For every pair inside a group 1, 0 or -1: the first is greater, equal or less, [B*G] to [B, G, G]."""
    groups = values.view(-1, group_size)
    apart = groups[:, :, None] - groups[:, None, :]
    return torch.where(apart.abs() > 1e-6, apart.sign(), 0.0)


def checked(values: Tensor, rollouts: Rollouts, method: Method, hook: str) -> Tensor:
    """A hook's result, refused if its shape or a value is not usable."""
    expected = rollouts.task_reward.shape
    if values.shape != expected:
        raise ValueError(f"{method.name}.{hook} returned shape {tuple(values.shape)}, expected {tuple(expected)}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{method.name}.{hook} returned values that are not finite")
    return values
