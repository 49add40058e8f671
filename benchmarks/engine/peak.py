"""What the device can do at most, measured: operations a second of a large product, bytes a second of a large copy."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.engine.pairs import synchronize

SIDES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024, 2048)}  # of square matrices
BYTES = {"cuda": 2**31, "cpu": 2**27}  # of what is copied
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Peak:
    """The best that was measured.

    Attributes:
        flops: floating point operations a second, of a product of matrices in the dtype.
        bandwidth: bytes a second, read and written together.
    """

    flops: float
    bandwidth: float


def peak_of(device: torch.device, dtype: torch.dtype) -> Peak:
    """The device's peak in a dtype, the best of several sizes and repeats."""
    return Peak(max(flops(device, dtype, side) for side in SIDES[device.type]), bandwidth(device))


def flops(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations a second of a product of two square matrices."""
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    result = torch.empty_like(first)
    return 2 * side**3 / best(lambda: torch.mm(first, second, out=result), device)


def bandwidth(device: torch.device) -> float:
    """Bytes a second, the better of a copy (read and written) and a sum (read only)."""
    source = torch.ones(BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / best(lambda: target.copy_(source), device)
    return max(copied, source.nbytes / best(lambda: source.sum(), device))


def best(work: Callable[[], object], device: torch.device) -> float:
    """Fewest seconds of some repeats, after one that is not counted."""
    work()
    seconds = []
    for _ in range(REPEATS):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
