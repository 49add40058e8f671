"""Weights that are split among the processes of a run: by torch's FSDP2, or by DeepSpeed's ZeRO-3.

``fsdp.py`` and ``zero3.py`` are the two ways. In both, each process keeps its part of every weight, gradient and
moment, and of anchor and reference; a layer is gathered while it is computed. Two things need more: sampling and tests,
in which processes take different numbers of steps and so cannot wait for each other at every layer (``whole``); and
code that calls parts of a model directly, as the passes over shared prompts do (``Unsharded.inside``).
Deliberately absent: adapters, which leave little to split.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from methods.costs.meter import meter_of
from methods.distributed import fsdp, ranks, zero3
from methods.distributed.unsharded import ZERO3_PART, Unsharded, split_like, whole_tensor

KEPT = "split_by"  # attribute of a model that says how it is split
KINDS: dict[str, type[fsdp.Fsdp] | type[zero3.Zero3]] = {"fsdp": fsdp.Fsdp, "zero3": zero3.Zero3}


def split_of(model: Any) -> Unsharded:
    """How a model's weights are split among processes, if they are."""
    return getattr(model, KEPT, None) or Unsharded(model)


def is_sharded(model: Any) -> bool:
    """Whether a model's weights are split among processes."""
    return type(split_of(model)) is not Unsharded


def shard(model: Any, kind: str) -> None:
    """Split a model's weights among all processes, which hold the same ones; ``kind`` is one of ``KINDS``."""
    vars(model)[KEPT] = KINDS[kind](model)


@contextmanager
def whole(*models: Any) -> Iterator[None]:
    """Inside the block every process has all weights of the models; no gradients are computed, and all enter it."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(split_of(model).whole())
        yield


@torch.no_grad()
def put(target: Any, value: Tensor) -> None:
    """Give a weight, split or not, the values of a tensor that is whole in every process."""
    if isinstance(target, DTensor):
        target.copy_(split_like(target, value))
    elif hasattr(target, ZERO3_PART):
        own = getattr(target, ZERO3_PART)  # flat, and padded in the last process
        part = value.flatten()[ranks.rank() * own.numel() :][: own.numel()]
        own[: part.numel()].copy_(part)
    else:
        target.copy_(value)


def whole_weights(model: Any) -> dict[str, Tensor]:
    """All weights of a split model by name, on the CPU; in the first process, {} in the others."""
    kept = {}
    for name, weight in model.named_parameters():
        together = whole_tensor(weight).detach()
        if ranks.is_rank0():
            kept[name] = together.to("cpu", copy=True)
    return kept


def sharded_copy(model: Any) -> Any:
    """A frozen copy of a split model, split alike."""
    own: Any = split_of(model)
    split = own.copied()
    copy = split.model
    vars(copy)[KEPT] = split
    for module, known in zip(copy.modules(), model.modules(), strict=True):
        module._buffers.update({name: None if one is None else one.clone() for name, one in known._buffers.items()})
    copy.requires_grad_(False)
    copy.eval()
    meter_of(model).watch_too(copy)
    return copy
