"""``clrft run`` with the bytes counted that this process gets from the others for gradients and weights.

Torch's collectives are counted where they are called, by the bytes that an exchange among N processes takes at least:
of what is gathered or reduced and scattered (N - 1) / N, of a sum that all get twice that. The sum of small numbers
(losses, counts) is among them. Writes one number into the folder that COUNTED_RUN names.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from clrft.cli.main import main

# Name, place of the tensor whose bytes count, how often.
COUNTED: dict[str, tuple[int, int]] = {
    "all_gather_into_tensor": (0, 1),  # what comes out
    "reduce_scatter_tensor": (1, 1),  # what goes in
    "all_reduce": (0, 2),
}
NAMES = {"all_gather_into_tensor": "output_tensor", "reduce_scatter_tensor": "input", "all_reduce": "tensor"}


def counting(total: list[float]) -> None:
    """Put counters around torch's collectives."""
    for name, (place, times) in COUNTED.items():
        setattr(dist, name, counted(getattr(dist, name), NAMES[name], place, times, total))


def counted(call: Callable[..., Any], word: str, place: int, times: int, total: list[float]) -> Callable[..., Any]:
    """A collective that is counted."""

    def collective(*arguments: Any, **named: Any) -> Any:
        tensor = arguments[place] if len(arguments) > place else named[word]
        count = dist.get_world_size()
        total[0] += times * (count - 1) / count * tensor.numel() * tensor.element_size()
        return call(*arguments, **named)

    return collective


def run() -> int:
    """The run, and the bytes into their file."""
    total = [0.0]
    place = os.environ.get("RANK", "0")
    counting(total)
    code = main()
    (Path(os.environ["COUNTED_RUN"]) / f"{place}.json").write_text(json.dumps(total[0]))
    return code


if __name__ == "__main__":
    sys.exit(run())
