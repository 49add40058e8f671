"""The rows of a batch that a process learns from, and the weight of their loss in the loss of the whole batch.

Losses are means over rows or over tokens. Each process computes the mean over its own rows; weighted by its share of
the rows (or tokens), the sum over processes is the mean over the batch. So one batch gives one update, however many
processes share it. With one process every weight is 1 and the batch is unchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.costs.meter import IGNORED
from methods.distributed import ranks

SHARE = "share"  # of a supervised batch: what part of the micro-batch's rows this process has
OVER_TOKENS = ("bnpo",)  # TRL's losses that are means over the batch's tokens
OVER_UPDATE = ("cispo", "dapo", "vespo")  # sums over the count of all the update's tokens, which is known to all


def own_part(
    inputs: Mapping[str, Any], sampled: slice | None, loss_type: str
) -> tuple[dict[str, Any], float, float | Tensor]:
    """The rows of a scored micro-batch, in TRL's layout, that this process learns from.

    ``sampled`` are the rollouts that this process has sampled, from which it learns; None: from any, equally many.
    Returns them, their share of the micro-batch's rows, and the weight of their policy loss.
    """
    if ranks.world_size() == 1:
        return dict(inputs), 1.0, 1.0
    rows = len(inputs["completion_ids"])
    rollouts = inputs["rollout"]
    if sampled is None:
        chosen = torch.arange(rows, device=rollouts.device)[ranks.share(rows)]
    else:
        chosen = torch.nonzero((rollouts >= sampled.start) & (rollouts < sampled.stop))[:, 0]
    by_row = {
        name for name, value in inputs.items() if isinstance(value, Tensor) and value.dim() and len(value) == rows
    }
    own = {name: value[chosen] if name in by_row else value for name, value in inputs.items()}
    share = len(chosen) / rows
    if loss_type in OVER_UPDATE:
        return own, share, 1.0
    if loss_type in OVER_TOKENS:
        return own, share, own["completion_mask"].sum() / inputs["completion_mask"].sum().clamp(min=1)
    return own, share, share


@dataclass(frozen=True, slots=True)
class OwnRows:
    """Collates the rows of a supervised micro-batch that this process learns from.

    A process that has none of a small batch, the last of an epoch, gets a row from which nothing is learned.
    """

    collate: Callable[[list[Any]], dict[str, Any]]  # makes a batch of rows
    rank: int
    world_size: int

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """The batch, with the process's share of the rows."""
        own = list(rows[len(rows) * self.rank // self.world_size : len(rows) * (self.rank + 1) // self.world_size])
        batch = self.collate(own or list(rows[:1]))
        if not own:
            batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        batch[SHARE] = torch.tensor(len(own) / len(rows), dtype=torch.float64)
        return batch
