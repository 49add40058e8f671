"""The method contract: one class with optional hooks, a typed config, and what it needs.

Every method of the suite ships through this contract and through nothing else. A method never sees a
trainer: hooks receive tensors and small frozen records, and the runner provides what ``needs`` declares.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from methods.advantage import group_advantages
from task_streams.types import Task

if TYPE_CHECKING:
    from methods.policy import Policy, Snapshot

Family = Literal["frozen", "supervised", "reinforcement"]
Need = Literal["anchor", "reference"]
StepLog = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What surrounds a task: given to ``before_task`` and ``after_task``.

    Attributes:
        task: the task; for joint methods the union of all tasks.
        policy: the model that is trained, its processor and device.
        anchor: the policy as the previous task left it; None in the first task or when not needed.
        seed: seed of this task, derived from the run's seed.
    """

    task: Task
    policy: "Policy"
    anchor: "Snapshot | None"
    seed: int


@dataclass(frozen=True, slots=True)
class Rollouts:
    """All completions of one optimizer step, gathered over processes; groups are adjacent.

    B prompts with G completions each, at most L tokens long.

    Attributes:
        task_index: index of the task that is being learned, from 1.
        group_size: G.
        components: unshaped rewards by name, each [B*G].
        mask: 1 for generated tokens, end of sequence included, [B*G, L].
        actor_logps: log-probabilities of the tokens under the policy, [B*G, L]; None where there is no anchor.
        anchor_logps: the same under the previous task's snapshot; None in the first task and unless needed.
        keys: item key of every completion, B*G of them.
        log: records a figure of this step, ``log(name, value)``.
    """

    task_index: int
    group_size: int
    components: Mapping[str, Tensor]
    mask: Tensor
    actor_logps: Tensor | None
    anchor_logps: Tensor | None
    keys: tuple[str, ...]
    log: StepLog = field(repr=False)

    @property
    def task_reward(self) -> Tensor:
        """Sum of the unshaped reward components, [B*G]."""
        return torch.stack(list(self.components.values())).sum(dim=0)


@dataclass(frozen=True, slots=True)
class LossContext:
    """One micro-batch, for ``loss_terms``: the trained model and the tensors it is about to see."""

    model: torch.nn.Module
    inputs: Mapping[str, Any]
    task_index: int
    log: StepLog = field(repr=False)


class Method:
    """Base of every method: no hook does anything, advantages are centred and scaled by group (GRPO).

    Class attributes:
        name: key in ``METHODS`` and in run folders.
        family: ``frozen`` (nothing is trained), ``supervised`` (cross-entropy on targets) or
            ``reinforcement`` (group rollouts and rewards).
        Config: frozen dataclass of the method's settings with the paper's defaults. A supervised method's has
            ``thought`` (as ``SftConfig``), a reinforcement method's the fields of ``GrpoConfig``.
        joint: train once on the union of all tasks (an upper bound) instead of one after the other.
        source: paper id or one line that says where the method comes from.
    """

    name: ClassVar[str]
    family: ClassVar[Family]
    Config: ClassVar[type]
    joint: ClassVar[bool] = False
    source: ClassVar[str] = ""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def needs(self) -> frozenset[Need]:
        """What the runner must provide: ``anchor`` (previous task's snapshot), ``reference`` (the base)."""
        return frozenset()

    def before_task(self, context: TaskContext) -> None:
        """Called before the first update of a task."""

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        """Extra differentiable scalars by name, added to the loss of every micro-batch."""
        return {}

    def shape_rewards(self, rollouts: Rollouts) -> Tensor:
        """Rewards from which the advantages are made, [B*G]; the task reward unless overridden."""
        return rollouts.task_reward

    def normalize_advantages(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Advantages [B*G] of shaped rewards [B*G]; called once per optimizer step."""
        return group_advantages(rewards, rollouts.group_size)

    def after_step(self, task_index: int, step: int) -> None:
        """Called after every optimizer step; ``step`` counts from 1 within the task."""

    def after_task(self, context: TaskContext) -> None:
        """Called after the last update of a task, before it is evaluated."""

    def state_dict(self) -> dict[str, Any]:
        """State that must survive a restart: tensors and JSON values, by name."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        if state:
            raise ValueError(f"method {self.name!r} has no state, got {sorted(state)}")

    def describe(self) -> dict[str, Any]:
        """Facts worth recording beside the config, e.g. the values that a preset stands for."""
        return {}
