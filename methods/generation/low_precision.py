"""A model's matrices in the type that autocast applies them in: for passes without gradients that use them often.

Autocast casts weights in float32 anew wherever its own copies are out of reach: in every step of a recorded decoding,
and for a frozen model. Cast once, they give the same numbers. Embeddings and norms stay as they are, and so does an
output head that is the embeddings' matrix: autocast leaves these in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

CAST = (nn.Linear, nn.Conv2d, nn.Conv3d)  # modules whose weights autocast casts


def cast_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of a model that autocast casts and nothing else uses as they are."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    kept = {id(weight) for module in embeddings for weight in module.parameters()}
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, CAST):
            found |= {id(weight): weight for weight in module.parameters(recurse=False)}
    yield from (weight for name, weight in found.items() if name not in kept)


@torch.no_grad()
def lower(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold a frozen model's matrices in the type that autocast applies them in, for good."""
    for weight in cast_weights(model):
        weight.data = weight.data.to(dtype)


class LowWeights:
    """Copies of a model's matrices in a smaller type, at places that do not move; made by ``refresh``."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.pairs: list[tuple[nn.Parameter, Tensor]] = [
            (weight, torch.empty_like(weight, dtype=dtype, requires_grad=False)) for weight in cast_weights(model)
        ]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights as they are now."""
        for weight, copy in self.pairs:
            copy.copy_(weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the copies inside of the block, which computes no gradients, and its own weights afterwards."""
        own = [weight.data for weight, _ in self.pairs]
        for weight, copy in self.pairs:
            weight.data = copy
        try:
            yield
        finally:
            for (weight, _), before in zip(self.pairs, own, strict=True):
                weight.data = before
