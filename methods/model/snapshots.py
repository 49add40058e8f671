"""Frozen policies whose log-probabilities can be asked for: copies of all weights, adapters, the base of an adapter."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from methods.costs.flops import TRAINED_ADAPTER
from methods.distributed.sharding import is_sharded, sharded_copy
from methods.generation.low_precision import lower


@dataclass(eq=False)
class Snapshot:
    """A frozen policy whose log-probabilities can be asked for; full copy or adapter."""

    model: Any

    def weights(self) -> dict[str, torch.Tensor]:
        """Its own parameters by name, tied ones once; buffers are not trained and not among them."""
        return dict(self.model.named_parameters())

    @contextmanager
    def active(self) -> Iterator[torch.nn.Module]:
        """The module to call while the snapshot is in force."""
        yield self.model


@dataclass(eq=False)
class FullSnapshot(Snapshot):
    """A frozen copy of all weights."""

    home: torch.device  # where it is kept between uses: the policy's device, or CPU memory
    device: torch.device  # where it is called

    @classmethod
    def take(cls, model: Any, memory: str, lowered: torch.dtype | None = None) -> "FullSnapshot":
        """Copy a model, to rest on the ``device`` or the ``cpu``. A split one's copy is split, and stays on the device.

        ``lowered``: type in which the copy's matrices are held (``low_precision.py``); None: as the model has them.
        """
        device = next(model.parameters()).device
        if is_sharded(model):
            return cls(sharded_copy(model), device, device)
        home = torch.device("cpu") if memory == "cpu" else device
        patched = model.__dict__.pop("forward", None)  # a trainer's patch is bound to the original
        try:
            model.to(home)  # so that a copy for CPU memory never stands on the GPU beside the original
            clone = copy.deepcopy(model)
        finally:
            model.to(device)
            if patched is not None:
                model.__dict__["forward"] = patched
        clone.requires_grad_(False)
        clone.eval()
        if lowered is not None:
            lower(clone, lowered)
        return cls(clone, home, device)

    @contextmanager
    def active(self) -> Iterator[torch.nn.Module]:
        if self.home == self.device:  # moving a split model, even to where it is, takes apart what is whole
            yield self.model
            return
        self.model.to(self.device)
        try:
            yield self.model
        finally:
            self.model.to(self.home)


@dataclass(eq=False)
class AdapterSnapshot(Snapshot):
    """A frozen second adapter beside the trained one: costs an adapter, not a model. Or the base of both."""

    name: str | None = None  # of the adapter; None: the base, which is the model while no adapter is in force

    @classmethod
    def take(cls, model: PeftModel, name: str) -> "AdapterSnapshot":
        """Copy the trained adapter into a second one."""
        if name not in model.peft_config:
            model.add_adapter(name, model.peft_config[TRAINED_ADAPTER])
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for path, weight in weights.items():
                if f".{TRAINED_ADAPTER}." in path:
                    weights[path.replace(f".{TRAINED_ADAPTER}.", f".{name}.")].copy_(weight)
        _train_only(model, TRAINED_ADAPTER)
        return cls(model, name)

    def weights(self) -> dict[str, torch.Tensor]:
        """The parameters of the second adapter alone."""
        return {name: weight for name, weight in super().weights().items() if f".{self.name}." in name}

    @contextmanager
    def active(self) -> Iterator[torch.nn.Module]:
        try:
            if self.name is None:
                with self.model.disable_adapter():
                    yield self.model
            else:
                self.model.set_adapter(self.name)
                yield self.model
        finally:
            _train_only(self.model, TRAINED_ADAPTER)


def _train_only(model: PeftModel, adapter: str) -> None:
    """Make one adapter the active one and the only one with gradients."""
    model.set_adapter(adapter)
    for name, weight in model.named_parameters():
        weight.requires_grad_(f".{adapter}." in name)
