"""The method contract: one class with optional hooks, a typed config, and what it needs.

Every method of the suite ships through this contract and through nothing else. A method never sees a
trainer: hooks receive tensors and small frozen records, and the runner provides what ``needs`` declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from methods.advantage import group_advantages
from methods.costs.meter import IGNORED, meter_of
from methods.lazy import Tensor, torch
from task_streams.errors import unknown_name
from task_streams.prompt import THOUGHTS
from task_streams.prompt_style import SUITE, PromptStyle
from task_streams.types import Example, Target, Task

if TYPE_CHECKING:
    from methods.model.policy import Policy
    from methods.model.snapshots import Snapshot
    from methods.training.views import StepViews

Family = Literal["frozen", "supervised", "reinforcement", "part"]
Need = Literal["anchor", "reference", "fisher", "replay"]
KlTarget = Literal["base", "anchor"]
AnchorKind = Literal["previous", "average", "first", "base"]
Whose = Literal["policy", "anchor"]
StepLog = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a method that replays asks for."""

    items: int  # examples of all earlier tasks together that are kept
    share: float  # share of them in the batches, on average, in [0, 1); 0: the method uses the memory by itself


@dataclass(frozen=True, slots=True)
class AnchorRule:
    """Which policy the anchor is, from the second task on. The first task has none.

    Raises:
        ValueError: no such kind, or a momentum out of range.
    """

    # ``previous``: the policy as the task before left it; ``first``: as the first task left it; ``base``: as it was
    # before any training; ``average``: the moving average ``a <- m a + (1 - m) theta`` of the policies that the tasks
    # left, beginning with the first task's
    kind: AnchorKind = "previous"
    momentum: float = 0.9  # m of the average, in [0, 1); without effect otherwise

    def __post_init__(self) -> None:
        if self.kind not in get_args(AnchorKind):
            raise ValueError(unknown_name("anchor", str(self.kind), get_args(AnchorKind)))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: got {self.momentum!r}, expected a number in [0, 1).")

    def __str__(self) -> str:
        return f"average (momentum {self.momentum:g})" if self.kind == "average" else self.kind

    def told_by_policy(self, task: int) -> bool:
        """Whether the weights that a task left, or the base, tell the anchor of the task after it."""
        return self.kind in ("previous", "base") or task < 2


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What surrounds a task: given to ``before_task`` and ``after_task``."""

    task: Task  # the task; for joint methods the union of all tasks
    policy: Policy  # the model that is trained, its processor and device
    anchor: Snapshot | None  # the frozen policy that ``anchor_rule`` names; None in the first task or when not needed
    seed: int  # seed of this task, derived from the run's seed
    memory: tuple[Example, ...] = ()  # examples of earlier tasks; empty unless ``replay`` is needed
    # diagonal Fisher information by parameter name after training; None before, or unless needed
    fisher: Mapping[str, Tensor] | None = None
    max_completion_tokens: int = 24  # longest completion that training samples
    prompts_per_update: int = 8  # examples per optimizer step
    thought: str = THOUGHTS[0]  # wording of the thought in supervised targets

    @property
    def style(self) -> PromptStyle:
        """The words in which the task asks."""
        return self.task.style


@dataclass(frozen=True, slots=True)
class Rollouts:
    """All completions of one optimizer step, gathered over processes; groups are adjacent.

    B prompts with G completions each, at most L tokens long.
    """

    task_index: int  # index of the task that is being learned, from 1
    group_size: int  # G
    components: Mapping[str, Tensor]  # unshaped rewards by name, each [B*G]
    mask: Tensor  # 1 for generated tokens, end of sequence included, [B*G, L]
    # log-probabilities of the tokens under the policy, [B*G, L]; None where there is no anchor
    actor_logps: Tensor | None
    anchor_logps: Tensor | None  # the same under the previous task's snapshot; None in the first task and unless needed
    keys: tuple[str, ...]  # item key of every completion, B*G of them
    log: StepLog = field(repr=False)  # records a figure of this step, ``log(name, value)``
    completions: tuple[str, ...] = field(default=(), repr=False)  # text of every completion, B*G of them
    targets: tuple[Target, ...] = field(default=(), repr=False)  # what is right for every completion, B*G of them
    labels: tuple[str, ...] = ()  # classes that the prompts listed
    style: PromptStyle = SUITE  # the words in which was asked
    # what models say about the completions, computed when it is asked for; None in rollouts made by hand
    views: StepViews | None = field(default=None, repr=False)

    @property
    def task_reward(self) -> Tensor:
        """Sum of the unshaped reward components, [B*G]."""
        return torch.stack(list(self.components.values())).sum(dim=0)


@dataclass(frozen=True, slots=True)
class LossContext:
    """One micro-batch, for ``loss_terms``."""

    model: torch.nn.Module  # the trained model
    # the tensors that it sees; supervised: arguments of its forward call, ``labels`` among them; else tokens, masks and
    # advantages of the rollouts, and ``rollout``, their places among those that were scored last, [n]; without images:
    # these are carried beside TRL's batch
    inputs: Mapping[str, Any]
    task_index: int  # index of the task that is being learned, from 1
    anchor: Snapshot | None  # the previous task's snapshot; None in the first task or when not needed
    log: StepLog = field(repr=False)  # records a figure of this step, ``log(name, value)``

    @property
    def logits(self) -> Tensor:
        """What the model answers to supervised ``inputs``, with gradients, [B, L, V]; a forward pass of its own.

        The trainer's own pass goes from hidden states to the loss without making logits.
        """
        arguments = {name: value for name, value in self.inputs.items() if name != "labels"}
        meter_of(self.model).completions((self.inputs["labels"][:, 1:] != IGNORED).sum())
        return self.model(**arguments, use_cache=False).logits  # type: ignore[no-any-return]


class Method:
    """Base of every method: no hook does anything, advantages are centred and scaled by group (GRPO).

    Class attributes:
        name: key in ``METHODS`` and in run folders.
        family: ``frozen`` (nothing is trained), ``supervised`` (cross-entropy on targets), ``reinforcement``
            (group rollouts and rewards), or ``part`` (joins a method that learns: a penalty, a memory, a shaper).
        joins: families that a part can join.
        needs_with: needs that a setting asks for, with the setting's name: there is none while it is 0 or false.
        Config: frozen dataclass of the method's settings with the paper's defaults. A supervised method's has
            ``thought`` (as ``SftConfig``), a reinforcement method's the fields of ``GrpoConfig``.
        joint: train once on the union of all tasks (an upper bound) instead of one after the other.
        needs_first_task: why it must have learned the first task, as it learns the others; empty if it can begin with
            any task, as the method of a fork does.
        includes: names of parts whose work it does itself.
        state_settings: settings that its state was made under; a fork that changes one of them begins with no state.
        works_split: its hooks look at no weight, so that weights may be split among processes (``sharding.py``), or in
            a type that does not show how far they have moved (``numerics.py``).
        source: paper id or one line that says where the method comes from.
    """

    name: str
    family: Family
    Config: ClassVar[type]
    joins: ClassVar[frozenset[Family]] = frozenset({"supervised", "reinforcement"})
    needs_with: ClassVar[Mapping[Need, str]] = {}
    joint: bool = False
    needs_first_task: str = ""
    includes: ClassVar[frozenset[str]] = frozenset()
    state_settings: ClassVar[frozenset[str]] = frozenset()
    works_split: bool = False
    source: str = ""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def needs(self) -> frozenset[Need]:
        """What the runner must provide.

        ``anchor``: the previous task's snapshot (``anchor_rule`` can name another); ``reference``: the base, for the KL
        term; ``fisher``: the diagonal Fisher information after each task; ``replay``: examples of earlier tasks, mixed
        into the batches. By default those of ``needs_with`` whose setting is above 0.
        """
        return frozenset(need for need, setting in self.needs_with.items() if getattr(self.config, setting) > 0)

    @property
    def anchor_rule(self) -> AnchorRule:
        """Which policy the anchor is, if it is needed."""
        return AnchorRule()

    @property
    def fisher_items(self) -> int:
        """Training examples from which the Fisher information is estimated, if it is needed."""
        return 64

    @property
    def replay(self) -> ReplayPlan | None:
        """What is replayed, if it is needed."""
        return None

    @property
    def loss_arguments(self) -> dict[str, Any]:
        """Settings of the policy loss by their names in TRL's ``GRPOConfig``; reinforcement learners only."""
        return {}

    @property
    def kl_target(self) -> KlTarget:
        """Whose policy the KL term holds to: the base, or the anchor (the base in the first task)."""
        return "base"

    def problems(self, policy: Policy, tasks: Sequence[Task]) -> list[str]:
        """Sentences about a policy or a stream that this method cannot work with; asked before any work."""
        return []

    def before_task(self, context: TaskContext) -> None:
        """Called before the first update of a task."""

    def choose_examples(self, context: TaskContext, examples: Sequence[Example]) -> Sequence[Example]:
        """The training examples that are learned from, among a task's own; called after ``before_task``."""
        return examples

    def targets(self, context: TaskContext) -> Mapping[str, Sequence[str]] | None:
        """Completions by item key that a supervised learner trains towards; None: those of the ground truth.

        Called after ``choose_examples``, for every learner; the context's task has the chosen examples and the
        replayed ones, so that a reinforcement learner (which returns None) can see them too. An example without any
        completion is left out. The mapping is read anew for every batch: ``after_step`` may change it, which shows
        from the update after the next, whose batch has been read by then.
        """
        return None

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

    def before_step(self, model: torch.nn.Module, task_index: int, step: int) -> None:
        """Called before every optimizer step, which ``step`` counts from 1 within the task.

        Every trained weight has its clipped gradient in ``grad``: to be looked at, or changed (projected, masked).
        """

    def after_step(self, task_index: int, step: int) -> None:
        """Called after every optimizer step; ``step`` counts from 1 within the task."""

    def after_task(self, context: TaskContext) -> None:
        """Called after the last update of a task, before it is evaluated."""

    def state_dict(self) -> dict[str, Any]:
        """State that must survive a restart, after a task or between two updates: tensors and JSON values, by name."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, if it was not empty; tensors come on the CPU.

        Called before ``before_task``; where a run goes on inside a task, after it, so that the state of then is put
        over what ``before_task`` made of the weights that the task began with.
        """
        if state:
            raise ValueError(f"method {self.name!r} has no state, got {sorted(state)}")

    def describe(self) -> dict[str, Any]:
        """Facts worth recording beside the config, e.g. the values that a preset stands for."""
        return {}


def overrides(method: type[Method], hook: str) -> bool:
    """Whether a method has a hook of its own."""
    return getattr(method, hook) is not getattr(Method, hook)
