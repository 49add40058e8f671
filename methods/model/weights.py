"""Trained weights by name: copies, and sums over all of them, for penalties that hold weights where they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from methods.lazy import Tensor, nn, torch


def trained_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and weights that are trained: all of them, or the adapter's."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def copied_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trained weights as they are now, on their device."""
    return {name: weight.detach().clone() for name, weight in trained_weights(model)}


def weighted_distance(
    model: nn.Module, centre: Mapping[str, Tensor], importance: Mapping[str, Tensor] | None
) -> Tensor:
    """``sum_i F_i (theta_i - theta*_i)^2`` over the trained weights, a scalar in float32; F = 1 without importance."""
    terms = []
    for name, weight in trained_weights(model):
        square = (weight.float() - centre[name].float()).square()
        terms.append((square if importance is None else importance[name] * square).sum())
    return torch.stack(terms).sum()


def clear_rope_state(model: nn.Module) -> None:
    """Forget the M-RoPE offsets of the last call: stale ones corrupt a call with another batch size."""
    for module in model.modules():
        if hasattr(module, "rope_deltas"):
            module.__dict__["rope_deltas"] = None
