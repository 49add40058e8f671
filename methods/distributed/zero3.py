"""Weights split by DeepSpeed's ZeRO-3: module by module, gradients and AdamW's moments with them.

DeepSpeed's engine sums gradients and makes the updates; batches, rates, clipping and files are the runner's, as with
every other kind of run, and so is what an update comes to. It is in force for one training; between trainings an
engine without an optimizer splits the weights. Deliberately absent: what DeepSpeed offloads to CPU memory or disks,
its checkpoints (pickled), its own loss scaling, and every other part of its configuration.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers.initialization import no_init_weights

from methods.distributed import ranks
from methods.distributed.launch import LOCAL_RANK
from methods.distributed.unsharded import COUNT, Unsharded
from methods.inputs.vision import batch_images

T = TypeVar("T")
ONE_DEVICE = "0"  # number of the one that a process sees; DeepSpeed asks for it, and must not find that of a launcher


class Zero3(Unsharded):
    """A model that ZeRO-3 splits among all processes, which hold the same one.

    In a training each process has its part of every gradient and moment too, in ``engine.optimizer``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.engine = _engine(model)

    def inside(self, work: Callable[[], T]) -> T:
        """As its base says: the work stands in for the model's own forward pass."""
        own = self.model.__dict__.get("forward")
        self.model.__dict__["forward"] = work
        try:
            return self.model()  # type: ignore[no-any-return]
        finally:
            del self.model.__dict__["forward"]
            if own is not None:
                self.model.__dict__["forward"] = own

    @contextmanager
    def whole(self) -> Iterator[None]:
        """As its base says: modules are called as if nothing were split."""
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(list(self.model.parameters())):
            offload = getattr(self.engine.optimizer, "parameter_offload", self.engine.optimizer)
            offload._remove_module_hooks()
            offload.forward_hooks, offload.backward_hooks = [], []
            try:
                yield
            finally:
                for weight in self.model.parameters():
                    weight.ds_active_sub_modules.clear()
                offload.setup_zero_stage3_hooks()

    def copied(self) -> "Zero3":
        """A copy of the model, split alike, but for its buffers; no process ever holds all of it."""
        from deepspeed.runtime.zero import Init

        with _one_device(), no_init_weights(), Init(config_dict_or_path=settings(self.model.dtype)):
            made = type(self.model)(self.model.config)
        made.tie_weights()  # which is a part of what was left out
        batch_images(made)
        with torch.no_grad():
            for target, weight in zip(made.parameters(), self.model.parameters(), strict=True):
                target.ds_tensor.copy_(weight.ds_tensor)
        return Zero3(made)

    def trained_by(self, optimizer: Optimizer, accelerator: Any) -> "PartedOptimizer":
        """The optimizer that takes another one's place, whose weights are split; the trainer's calls come to it."""
        self._leave()
        groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
        self.engine = _engine(self.model, optimizer)  # which takes the weights out of the groups
        accelerator.backward = self.backward
        accelerator.clip_grad_norm_ = self.clip
        os.environ[LOCAL_RANK] = ONE_DEVICE  # asked for now and then; other libraries have taken it as unset by now
        return PartedOptimizer(groups, self.engine)

    def rest(self) -> None:
        os.environ.pop(LOCAL_RANK, None)
        self._leave()
        self.engine = _engine(self.model)

    def backward(self, loss: Tensor, **_: Any) -> None:
        """Compute gradients, and add those of all processes to each one's part of them."""
        self.engine.optimizer.clear_backward_seen_flag()
        self.engine._backward_prologue()
        self.engine.backward(loss * ranks.world_size(), scale_wrt_gas=False)  # DeepSpeed has the mean of the processes

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        parts = [part for parts in self.engine.optimizer.averaged_gradients.values() for part in parts]
        return ranks.all_reduce_sum(torch.stack([part.float().square().sum() for part in parts]).sum()).sqrt()

    @torch.no_grad()
    def clip(self, parameters: Any, max_norm: float, norm_type: float = 2) -> Tensor:
        """As ``torch.nn.utils.clip_grad_norm_``, of all weights."""
        norm = self.gradient_norm()
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for parts in self.engine.optimizer.averaged_gradients.values():
            for part in parts:
                part.mul_(factor)
        return norm

    def moved(self, optimizer: Any) -> list[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Any]]]:
        """As its base says: this process's parts, which are flat."""
        inner = self.engine.optimizer
        return [
            (flat, inner.optimizer.state[flat], optimizer.param_groups[inner.sub_group_to_group_id[number]])
            for number, flat in enumerate(inner.fp32_partitioned_groups_flat)
        ]

    def moments(self, weight: Tensor, optimizer: Any) -> dict[str, Tensor]:
        """As its base says, put together."""
        _, own = self._part_of(weight)
        whole = self.engine.optimizer.get_full_hp_param
        return {kind: (value if kind == COUNT else whole(weight, kind)).clone() for kind, value in own.items()}

    def put_moments(self, weight: Tensor, values: Mapping[str, Tensor], optimizer: Any) -> None:
        """As its base says; one count is that of all the weights of a group."""
        flat, own = self._part_of(weight)
        for kind, value in values.items():
            if kind == COUNT:
                own[kind] = value.clone()
            else:
                own.setdefault(kind, torch.zeros_like(flat, requires_grad=False))
                self.engine.optimizer.set_full_hp_param(value.to(flat), weight, kind)

    def _part_of(self, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """This process's part of the weights of a weight's group, flat, and the optimizer's state of it."""
        inner = self.engine.optimizer
        group, *_ = inner.grad_position[inner.get_param_id(weight)]
        flat = inner.fp32_partitioned_groups_flat[group]
        return flat, inner.optimizer.state[flat]

    def _leave(self) -> None:
        self.engine.destroy()
        self.engine.module_forward_pre_hook.remove()
        self.engine.module_forward_post_hook.remove()


class PartedOptimizer(Optimizer):
    """AdamW over split weights, as an optimizer of the weights themselves, whose groups have the rates."""

    def __init__(self, groups: list[dict[str, Any]], engine: Any) -> None:
        super().__init__(groups, {})
        self.engine = engine

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make an update of the gradients as they are."""
        inner = self.engine.optimizer
        for own, group in zip(self.param_groups, inner.optimizer.param_groups, strict=True):
            group.update({name: value for name, value in own.items() if name != "params"})
        self.engine.step()
        if inner.overflow:
            raise RuntimeError("DeepSpeed left an update out, whose gradients it found not to be finite")
        inner.grad_partitions_flat_buffer.zero_()  # a weight that the next one does not use has no gradient then

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: an update begins with gradients of its own."""


def settings(dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration for weights of a type, which gradients and moments have too."""
    half = {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    return {
        "train_micro_batch_size_per_gpu": 1,  # counts nothing here: batches are the runner's
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,  # ours that compensates
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,
            "memory_efficient_linear": False,  # or else it puts its own in torch's place, for good
        },
        **({"bf16": half, "data_types": {"grad_accum_dtype": "bf16"}} if dtype == torch.bfloat16 else {}),
    }


def _engine(model: Any, optimizer: Optimizer | None = None) -> Any:
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if next(model.parameters()).device.type == "cpu":  # or else it compiles a program of its own, and keeps it
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with _one_device():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings(model.dtype))
    return engine


@contextmanager
def _one_device() -> Iterator[None]:
    """Tell DeepSpeed the number of the device, and no other library."""
    known = os.environ.get(LOCAL_RANK)
    os.environ[LOCAL_RANK] = ONE_DEVICE
    try:
        yield
    finally:
        del os.environ[LOCAL_RANK]
        if known is not None:
            os.environ[LOCAL_RANK] = known
