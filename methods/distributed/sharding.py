"""Weights that are split among the processes of a run: by torch's FSDP2, or by DeepSpeed's ZeRO-3.

``fsdp.py`` and ``zero3.py`` are the two ways. In both, each process keeps its part of every weight, gradient and
moment, and of anchor and reference; a layer is gathered while it is computed. Two things need more: sampling and tests,
in which processes take different numbers of steps and so cannot wait for each other at every layer (``whole``); and
code that calls parts of a model directly, as the passes over shared prompts do (``inside``). Deliberately absent:
adapters, which leave little to split.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from methods.costs.meter import meter_of
from methods.distributed import fsdp, ranks, zero3
from methods.distributed.unsharded import Unsharded

T = TypeVar("T")
KEPT = "split_by"  # attribute of a model that says how it is split
KINDS: dict[str, type[fsdp.Fsdp] | type[zero3.Zero3]] = {"fsdp": fsdp.Fsdp, "zero3": zero3.Zero3}


def split_of(model: Any) -> Unsharded:
    """How a model's weights are split among processes, if they are."""
    own: Unsharded | None = getattr(model, KEPT, None)
    return Unsharded(model) if own is None else own


def is_sharded(model: Any) -> bool:
    """Whether a model's weights are split among processes."""
    return type(split_of(model)) is not Unsharded


def shard(model: Any, kind: str) -> None:
    """Split a model's weights among all processes, which hold the same ones; ``kind`` is one of ``KINDS``."""
    vars(model)[KEPT] = KINDS[kind](model)


def inside(model: Any, work: Callable[[], T]) -> T:
    """Run work that calls parts of a model as if it were the model's forward pass, so that gradients flow."""
    return split_of(model).inside(work)


@contextmanager
def whole(*models: Any) -> Iterator[None]:
    """Inside the block every process has all weights of the models; no gradients are computed, and all enter it."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(split_of(model).whole())
        yield


def whole_tensor(value: Tensor) -> Tensor:
    """A tensor as it is, or gathered if it is split, which all processes must ask for."""
    if fsdp.is_part(value):
        return fsdp.whole_tensor(value)
    return zero3.whole_tensor(value) if zero3.is_part(value) else value


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Give a weight, split or not, the values of a tensor that is whole in every process."""
    if fsdp.is_part(target):
        fsdp.put(target, value)
    elif zero3.is_part(target):
        zero3.put(target, value)
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


def sharded_copy(model: Any) -> Any:
    """A frozen copy of a split model, split alike.

    Raises:
        ValueError: the model is not split.
    """
    own = split_of(model)
    if not isinstance(own, fsdp.Fsdp | zero3.Zero3):
        raise ValueError("a model that is not split is copied as it is: methods/model/snapshots.py")
    split = own.copied()
    copy = split.model
    vars(copy)[KEPT] = split
    for module, known in zip(copy.modules(), model.modules(), strict=True):
        module._buffers.update({name: None if one is None else one.clone() for name, one in known._buffers.items()})
    copy.requires_grad_(False)
    copy.eval()
    meter_of(model).watch_too(copy)
    return copy
