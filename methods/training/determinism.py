"""Training that sums in the same order every time: same seed, same machine, same versions, same weights.

Torch's default CPU kernels for indexed sums (the backward of a repeated prefix) add from several threads in
changing order, which shows as differences of 1e-8 a step.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS_SETTING = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_DETERMINISTIC = ":4096:8"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic kernels inside of the block where ``wanted``; the setting before is restored after it.

    On a GPU an operation that has no such kernel warns and runs; on a CPU all that is used has one.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(CUBLAS_SETTING, CUBLAS_DETERMINISTIC)
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
