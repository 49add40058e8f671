"""The anchor is read only: its weights have the same checksums after a task's training as before.

A checksum is the sum of a tensor's bits as whole numbers, modulo 2^64: any single change shows, a NaN too. It costs
one pass over the weights and no copy of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from methods.base import Method
from methods.guard import suspects
from methods.model.snapshots import AdapterSnapshot, Snapshot
from task_streams.errors import UserError

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element
CHUNK = 2**22  # elements summed at once: torch widens them to 64 bits first


@contextmanager
def anchor_unchanged(anchor: Snapshot | None, method: Method) -> Iterator[None]:
    """Refuse what the block learned if the anchor's weights have changed in it.

    Raises:
        UserError: they have; names the method and its file.
    """
    before = {} if anchor is None else anchor_checksums(anchor)
    yield
    if anchor is not None and (changed := changed_weights(before, anchor)):
        raise UserError(
            f"{suspects(method)}: the anchor's weights were changed during the task ({len(changed)} of {len(before)} "
            f"tensors, e.g. {changed[0]}); it is read only. `clrft method check` tells the hook."
        )


def changed_weights(before: dict[str, int], anchor: Snapshot) -> list[str]:
    """Names of the anchor's tensors whose checksums are not those of before."""
    now = anchor_checksums(anchor)
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


@torch.no_grad()
def anchor_checksums(anchor: Snapshot) -> dict[str, int]:
    """The checksum of each of an anchor's tensors, by name; with an adapter, of the adapter alone."""
    sums: dict[str, Tensor] = {}
    for name, weight in anchor_weights(anchor):
        bits = weight.detach().contiguous().reshape(-1).view(BITS[weight.element_size()])
        sums[name] = torch.stack([part.sum(dtype=torch.int64) for part in torch.split(bits, CHUNK)]).sum()
    return {name: int(total) for name, total in sums.items()}


def anchor_weights(anchor: Snapshot) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors that belong to an anchor; of a split one this process's parts."""
    for name, weight in anchor.model.state_dict().items():
        if not isinstance(anchor, AdapterSnapshot) or f".{anchor.name}." in f"{name}.":
            yield name, weight.to_local() if isinstance(weight, DTensor) else weight
