"""Weights that are split among the processes of a run: by torch's FSDP2 (``fully_shard``), layer by layer.

Each process keeps its part of every weight, gradient and moment, and of the anchor and the reference. A layer is whole
while it is computed. Two things ask for all of a model at a time: sampling and tests, in which processes take unequally
many steps, so that none could wait for another at every layer; and what calls parts of a model by themselves, as the
passes over shared prompts do (``inside``).
Deliberately absent: FSDP of the first kind, whose flat weights have no names; DeepSpeed, which splits in the same way
and wants to own optimizer, gradients and files; adapters, which leave little to split.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from methods import ranks
from methods.meter import meter_of
from methods.vision import batch_images

T = TypeVar("T")


def is_sharded(model: Any) -> bool:
    """Whether a model's weights are split among processes."""
    return isinstance(model, FSDPModule)


def shard(model: Any) -> None:
    """Split a model's weights among all processes, which hold the same ones; layers and vision blocks by themselves."""
    _split(model, next(model.parameters()).device)
    _begin(model)


def _split(model: Any, device: torch.device) -> None:
    mesh = init_device_mesh(device.type, (ranks.count(),))
    for part in (*model.model.language_model.layers, *model.model.visual.blocks):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for part in sharded_parts(model):
        part.set_gradient_divide_factor(1.0)  # a process's loss is its part of the batch's: gradients are summed
        part.set_force_sum_reduction_for_comms(True)
    model.__dict__["computed_inside"] = _call
    register_fsdp_forward_method(model, "computed_inside")


@torch.no_grad()
def _begin(model: Any) -> None:
    """Tell the layers of a split model whose parts they are, as its first forward pass does."""
    inside(model, lambda: None)


def _call(work: Callable[[], T]) -> T:
    return work()


def sharded_parts(model: Any) -> list[Any]:
    """The model and those of its modules that are split by themselves; none if it is not split."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def inside(model: Any, work: Callable[[], T]) -> T:
    """Work that calls parts of a model, as a forward pass of its own: what it returns has the model's gradients."""
    if not is_sharded(model):
        return work()
    result: T = model.computed_inside(work)
    if not torch.is_grad_enabled():
        model.reshard()  # no backward pass will
    return result


@contextmanager
def whole(*models: Any) -> Iterator[None]:
    """All weights of models are in every process inside of the block, which computes no gradients; all enter it."""
    split = [model for model in models if is_sharded(model)]
    for model in split:
        model.set_reshard_after_forward(False)
        for part in sharded_parts(model):
            part.unshard()
    try:
        yield
    finally:
        for model in split:
            for part in sharded_parts(model):
                part.reshard()
            model.set_reshard_after_forward(True)
            model.set_reshard_after_forward(False, recurse=False)  # needed again at once by the backward pass


def whole_tensor(value: Tensor) -> Tensor:
    """A tensor as it is, put together if it is split; then all processes ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def put(target: Tensor, value: Tensor) -> None:
    """Give a weight, split or not, the values of a tensor that is whole in every process."""
    with torch.no_grad():
        target.copy_(like(target, value))


def like(target: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, split as another one is."""
    if not isinstance(target, DTensor):
        return value
    here = value.to(target.device, target.dtype)
    return distribute_tensor(here, target.device_mesh, target.placements, src_data_rank=None)


def whole_weights(model: Any) -> dict[str, Tensor]:
    """All weights of a split model by name, on the CPU; in the first process, {} in the others."""
    kept = {}
    for name, weight in model.named_parameters():
        together = whole_tensor(weight.detach())
        if ranks.is_first():
            kept[name] = together.to("cpu", copy=True)
    return kept


def put_weights_of(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Give a split model whole weights by name.

    Raises:
        ValueError: they are not the model's.
    """
    own = dict(model.named_parameters())
    if missing := sorted(own.keys() - weights.keys()):
        raise ValueError(f"{len(missing)} weights are missing, e.g. {missing[0]}")
    for name, weight in own.items():
        put(weight, weights[name])


def hollow(model: Any) -> Any:
    """A model of the same class and settings whose weights have no memory."""
    with torch.device("meta"):
        made: nn.Module = plain_class(model)(model.config)
    return made.to(model.dtype)


def plain_class(model: Any) -> type:
    """The class of a model before it was split."""
    return next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))


def sharded_copy(model: Any) -> Any:
    """A frozen copy of a split model, split alike; no process ever holds all of it."""
    copy = hollow(model)
    batch_images(copy)
    _split(copy, next(model.parameters()).device)
    copy.to_empty(device=next(model.parameters()).device)
    with torch.no_grad():
        for target, weight in zip(copy.parameters(), model.parameters(), strict=True):
            target.to_local().copy_(weight.to_local())
        for buffer, known in zip(copy.buffers(), model.buffers(), strict=True):
            buffer.copy_(known)
    copy.requires_grad_(False)
    copy.eval()
    _begin(copy)
    meter_of(model).watch_too(copy)
    return copy
