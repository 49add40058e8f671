"""Memory of a contender: what it holds between turns, and the most that a turn needs beyond that.

Held are the bytes of its tensors, each counted once. What a turn needs is torch's own count of allocated bytes: the
peak of the caching allocator on a GPU; on a CPU the profiler's record of every allocation, in a turn of its own that no
clock is read in. Other contenders that are loaded beside it are in neither; nor is what the caching allocator keeps.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.engine.pairs import Contender

LOOKED_INTO = ("methods.", "benchmarks.", "trl.", "transformers.cache_utils", "torch.optim")


def memory_of(one: Contender, device: torch.device) -> dict[str, int | None]:
    """Bytes: held between turns, needed by a turn beyond that, and the peak, which is their sum."""
    if one.policy is None:
        return {"held_bytes": None, "turn_bytes": None, "peak_bytes": None}
    held = stored_bytes(one.held())
    needed = (on_gpu if device.type == "cuda" else on_cpu)(one.take)
    return {"held_bytes": held, "turn_bytes": needed, "peak_bytes": held + needed}


def on_gpu(take: Callable[[], object]) -> int:
    """Most bytes allocated during a turn, beyond those at its start."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    take()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def on_cpu(take: Callable[[], object]) -> int:
    """Most bytes that torch had allocated during a turn, beyond those at its start."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells when it starts, and that there is no GPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        take()
    found = recorded.profiler
    if found is None or found.kineto_results is None:
        raise RuntimeError("the profiler recorded nothing")
    changes = [one for one in found.kineto_results.events() if one.name() == "[memory]"]
    return highest(one.nbytes() for one in sorted(changes, key=lambda one: one.start_ns()))


def highest(changes: Iterable[int]) -> int:
    """The highest that a sum gets, from 0."""
    most = now = 0
    for change in changes:
        now += change
        most = max(most, now)
    return most


def reachable_tensors(root: Any) -> list[Tensor]:
    """Every tensor that is found from plain containers and objects of ours, of TRL, of caches and optimizers."""
    found: list[Tensor] = []
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            found.append(one)
        elif isinstance(one, torch.nn.Module):
            found += module_tensors(one)
        else:
            waiting += inside(one)
    return found


def inside(one: Any) -> list[Any]:
    """What an object holds, where it is of a kind that is looked into."""
    if isinstance(one, dict):
        return list(one.values())
    if isinstance(one, list | tuple | set):
        return list(one)
    if isinstance(one, type) or not type(one).__module__.startswith(LOOKED_INTO):
        return []
    slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(one, "__dict__", {}).values(), *(getattr(one, name) for name in slots if hasattr(one, name))]


def stored_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind tensors, each piece once."""
    stores = [one.untyped_storage() for one in tensors]
    return sum(one.nbytes() for one in {store.data_ptr(): store for store in stores}.values())


def module_tensors(*modules: torch.nn.Module | None) -> list[Tensor]:
    """Parameters and buffers of modules; None is left out."""
    found = [one for one in modules if one is not None]
    return [tensor for one in found for tensor in (*one.parameters(), *one.buffers())]
