"""AdamW for weights in bfloat16 that keeps what they have no room for, and a measure of what reached the weights.

``KahanAdamW`` is the compensated AdamW of torch-optimi: the part of an update that a weight is too coarse to take waits
in ``kahan_comp`` until enough has come together (Kahan summation, as in the ``AnyPrecisionAdamW`` that the trainer of
RaPO's released code has). What a training has taught is weight and compensation together, so the compensation crosses a
task boundary with the weights, whatever becomes of the moments.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from optimi import adamw
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from methods.distributed import ranks
from methods.distributed.unsharded import COUNT

COMPENSATION = "kahan_comp"  # kind of an optimizer's state, beside exp_avg, exp_avg_sq and step
MOMENTS = ("exp_avg", "exp_avg_sq", COMPENSATION)  # kinds that are as large as the weight
SAMPLED = 1024  # numbers of each weight that are looked at

Moved = tuple[Tensor, Mapping[str, Tensor], Mapping[str, Any]]  # a weight, the optimizer's state of it, its group


class KahanAdamW(Optimizer):
    """AdamW with a compensation beside each weight; state, groups and settings are those of torch's AdamW."""

    def __init__(self, groups: Iterable[Mapping[str, Any]]) -> None:
        names = ("params", "lr", "betas", "eps", "weight_decay")
        super().__init__([{name: group[name] for name in names} for group in groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make an update of the gradients as they are."""
        for group in self.param_groups:
            # weights and their states by updates so far: one number, but for weights that updates left out
            by_count: dict[int, list[tuple[Any, dict[str, Tensor]]]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    state = self.state[weight]  # what it has of a task before, its compensation at least, stays
                    state.setdefault(COUNT, torch.tensor(0.0))
                    for kind in MOMENTS:
                        if kind not in state:
                            state[kind] = torch.zeros_like(weight)
                    by_count.setdefault(int(state[COUNT]), []).append((weight, state))
            for count, due in by_count.items():
                adamw(
                    [_local(weight) for weight, _ in due],
                    [_local(weight.grad) for weight, _ in due],
                    *([_local(state[kind]) for _, state in due] for kind in MOMENTS),
                    lr=float(group["lr"]),
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    step=torch.tensor(count),
                    kahan_sum=True,
                    foreach=due[0][0].is_cuda,
                )
                for _, state in due:
                    state[COUNT] = torch.tensor(float(count + 1))


def _local(value: Any) -> Tensor:
    """This process's part of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


@dataclass(slots=True)
class AppliedShare:
    """The share of each update that reached the weights: ``<w' - w, u> / <u, u>`` with AdamW's update u in float64.

    1 where nothing is lost; a compensation counts as reached. Looked at are up to ``SAMPLED`` numbers of each weight,
    evenly spaced; of split weights those of every process.
    """

    moved: Callable[[], Sequence[Moved]]  # the weights that the update at hand moves
    before: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def begin(self) -> None:
        """Look at the weights, right before an update."""
        self.before = [held(weight, state) for weight, state, _ in self.moved()]

    @torch.no_grad()
    def end(self) -> float | None:
        """The share, right after the update; None where no gradient had a part in it (rewards that were all equal)."""
        sums = []
        for before, (weight, state, group) in zip(self.before, self.moved(), strict=True):
            # what AdamW meant to add to these numbers, from its state after the step
            mean, square = sample(state["exp_avg"]), sample(state["exp_avg_sq"])
            if COMPENSATION not in state:  # torch-optimi's moments are free of their bias
                first, second = (1 - beta ** float(state[COUNT]) for beta in group["betas"])
                mean, square = mean / first, square / second
            direction = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * before
            update = -float(group["lr"]) * direction
            sums.append(torch.stack([update @ (held(weight, state) - before), update @ update, mean @ mean]))
        self.before = []
        along, meant, learned = ranks.all_reduce_sum(torch.stack(sums).sum(dim=0).cpu()).tolist()
        return along / meant if meant > 0 and learned > 0 else None


def held(weight: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Some numbers of a weight, its compensation added, in float64, [n]."""
    values = sample(weight)
    return values + sample(state[COMPENSATION]) if COMPENSATION in state else values


def sample(tensor: Tensor) -> Tensor:
    """Up to ``SAMPLED`` numbers of this process's part of a tensor, evenly spaced, in float64, [n]."""
    flat = _local(tensor.detach()).reshape(-1)
    return flat[:: max(1, math.ceil(flat.numel() / SAMPLED))].double()
