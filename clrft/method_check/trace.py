"""A method under observation in a real run: which hooks are called, what they read, what they change and keep.

The observed method sits behind its guard as always; its contexts are replaced by ones that note which of the things a
runner provides on demand are read, and the stream's training examples by ones that note when they are decoded.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clrft.runner.state import Run
from methods.base import LossContext, Rollouts, TaskContext
from methods.guard import GuardedMethod
from methods.training.anchor_check import anchor_checksums, changed_weights
from task_streams.types import Example, Task

# What is read of a context, and the need that provides it.
PROVIDED = {
    "anchor": "anchor",
    "actor_logps": "anchor",
    "anchor_logps": "anchor",
    "memory": "replay",
    "fisher": "fisher",
    "views": "views",  # which can show the anchor's hidden states
}
STATE_HOOKS = ("state_dict", "load_state_dict", "describe")


@dataclass(slots=True)
class Trace:
    """What was seen of one method in one run."""

    # hooks in the order of their calls, with the index of the task they belong to (0: before the first)
    calls: list[tuple[int, str]] = field(default_factory=list)
    reads: dict[str, set[str]] = field(default_factory=dict)  # for each need the hooks that read what it provides
    # hooks after which the anchor's weights were not what they were before
    mutated: list[str] = field(default_factory=list)
    # keys of earlier tasks' examples that were decoded while a later task was trained
    foreign: set[str] = field(default_factory=set)
    remembered: set[str] = field(default_factory=set)  # keys of the examples that the runner gave as memory
    # digests of the method's attributes when the last task's training began, by name
    attributes: dict[str, str] = field(default_factory=dict)
    # attributes that hold inputs of an earlier task, when a later one began
    kept: list[str] = field(default_factory=list)


class Observer:
    """Fills a trace while a run goes on.

    Args:
        state: a prepared run; its stream's examples are replaced by watched ones.
        method: whose hooks are watched: the run's method, or one of its parts.
        trace: is filled.
    """

    def __init__(self, state: Run, method: GuardedMethod, trace: Trace) -> None:
        self.state = state
        self.method = method.inner
        self.trace = trace
        self.task = 0
        self.training = False
        self.inputs: set[str] = set()
        tasks = [
            replace(
                task, train=tuple(replace(one, media=partial(self._decoded, task.index, one)) for one in task.train)
            )
            for task in state.stream.tasks
        ]
        state.stream = replace(state.stream, tasks=tuple(tasks))
        method.observe = self._observed

    def _observed(self, hook: str, call: Callable[..., Any], arguments: list[Any]) -> Any:
        trace = self.trace
        if hook == "before_task":
            context: TaskContext = arguments[0]
            self.task, self.training = context.task.index, True
            trace.remembered |= {example.key for example in context.memory}
            held = [one for name, value in vars(self.method).items() for one in tensors_in(name, value)]
            trace.kept += [path for path, tensor in held if tensor.dim() > 1 and digest(tensor) in self.inputs]
        if hook == "loss_terms":
            values: Mapping[str, Any] = arguments[0].inputs
            self.inputs |= {digest(value) for value in values.values() if isinstance(value, Tensor) and value.dim() > 1}
        trace.calls.append((self.task, hook))
        anchor = self.state.anchor if hook not in STATE_HOOKS else None
        before = {} if anchor is None else anchor_checksums(anchor)
        records = (TaskContext, LossContext, Rollouts)
        result = call(*(noticing(one, hook, trace) if isinstance(one, records) else one for one in arguments))
        if anchor is not None and changed_weights(before, anchor):
            trace.mutated.append(hook)
        if hook == "before_task":
            own = {name: digest(value) for name, value in vars(self.method).items() if name != "config"}
            trace.attributes = {name: found for name, found in own.items() if found}  # those that can be compared
        if hook == "after_task":
            self.training = False
        return result

    def _decoded(self, task: int, example: Example) -> Any:
        """What a training example shows; noted if a later task than its own is being trained."""
        if self.training and task < self.task:
            self.trace.foreign.add(example.key)
        return example.media()


def noticing(record: Any, hook: str, trace: Trace) -> Any:
    """A copy of a frozen record; which of the things provided on demand a hook reads of it comes into a trace."""
    kind = type(record)

    def read(self: Any, name: str) -> Any:
        if name in PROVIDED and sys._getframe(1).f_globals.get("__name__") != "dataclasses":  # replace() reads all
            trace.reads.setdefault(PROVIDED[name], set()).add(hook)
        return object.__getattribute__(self, name)

    watched = type(kind.__name__, (kind,), {"__getattribute__": read, "__slots__": ()})
    return watched(**{one.name: getattr(record, one.name) for one in dataclasses.fields(record)})


def digest(value: Any) -> str:
    """SHA-256 of a plain value: numbers, texts, tensors, and collections and dataclasses of them; else empty."""
    parts = _plain(value)
    return "" if parts is None else hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A value as JSON, tensors by their bytes; None where something in it is of another kind."""
    if isinstance(value, Tensor):
        held = value.detach().cpu().contiguous()
        raw = held.reshape(-1).view(torch.uint8).numpy().tobytes()
        return ["tensor", list(held.shape), str(held.dtype), hashlib.sha256(raw).hexdigest()]
    if value is None or isinstance(value, bool | int | float | str):
        return [type(value).__name__, repr(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Example | Task):
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        value = [item for key, one in sorted(value.items(), key=lambda pair: str(pair[0])) for item in (str(key), one)]
    if not isinstance(value, list | tuple):
        return None
    items = [_plain(one) for one in value]
    return None if any(item is None for item in items) else items


def tensors_in(path: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a value, with its path."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from tensors_in(f"{path}[{key!r}]", one)
    elif isinstance(value, list | tuple | set):
        for index, one in enumerate(value):
            yield from tensors_in(f"{path}[{index}]", one)
