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
    return min(int(psutil.virtual_memory().total), *group_memory()[:1])


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device, what torch has put aside there included."""
    if device.type == "cuda":
        aside = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + aside
    return min(int(psutil.virtual_memory().available), *group_memory()[1:])


def group_memory(root: Path = GROUP) -> tuple[int, ...]:
    """The control group's limit, in a container say, and what is left of it; nothing without one."""
    for limit, used, stat in FILES:
        if (root / limit).is_file():
            most = (root / limit).read_text().strip()
            if most == "max":
                break
            facts = dict(line.split(maxsplit=1) for line in (root / stat).read_text().splitlines())
            droppable = next((int(facts[name]) for name in DROPPABLE if name in facts), 0)
            return int(most), max(0, int(most) - int((root / used).read_text()) + droppable)
    return ()
