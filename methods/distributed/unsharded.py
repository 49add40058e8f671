"""A model whose weights every process has: what it means to train it, which the ways to split one change.

Tensors that FSDP2 splits are put together here too, as are weights that ZeRO-3 splits.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")
ZERO3_PART = "ds_tensor"  # attribute of a weight that ZeRO-3 splits: what of it is in this process
COUNT = "step"  # of AdamW's state: one number for all numbers of a weight; stays on the CPU


@dataclass(eq=False)
class Unsharded:
    """A model of which nothing is split; the base of those that are."""

    model: Any

    def inside(self, work: Callable[[], T]) -> T:
        """Work that calls parts of the model, as a forward pass of its own."""
        return work()

    def whole(self) -> AbstractContextManager[None]:
        """A block in which all weights are in every process, and no gradients are computed."""
        return nullcontext()

    def trained_by(self, optimizer: Any, accelerator: Any) -> Any:
        """The optimizer of a training, in place of one that knows of no split."""
        return optimizer

    def rest(self) -> None:
        """A training is over."""

    def gradient_norm(self) -> Tensor:
        """Of the gradients of all weights."""
        gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
        return whole_tensor(torch.nn.utils.get_total_norm(gradients))

    def moved(self, optimizer: Any) -> list[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Any]]]:
        """The weights that the update at hand moves, each with the optimizer's state of it and its group."""
        trained = [(weight, group) for group in optimizer.param_groups for weight in group["params"]]
        return [(weight, optimizer.state[weight], group) for weight, group in trained if weight.grad is not None]

    def moments(self, weight: Tensor, optimizer: Any) -> dict[str, Tensor]:
        """The tensors of an optimizer's state of a weight, put together, by kind; {} before the first update."""
        return {kind: whole_tensor(value).detach() for kind, value in optimizer.state.get(weight, {}).items()}

    def put_moments(self, weight: Tensor, values: Mapping[str, Tensor], optimizer: Any) -> None:
        """Give an optimizer its state of a weight."""
        for kind, value in values.items():
            own = split_like(weight, value) if isinstance(weight, DTensor) and kind != COUNT else value
            optimizer.state[weight][kind] = own.to("cpu" if kind == COUNT else weight.device, copy=True)


def whole_tensor(value: Any) -> Tensor:
    """A tensor as it is, or gathered if it is split, which all processes must ask for."""
    if hasattr(value, ZERO3_PART):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([value]):
            return value.detach().clone()  # type: ignore[no-any-return]
    return value.full_tensor() if isinstance(value, DTensor) else value


def split_like(target: Any, value: Tensor) -> Tensor:
    """A whole tensor, split as another one is by FSDP2."""
    here = value.to(target.device, target.dtype)
    return distribute_tensor(here, target.device_mesh, target.placements, src_data_rank=None)
