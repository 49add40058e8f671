"""Weights split by torch's FSDP2 (``fully_shard``): a layer, or a block of the vision tower, at a time.

Deliberately absent: FSDP of the first kind, whose flat weights have no names.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from methods.distributed import ranks
from methods.distributed.unsharded import Unsharded
from methods.inputs.vision import batch_images

T = TypeVar("T")


class Fsdp(Unsharded):
    """A model that FSDP2 splits among all processes, which hold the same one, or one without memory."""

    def __init__(self, model: Any, device: torch.device | None = None) -> None:
        super().__init__(model)
        mesh = init_device_mesh((device or next(model.parameters()).device).type, (ranks.world_size(),))
        for part in (*model.model.language_model.layers, *model.model.visual.blocks):
            fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
        self.parts: list[Any] = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for part in self.parts:
            part.set_gradient_divide_factor(1.0)  # a process's loss is its part of the batch's: gradients are summed
            part.set_force_sum_reduction_for_comms(True)
        model.__dict__["computed_inside"] = lambda work: work()
        register_fsdp_forward_method(model, "computed_inside")
        if device is not None:
            model.to_empty(device=device)
        with torch.no_grad():  # tell the layers whose parts they are, as the first forward pass does
            self.inside(lambda: None)

    def inside(self, work: Callable[[], T]) -> T:
        result: T = self.model.computed_inside(work)
        if not torch.is_grad_enabled():
            self.model.reshard()  # no backward pass will
        return result

    @contextmanager
    def whole(self) -> Iterator[None]:
        self.model.set_reshard_after_forward(False)
        for part in self.parts:
            part.unshard()
        try:
            yield
        finally:
            for part in self.parts:
                part.reshard()
            self.model.set_reshard_after_forward(True)
            self.model.set_reshard_after_forward(False, recurse=False)  # needed again at once by the backward pass

    def copied(self) -> "Fsdp":
        """A copy of the model, split alike, but for its buffers; no process ever holds all of it."""
        empty = hollow(self.model)
        batch_images(empty)
        copy = Fsdp(empty, next(self.model.parameters()).device)
        with torch.no_grad():
            for target, weight in zip(empty.parameters(), self.model.parameters(), strict=True):
                target.to_local().copy_(weight.to_local())
        return copy


def hollow(model: Any) -> Any:
    """A model of the same class, before it was split, and settings, whose weights have no memory."""
    plain: Any = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    with torch.device("meta"):
        made: Any = plain(model.config)
    return made.to(model.dtype)
