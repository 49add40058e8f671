"""A training between two of its updates: all it takes to go on as if it had never stopped, as tensors and JSON values.

Weights, the optimizer's moments and rates, the schedule, random states, the method's own state and the figures so far.
What ``before_task`` and the choice of examples make is not in it: they are made again from the weights that the task
began with, and then the state is put over them. Deliberately absent: files (``clrft/runner/partial_checkpoint.py``),
pickle, and the generator of the order of examples, which goes by the seed and the number of passes.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Method
from methods.distributed import ranks
from methods.distributed.sharding import split_of
from methods.distributed.unsharded import whole_tensor
from methods.model.weights import trained_weights

WEIGHTS, MOMENTS, RANDOM, METHOD = "weights", "moments", "random", "method"
SEPARATOR = ":"  # between one of these and a name
KIND = "|"  # between a weight's name and the kind of a moment


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a task's training stands."""

    step: int  # updates that are done
    tensors: Mapping[str, Tensor]  # on the CPU, by kind and name
    values: Mapping[str, Any]  # JSON values by name

    def of(self, kind: str) -> dict[str, Tensor]:
        """Tensors of one kind by their own names."""
        prefix = kind + SEPARATOR
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a training's state is kept while it goes on; of several processes rank 0 keeps it."""

    every: int  # updates between two states
    keep: Callable[[TrainingState], None]  # called with each state; must not take long


def training_state(
    step: int, model: nn.Module, optimizer: Any, schedule: Any, method: Method, rows: Sequence[Mapping[str, float]]
) -> TrainingState:
    """The state of a training after ``step`` updates; everything is copied, so that training can go on meanwhile.

    Of a split model all processes ask for it, and the first one's has the tensors.
    """
    own = method.state_dict()
    random_tensors, random_values = random_states()
    sources: dict[str, Iterable[tuple[str, Tensor]]] = {
        WEIGHTS: ((name, whole_tensor(weight).detach()) for name, weight in trained_weights(model)),
        MOMENTS: moments_of(model, optimizer),
        RANDOM: random_tensors.items(),
        METHOD: tensors_apart(own).items(),
    }
    tensors = {}
    for kind, named in sources.items():
        for name, value in named:  # put together one after the other, in all processes
            if ranks.is_rank0():
                tensors[f"{kind}{SEPARATOR}{name}"] = value.to("cpu", copy=True)
    values = {
        "rates": [group["lr"] for group in optimizer.param_groups],
        "schedule": {name: value for name, value in schedule.state_dict().items() if name != "lr_lambdas"},
        "random": random_values,
        "method": {name: value for name, value in own.items() if not isinstance(value, Tensor)},
        "method_names": list(own),
        "rows": [dict(row) for row in rows],
    }
    return TrainingState(step, tensors, values)


def tensors_apart(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a method's state by name, each contiguous and with memory of its own, as a file keeps them."""
    found: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in state.items():
        if isinstance(value, Tensor):
            own = value.detach().contiguous()
            storage = own.untyped_storage()
            if storage.data_ptr() in memory or storage.nbytes() != own.nbytes:
                own = own.clone()
            memory.add(own.untyped_storage().data_ptr())
            found[name] = own
    return found


def in_order(state: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """A method's state in the order in which the method gave it; as it is where that was not kept."""
    return {name: state[name] for name in names or state}


def moments_of(model: nn.Module, optimizer: Any, kinds: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Tensors of AdamW's state by weight and kind, those of a split model put together; ``kinds``: of these alone."""
    split = split_of(model)
    for name, weight in model.named_parameters():
        for kind, value in split.moments(weight, optimizer).items():
            if kinds is None or kind in kinds:
                yield f"{name}{KIND}{kind}", value


def put_moments(moments: Iterable[tuple[str, Tensor]], model: nn.Module, optimizer: Any) -> None:
    """Give an optimizer the tensors that ``moments_of`` named."""
    split, weights = split_of(model), dict(model.named_parameters())
    for key, value in moments:
        name, _, kind = key.rpartition(KIND)
        split.put_moments(weights[name], {kind: value}, optimizer)


def random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States of every generator that training draws from, as tensors and as JSON values."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda{i}": one for i, one in enumerate(torch.cuda.get_rng_state_all())}
    kind, keys, *rest = np.random.get_state()
    version, words, gauss = random.getstate()
    return tensors, {"numpy": [kind, [int(key) for key in keys], *rest], "python": [version, list(words), gauss]}


def put_random(state: TrainingState) -> None:
    """Set every generator to its state."""
    tensors, values = state.of(RANDOM), state.values["random"]
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensors[f"cuda{i}"] for i in range(torch.cuda.device_count())])
    kind, keys, *rest = values["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
