"""Several processes that work on one run: rank and world size, what each computes, and what they exchange.

Every process makes every decision itself, from the same random state and the same rows, and so makes the same one.
Only the work is shared: each process samples, scores and learns its own rows of a batch, and tests its own batches;
results are gathered and gradients summed. Libraries see a single process with one device (``launch.hide_launcher`` says
why), so none of them splits, seeds or averages by itself. Tensors and JSON are exchanged; nothing is unpickled.
Deliberately absent: launching (``torchrun``, ``accelerate launch``), and weights that are split (``sharding.py``).
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from methods.distributed.launch import (
    DEEPSPEED_DEVICE,
    LOCAL_RANK,
    RANK,
    WORLD_SIZE,
    hide_launcher,
    launched,
    requested_sharding,
)
from task_streams.errors import UserError

SPLIT = "CLRFT_SPLIT_WEIGHTS"  # our own variable, for the split that the launcher asked for
PATIENCE = timedelta(hours=2)  # one process may write weights to a slow disk while the others wait
BUCKET = 2**26  # bytes of gradients that are summed at a time

Counts = dict[str, float]
T = TypeVar("T")


class OtherFailed(Exception):
    """Another process of the run has failed; it says why."""


def join() -> Any:
    """Join the other processes of this run, as the environment names them; returns the launcher's store.

    Afterwards this process sees one device, and no library sees the other processes. A single process stays as it is,
    and its store is None.

    Raises:
        UserError: the environment is not that of a launcher, or there are fewer GPUs than processes.
    """
    size = launched()
    if size == 1 or dist.is_initialized():
        return None
    missing = [name for name in (RANK, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"{WORLD_SIZE} is {size}, but {', '.join(missing)} is not set; start several processes by torchrun or "
            "accelerate launch."
        )
    if kind := requested_sharding():
        os.environ[SPLIT] = kind
    own = int(os.environ[RANK])
    gpu = _one_gpu(int(os.environ.get(LOCAL_RANK, own)))
    store, _, _ = next(rendezvous("env://", own, size))
    store.set_timeout(PATIENCE)
    os.environ.setdefault(DEEPSPEED_DEVICE, "cuda" if gpu else "cpu")
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=own, world_size=size, timeout=PATIENCE)
    hide_launcher()
    return store


def _one_gpu(local: int) -> bool:
    """Let this process see its own GPU alone; False if there is none at all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name for name in visible.split(",") if name] if visible is not None else None
    if names is None:
        names = [str(number) for number in range(torch.cuda.device_count())]  # starts no device
    if not names:
        return False
    if len(names) > 1:  # a scheduler may have given each process its own
        if local >= len(names):
            raise UserError(
                f"{LOCAL_RANK} is {local}, but there are {len(names)} GPUs on this machine; expected at most one "
                "process for each."
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = names[local]
    elif visible is None and local > 0:
        raise UserError(f"{LOCAL_RANK} is {local}, but there is one GPU on this machine; expected one process.")
    return True


def leave() -> None:
    """Leave the process group, once all processes have ended their work."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_rank0() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def weights_split() -> str | None:
    """How the launcher's configuration asks to split weights among processes: fsdp, zero3, or None (not at all)."""
    return os.environ.get(SPLIT) if world_size() > 1 else None


def share(rows: int, group: int = 1) -> slice:
    """This process's part of adjacent rows; groups stay whole where there is one for every process."""
    units = rows // group if group > 0 and rows % group == 0 and rows // group >= world_size() else rows
    size = rows // units if units else 1
    return slice(units * rank() // world_size() * size, units * (rank() + 1) // world_size() * size)


def all_gather_json(value: Any) -> list[Any]:
    """A JSON value of every process, by rank."""
    if world_size() == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(bytes(part.tolist())) for part in _gathered(text)]


def all_gather(own: Sequence[Any]) -> list[Any]:
    """Lists of JSON values of every process, joined by rank."""
    return [one for part in all_gather_json(list(own)) for one in part]


def all_gather_rows(own: Tensor) -> Tensor:
    """Rows [n, …] of every process, joined by rank; n may differ, and a scalar counts as a row."""
    own = own.detach()
    return own if world_size() == 1 else torch.cat(_gathered(own.reshape(1) if own.dim() == 0 else own))


def _gathered(own: Tensor) -> list[Tensor]:
    """Rows of every process; padded on the way, since collectives need one size."""
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    longest = max(int(size) for size in sizes)
    padded = own.new_zeros(longest, *own.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; without gradients."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def all_reduce_counts(own: Mapping[str, float]) -> Counts:
    """Counts by name, summed over all processes; only names that every process has."""
    parts = all_gather_json(dict(own))
    return {name: sum(part[name] for part in parts) for name in own if all(name in part for part in parts)}


def sum_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients of weights over all processes; a weight that has none in any process stays without."""
    if world_size() == 1:
        return
    trained = [weight for weight in weights if weight.requires_grad]
    has = all_reduce_sum(torch.tensor([weight.grad is not None for weight in trained], dtype=torch.int32))
    for weight, anywhere in zip(trained, has.tolist(), strict=True):
        if anywhere and weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    for bucket in _buckets([weight.grad for weight in trained if weight.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, total in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one type and device, up to ``BUCKET`` bytes together; a larger one alone."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bytes_of = gradient.numel() * gradient.element_size()
        other = bucket and (gradient.dtype, gradient.device) != (bucket[0].dtype, bucket[0].device)
        if bucket and (other or size + bytes_of > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += bytes_of
    if bucket:
        yield bucket


class Batches:
    """Shares the batches of an evaluation among processes, in turn."""

    def mine(self, batch: int) -> bool:
        """Whether this process answers the batch of that number."""
        return batch % world_size() == rank()

    def everyones(self, answered: Mapping[int, str]) -> dict[int, str]:
        """Completions of all processes by index of the item.

        Raises:
            RuntimeError: an item was answered by two.
        """
        pairs = all_gather([[index, text] for index, text in answered.items()])
        joined = {int(index): str(text) for index, text in pairs}
        if len(joined) != len(pairs):
            raise RuntimeError(f"{len(pairs) - len(joined)} items were answered by two processes")
        return joined


def on_rank0(work: Callable[[], T]) -> T:
    """Do the work on rank 0 while the others wait; all get what it returns, a JSON value.

    Raises:
        OtherFailed: it failed on rank 0, which raises its own error.
    """
    if world_size() == 1:
        return work()
    result: list[Any] = []
    try:
        if is_rank0():
            result = [work()]
    finally:  # also where it failed: nobody waits for ever
        answers = all_gather_json(result)
    if not answers[0]:
        raise OtherFailed
    return result[0] if is_rank0() else answers[0][0]  # type: ignore[no-any-return]


def broadcast_tensors(own: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Rank 0's tensors on the CPU, by name and one after the other, in every process."""
    facts = [[name, list(value.shape), str(value.dtype).rpartition(".")[2]] for name, value in own.items()]
    for name, shape, kind in all_gather_json(facts)[0]:
        value = own[name] if is_rank0() else torch.empty(shape, dtype=getattr(torch, kind))
        dist.broadcast(value, 0)
        yield name, value


def all_or_fail(work: Callable[[], T]) -> T:
    """Do the work in every process and return its own result; if it fails in one, it fails in all.

    Raises:
        OtherFailed: it failed in another process.
    """
    done = False
    try:
        result = work()
        done = True
    finally:
        all_done = all(all_gather_json(done))
    if not all_done:
        raise OtherFailed
    return result


@contextmanager
def gathering(accelerator: Any) -> Iterator[None]:
    """Inside the block, what a library gathers or reduces through its accelerator comes from all processes."""
    if world_size() == 1:
        yield
        return
    accelerator.gather = accelerator.gather_for_metrics = all_gather_rows
    accelerator.reduce = lambda value, reduction="sum", **_: (
        all_reduce_sum(value) / (world_size() if reduction == "mean" else 1)
    )
    try:
        yield
    finally:
        for name in ("gather", "gather_for_metrics", "reduce"):
            delattr(accelerator, name)
