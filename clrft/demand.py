"""What a cell asks of the node that runs it: CPUs, GPUs and memory, by the estimate of its settings.

Deliberately absent: the memory of a GPU, which a cell is refused for on its node, before it trains
(``clrft/preflight.py``), and the machine's memory of a cell on a GPU.
"""

from dataclasses import dataclass
from typing import Any

import torch

from clrft.base import default_model_path
from clrft.config import RunConfig
from clrft.estimate import estimate, gib, longest_allowed
from methods.sizes import sizes_of_checkpoint

LIBRARIES = 2**29  # bytes of a process that holds Python, torch and the rest, and no model


@dataclass(frozen=True, slots=True)
class Demand:
    """What a cell asks for.

    Attributes:
        cpus: cores, one for each of its threads.
        gpus: 0 or 1.
        memory: of the machine, bytes; 0 where no estimate tells it.
    """

    cpus: int
    gpus: int
    memory: int

    def __str__(self) -> str:
        return f"{self.cpus} CPUs, {self.gpus} GPUs and {gib(self.memory)} GiB of memory"

    def fits(self, resources: dict[str, Any]) -> bool:
        """Whether a node that has nothing else to do can run it; by the node's resources as Ray counts them."""
        has = (resources.get(name, 0.0) for name in ("CPU", "GPU", "memory"))
        return all(asked <= there for asked, there in zip((self.cpus, self.gpus, self.memory), has, strict=True))


def demand_of(config: RunConfig, threads: int, gpus: bool) -> Demand:
    """What a cell asks for.

    Args:
        config: the cell.
        threads: CPU threads that it works with.
        gpus: whether there are GPUs to be had, which ``model.device=auto`` takes.
    """
    on_gpu = config.model.device == "cuda" or (config.model.device == "auto" and gpus)
    if on_gpu or not config.run.check_memory:
        return Demand(threads, int(on_gpu), 0)
    try:
        sizes = sizes_of_checkpoint(config.model.path or str(default_model_path()), config.model.lora_targets)
    except OSError:  # the checkpoint's config is not on this machine, but may be on the nodes
        sizes = None
    if sizes is None:
        return Demand(threads, 0, 0)
    found = estimate(config, sizes, torch.device("cpu"), longest_allowed(config, sizes))
    return Demand(threads, 0, found.peak.total + LIBRARIES)
