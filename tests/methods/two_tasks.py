"""Two short tasks on the embedded model: never stopped, or stopped at the boundary and gone on with from files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clrft.base_model import default_model_path
from clrft.runner.checkpoint import read_learned, write_learned
from methods import METHODS, build_method
from methods.base import Method, TaskContext
from methods.model.config import ModelConfig
from methods.model.policy import Policy, load_policy
from methods.model.snapshots import Snapshot
from methods.settings import PLAIN, TrainConfig
from methods.training.fit import FitResult, FitSettings, fit
from methods.training.replay_memory import remembered
from methods.training.state import TrainingState
from methods.training.targets import target_inputs
from task_streams.prompt import request, target_text
from task_streams.types import TaskStream

TRAIN = TrainConfig(updates=2, prompts_per_update=4, warmup=0)


@dataclasses.dataclass
class TwoTasks:
    """What two tasks ended with."""

    policy: Policy
    method: Method
    results: list[FitResult]

    def weights(self) -> dict[str, Tensor]:
        """Trained weights at the end."""
        return {name: w.detach().clone() for name, w in self.policy.model.named_parameters() if w.requires_grad}

    def logged(self, task: int, figure: str) -> list[float | None]:
        """A figure of every update of a task."""
        return [row.get(figure) for row in self.results[task - 1].steps]


def fresh_policy(
    adapter: str = "none", dtype: str = "float32", optimizer: str = PLAIN, path: Path | None = None, **settings: Any
) -> Policy:
    """The embedded model, or a checkpoint, in float32 if nothing else is said."""
    config = ModelConfig(dtype=dtype, device="cpu", adapter=adapter, lora_rank=4, **settings)  # type: ignore[arg-type]
    return load_policy(config, str(path or default_model_path()), optimizer=optimizer)


def base_of(method: Method, policy: Policy) -> Snapshot | None:
    """The policy as it is now, where a method needs a base."""
    needs = "reference" in method.needs and not policy.has_adapter
    return policy.snapshot("base", asked_only=True) if needs else None


def learned(
    method: Method,
    policy: Policy,
    stream: TaskStream,
    index: int,
    base: Snapshot | None,
    settings: FitSettings,
    moments: dict[str, Tensor] | None = None,
    start: TrainingState | None = None,
) -> FitResult:
    """Learn a task of a stream, with the anchor and the memory that the method asks for from the second one on."""
    anchor, memory, plan = None, (), method.replay
    if index > 1:
        anchor = policy.snapshot(asked_only=True) if "anchor" in method.needs else None
        memory = remembered(stream.tasks[: index - 1], plan.items, 5) if plan else ()
    context = TaskContext(stream.tasks[index - 1], policy, anchor, seed=10 + index, memory=memory)
    torch.manual_seed(index)
    return fit(method, context, base, settings, moments, start=start)


def shaken(policy: Policy, size: float) -> None:
    """Move what is trained, by so much."""
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))


def inputs_of(policy: Policy, stream: TaskStream) -> dict[str, Tensor]:
    """Two examples of task 2 with their targets, and what TRL adds to its batches."""
    task = stream.tasks[1]
    examples = task.train[:2]
    asked, texts = [request(e, task.trained) for e in examples], [target_text(e.target) for e in examples]
    return {**target_inputs(policy, asked, texts), "use_cache": False}  # type: ignore[dict-item]


def made(learner: str, part: str | None = None, learner_settings: Any = None, **settings: Any) -> Callable[[], Method]:
    """Makes the same method each time: a learner, and a part with its settings."""

    def make() -> Method:
        config = METHODS[learner].Config(**(learner_settings or {}))
        return build_method(learner, config, [(part, METHODS[part].Config(**settings))] if part else [])

    return make


def two_tasks(
    make: Callable[[], Method],
    stream: TaskStream,
    folder: Path,
    *,
    stop: bool = False,
    adapter: str = "none",
    train: TrainConfig = TRAIN,
) -> TwoTasks:
    """Learn the first two tasks of a stream; with ``stop`` the second starts from files, with new objects."""
    policy, method, results = fresh_policy(adapter), make(), []
    base = base_of(method, policy)
    for index in (1, 2):
        if stop and index == 2:
            folder.mkdir(parents=True, exist_ok=True)
            write_learned(folder, policy, method, 1, {})
            policy, method = fresh_policy(adapter), make()
            read_learned(folder, policy, method, 1)
        results.append(learned(method, policy, stream, index, base, FitSettings(train, folder / "scratch")))
    return TwoTasks(policy, method, results)


_plain: dict[tuple[str, str], TwoTasks] = {}


def without_part(learner: str, stream: TaskStream, folder: Path, adapter: str = "none") -> TwoTasks:
    """Two tasks of a learner alone, with its defaults; run once for all tests."""
    if (learner, adapter) not in _plain:
        _plain[learner, adapter] = two_tasks(made(learner), stream, folder / "without", adapter=adapter)
    return _plain[learner, adapter]


def never_stopped(
    make: Callable[[], Method], stream: TaskStream, folder: Path, adapter: str = "none", train: TrainConfig = TRAIN
) -> TwoTasks:
    """Two tasks, which end with the same weights where the second one starts from files."""
    whole, parts = (
        two_tasks(make, stream, folder / f"stop_{stop}", stop=stop, adapter=adapter, train=train)
        for stop in (False, True)
    )
    assert_same_weights(whole, parts)
    return whole


def assert_same_weights(one: TwoTasks, other: TwoTasks) -> None:
    """Both ended with the same weights, bit by bit."""
    theirs = other.weights()
    for name, weight in one.weights().items():
        assert torch.equal(weight, theirs[name]), name


def assert_other_weights(one: TwoTasks, other: TwoTasks) -> None:
    """The two ended with different weights."""
    theirs = other.weights()
    assert any(not torch.equal(weight, theirs[name]) for name, weight in one.weights().items())
