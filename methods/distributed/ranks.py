"""Several processes that work on one run: who is which, what each computes, and what they tell each other.

Every process makes every decision for itself, from the same random state and the same rows, and so makes the same one.
Only the work is dealt out: of a batch each process samples, scores and learns its own rows, and tests its own batches;
results are gathered and gradients summed. To the libraries each process is the only one, with one device: none of
them splits, seeds or averages by itself. What is exchanged is tensors and JSON; nothing is unpickled.
Deliberately absent: launching (``torchrun``, ``accelerate launch``), and weights that are split (``sharding.py``).
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from methods.distributed.launch import DEEPSPEED_DEVICE, LOCAL_PLACE, PLACE, SIZE, TOLD, launched, split_asked
from task_streams.errors import UserError

SPLIT = "CLRFT_SPLIT_WEIGHTS"  # ours, for the split that the launcher asked for
PATIENCE = timedelta(hours=2)  # one process may write weights to a slow disk while the others wait
BUCKET = 2**26  # bytes of gradients that are summed at a time

Counts = dict[str, float]
T = TypeVar("T")


class OtherFailed(Exception):
    """Another process of the run has failed; it says why."""


def join() -> Any:
    """Join the other processes of this run, as the environment names them; returns the launcher's store.

    Afterwards this process sees one device, and no library sees that there are others. Without effect on a single
    process, for which the store is None.

    Raises:
        UserError: the environment is not that of a launcher, or there are fewer GPUs than processes.
    """
    size = launched()
    if size == 1 or dist.is_initialized():
        return None
    missing = [name for name in (PLACE, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"{SIZE} is {size}, but {', '.join(missing)} is not set; start several processes by torchrun or "
            "accelerate launch."
        )
    if kind := split_asked():
        os.environ[SPLIT] = kind
    place = int(os.environ[PLACE])
    gpu = _one_gpu(int(os.environ.get(LOCAL_PLACE, place)))
    store, _, _ = next(rendezvous("env://", place, size))
    store.set_timeout(PATIENCE)
    os.environ.setdefault(DEEPSPEED_DEVICE, "cuda" if gpu else "cpu")
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=place, world_size=size, timeout=PATIENCE)
    for name in TOLD:
        os.environ.pop(name, None)
    return store


def _one_gpu(local: int) -> bool:
    """Let this process see its own GPU alone; False if there is none at all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name for name in visible.split(",") if name] if visible is not None else None
    if names is None:
        names = [str(place) for place in range(torch.cuda.device_count())]  # asks no device to start
    if not names:
        return False
    if len(names) > 1:  # a scheduler may have given each process its own
        if local >= len(names):
            raise UserError(
                f"{LOCAL_PLACE} is {local}, but there are {len(names)} GPUs on this machine; expected at most one "
                "process for each."
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = names[local]
    elif visible is None and local > 0:
        raise UserError(f"{LOCAL_PLACE} is {local}, but there is one GPU on this machine; expected one process.")
    return True


def leave() -> None:
    """Let go of the other processes, once all have ended their work."""
    if dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def place() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def weights_split() -> str | None:
    """How the launcher's configuration asks that weights are split among processes: fsdp, zero3 or None, not at all."""
    return os.environ.get(SPLIT) if count() > 1 else None


def is_first() -> bool:
    """Whether this is the process that writes and tells."""
    return place() == 0


def share(rows: int, group: int = 1) -> slice:
    """This process's part of adjacent rows; groups stay whole where there is one for every process."""
    units = rows // group if group > 0 and rows % group == 0 and rows // group >= count() else rows
    size = rows // units if units else 1
    return slice(units * place() // count() * size, units * (place() + 1) // count() * size)


def told(value: Any) -> list[Any]:
    """A JSON value of every process, in their order."""
    if count() == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(bytes(part.tolist())) for part in _parts(text)]


def listed(own: Sequence[Any]) -> list[Any]:
    """Lists of every process, of JSON values, joined in their order."""
    return [one for part in told(list(own)) for one in part]


def rows_of_all(own: Tensor) -> Tensor:
    """Rows [n, …] of every process, joined in their order; n may differ, and a scalar counts as a row."""
    own = own.detach()
    return own if count() == 1 else torch.cat(_parts(own.reshape(1) if own.dim() == 0 else own))


def _parts(own: Tensor) -> list[Tensor]:
    """Rows of every process; padded on their way, as collectives need one size."""
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(count())]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    longest = max(int(size) for size in sizes)
    padded = own.new_zeros(longest, *own.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(count())]
    dist.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; without gradients."""
    if count() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def largest(value: int) -> int:
    """The largest of a whole number over all processes."""
    return int(max(told(value)))


def counts_of_all(own: Mapping[str, float]) -> Counts:
    """Counts by name, summed over all processes; of names that every one has."""
    parts = told(dict(own))
    return {name: sum(part[name] for part in parts) for name in own if all(name in part for part in parts)}


def sum_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients of weights over all processes; a weight without one on any stays without.

    Raises:
        RuntimeError: a gradient is split among the processes already.
    """
    if count() == 1:
        return
    trained = [weight for weight in weights if weight.requires_grad]
    has = summed(torch.tensor([weight.grad is not None for weight in trained], dtype=torch.int32))
    for weight, anywhere in zip(trained, has.tolist(), strict=True):
        if anywhere and weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    for bucket in _buckets([weight.grad for weight in trained if weight.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, total in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one type and device, so many bytes together, or one that is larger alone."""
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
    """Deals out the batches of an evaluation: one after the other to one process after the other."""

    def mine(self, batch: int) -> bool:
        """Whether this process answers the batch of that number."""
        return batch % count() == place()

    def everyones(self, answered: Mapping[int, str]) -> dict[int, str]:
        """Completions by place of the item, those of all processes.

        Raises:
            RuntimeError: an item was answered by two.
        """
        pairs = listed([[place_of, text] for place_of, text in answered.items()])
        together_answered = {int(place_of): str(text) for place_of, text in pairs}
        if len(together_answered) != len(pairs):
            raise RuntimeError(f"{len(pairs) - len(together_answered)} items were answered by two processes")
        return together_answered


def by_first(work: Callable[[], T]) -> T:
    """What the first process's work comes to, a JSON value, for all; the others wait.

    Raises:
        OtherFailed: it failed there; there its own error is raised.
    """
    if count() == 1:
        return work()
    result: list[Any] = []
    try:
        if is_first():
            result = [work()]
    finally:  # also where it failed: nobody waits for ever
        answers = told(result)
    if not answers[0]:
        raise OtherFailed
    return result[0] if is_first() else answers[0][0]  # type: ignore[no-any-return]


def of_first(own: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The first process's tensors on the CPU, by name and one after the other, in every process."""
    facts = [[name, list(value.shape), str(value.dtype).rpartition(".")[2]] for name, value in own.items()]
    for name, shape, kind in told(facts)[0]:
        value = own[name] if is_first() else torch.empty(shape, dtype=getattr(torch, kind))
        if count() > 1:
            dist.broadcast(value, 0)
        yield name, value


def together(work: Callable[[], T]) -> T:
    """What the work of every process comes to; it has failed for all if it failed for one.

    Raises:
        OtherFailed: it failed in another process.
    """
    done = False
    try:
        result = work()
        done = True
    finally:
        all_done = all(told(done))
    if not all_done:
        raise OtherFailed
    return result


@contextmanager
def gathering(accelerator: Any) -> Iterator[None]:
    """What a library gathers or reduces inside of the block, as the only process it knows, comes from all of them."""
    if count() == 1:
        yield
        return
    names = ("gather", "gather_for_metrics", "reduce")
    accelerator.gather = accelerator.gather_for_metrics = rows_of_all
    accelerator.reduce = lambda value, reduction="sum", **_: summed(value) / (count() if reduction == "mean" else 1)
    try:
        yield
    finally:
        for name in names:
            delattr(accelerator, name)


def pass_size(rows: int) -> int:
    """Rows of a pass of one process where all together make so many."""
    return math.ceil(rows / count())
