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
from task_streams.types import Example, Task

if TYPE_CHECKING:
    from methods.policy import Policy, Snapshot

Family = Literal["frozen", "supervised", "reinforcement", "part"]
Need = Literal["anchor", "reference", "fisher", "replay"]
StepLog = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a method that replays asks for.

    Attributes:
        items: examples of all earlier tasks together that are kept.
        share: share of them in the batches, on average, in (0, 1).
    """

    items: int
    share: float


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What surrounds a task: given to ``before_task`` and ``after_task``.

    Attributes:
        task: the task; for joint methods the union of all tasks.
        policy: the model that is trained, its processor and device.
        anchor: the policy as the previous task left it; None in the first task or when not needed.
        seed: seed of this task, derived from the run's seed.
        think: prompts ask for a thought.
        memory: examples of earlier tasks; empty unless ``replay`` is needed.
        fisher: diagonal Fisher information by parameter name after training; None before, or unless needed.
    """

    task: Task
    policy: "Policy"
    anchor: "Snapshot | None"
    seed: int
    think: bool = True
    memory: tuple[Example, ...] = ()
    fisher: Mapping[str, Tensor] | None = None


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
    """One micro-batch, for ``loss_terms``.

    Attributes:
        model: the trained model.
        inputs: the tensors that it sees; supervised: arguments of its forward call, ``labels`` among them.
        task_index: index of the task that is being learned, from 1.
        anchor: the previous task's snapshot; None in the first task or when not needed.
        logits: supervised: what the model answered to ``inputs``, with gradients, [B, L, V]; else None.
        log: records a figure of this step, ``log(name, value)``.
    """

    model: torch.nn.Module
    inputs: Mapping[str, Any]
    task_index: int
    anchor: "Snapshot | None"
    logits: Tensor | None
    log: StepLog = field(repr=False)


class Method:
    """Base of every method: no hook does anything, advantages are centred and scaled by group (GRPO).

    Class attributes:
        name: key in ``METHODS`` and in run folders.
        family: ``frozen`` (nothing is trained), ``supervised`` (cross-entropy on targets), ``reinforcement``
            (group rollouts and rewards), or ``part`` (joins a method that learns: a penalty, a memory, a shaper).
        joins: families that a part can join.
        Config: frozen dataclass of the method's settings with the paper's defaults. A supervised method's has
            ``thought`` (as ``SftConfig``), a reinforcement method's the fields of ``GrpoConfig``.
        joint: train once on the union of all tasks (an upper bound) instead of one after the other.
        source: paper id or one line that says where the method comes from.
    """

    name: str
    family: Family
    Config: ClassVar[type]
    joins: ClassVar[frozenset[Family]] = frozenset({"supervised", "reinforcement"})
    joint: bool = False
    source: str = ""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def needs(self) -> frozenset[Need]:
        """What the runner must provide.

        ``anchor``: the previous task's snapshot; ``reference``: the base, for the KL term; ``fisher``: the diagonal
        Fisher information after each task; ``replay``: examples of earlier tasks, mixed into the batches.
        """
        return frozenset()

    @property
    def fisher_items(self) -> int:
        """Training examples from which the Fisher information is estimated, if it is needed."""
        return 64

    @property
    def replay(self) -> ReplayPlan | None:
        """What is replayed, if it is needed."""
        return None

    def before_task(self, context: TaskContext) -> None:
        """Called before the first update of a task."""

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        """Extra differentiable scalars by name, added to the loss of every micro-batch."""
        return {}

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Rewards from which the advantages are made, [B*G] to [B*G].

        ``rewards`` is the task reward, or what the parts before this one made of it.
        """
        return rewards

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
