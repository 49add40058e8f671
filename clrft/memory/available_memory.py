"""Memory that a process can still get: free on its GPU, or in the machine within the limits of its control group."""

from __future__ import annotations

from pathlib import Path

import psutil

from methods.lazy import torch

GROUP = Path("/sys/fs/cgroup")
# Limit, use, and what of the use can be dropped, by version of control groups.
FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
DROPPABLE = ("total_inactive_file", "inactive_file")


def capacity_bytes(device: torch.device) -> int:
    """Bytes that a device has in all, for this process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    total, limit = int(psutil.virtual_memory().total), group_limit()
    return total if limit is None else min(total, limit)


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device, what torch has put aside there included."""
    if device.type == "cuda":
        aside = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + aside
    available, left = int(psutil.virtual_memory().available), free_in_group()
    return available if left is None else min(available, left)


def group_limit(root: Path = GROUP) -> int | None:
    """The control group's limit, in a container say; None without one."""
    file = next((root / limit for limit, *_ in FILES if (root / limit).is_file()), None)
    most = "max" if file is None else file.read_text().strip()
    return None if most == "max" else int(most)


def free_in_group(root: Path = GROUP) -> int | None:
    """What is left of the control group's limit; None without a limit."""
    most = group_limit(root)
    for _, used, stat in FILES:
        if most is not None and (root / used).is_file() and (root / stat).is_file():
            facts = dict(line.split(maxsplit=1) for line in (root / stat).read_text().splitlines())
            droppable = next((int(facts[name]) for name in DROPPABLE if name in facts), 0)
            return max(0, most - int((root / used).read_text()) + droppable)
    return None
