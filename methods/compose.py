"""Methods together: one that learns, and parts that join it (penalties, memories, reward shapers).

``[grpo, ewc, replay]``: rewards go through the shapers in the order of the list, loss terms add up, the needs are those
of all. Each sees only what it declares itself (``guard.py``), so it works the same whatever it is combined with. What
cannot go together is refused before any work.

Two figures of each update tell what a method that shapes rewards did: ``<name>_added``, the mean of what it changed,
and ``<name>_reranked``, the share of pairs inside a group whose order it changed; making or breaking a tie counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from methods.base import AnchorRule, Method, overrides
from methods.guard import class_of, fault, guarded_members, made_method
from methods.lazy import Tensor, torch
from methods.registry import method_class
from task_streams.errors import UserError
from task_streams.types import Example, Task

if TYPE_CHECKING:
    from methods.base import Family, KlTarget, LossContext, Need, ReplayPlan, Rollouts, TaskContext
    from methods.model.policy import Policy

SEPARATOR = "."  # between a part's name and a name in its state


def composition_problems(learner: type[Method], parts: Sequence[type[Method]]) -> list[str]:
    """Sentences about methods that cannot go together; empty when they can."""
    problems = []
    if learner.family == "part":
        problems.append(f"method {learner.name!r} is a part; expected a method that learns first, e.g. sft or grpo.")
    names = [part.name for part in parts]
    for part in parts:
        if part.family != "part":
            problems.append(f"method {part.name!r} learns by itself; expected one such method, {learner.name!r} is it.")
        elif learner.family not in part.joins and learner.family != "part":
            joins = " or ".join(sorted(part.joins))
            problems.append(f"part {part.name!r} joins {joins} methods; {learner.name!r} is {learner.family}.")
    problems += [
        f"part {name!r} is listed more than once." for name in sorted({n for n in names if names.count(n) > 1})
    ]
    problems += [
        f"part {part.name!r} has {hook}, which {learner.name!r} as the learner decides; expected none of it in a part."
        for part in parts
        for hook in ("targets", "loss_arguments", "kl_target")
        if part.family == "part" and overrides(part, hook)
    ]
    problems += [f"part {name!r} is in {learner.name!r} already." for name in names if name in learner.includes]
    replaying = [one.name for one in (learner, *parts) if overrides(one, "replay")]
    if len(replaying) > 1:
        problems.append(f"{' and '.join(replaying)} both keep a memory; expected one of them.")
    scalers = [one.name for one in (learner, *parts) if overrides(one, "normalize_advantages")]
    if len(scalers) > 1:
        problems.append(f"{' and '.join(scalers)} both scale advantages; expected one of them.")
    return problems


def _in_turn(hook: str) -> Any:
    """A hook that every member has called, in their order."""

    def call(together: Composite, *arguments: Any) -> None:
        for one in together.members:
            getattr(one, hook)(*arguments)

    return call


class Composite(Method):
    """A method that learns together with the parts that join it; called like any other method.

    Parts are called after the learner, in their order. The learner decides the family, the settings of the training
    and, unless a part does, the advantages.

    Raises:
        UserError: they cannot go together.

    Attributes:
        members: the learner and its parts.
    """

    def __init__(self, learner: Method, parts: Sequence[Method]) -> None:
        self.members = (learner, *parts)
        if problems := composition_problems(class_of(learner), [class_of(part) for part in parts]):
            raise UserError(*problems)
        for part in parts if learner.joint else ():
            if looks_back := sorted(part.needs & {"anchor", "fisher", "replay"}):
                needs = " and ".join(looks_back)
                problems.append(
                    f"part {part.name!r} needs {needs} of earlier tasks; {learner.name!r} learns all tasks at once."
                )
        rules = {one.name: str(one.anchor_rule) for one in self.members if "anchor" in one.needs}
        if len(set(rules.values())) > 1:  # there is one for all
            each = " and ".join(f"{name!r} {rule}" for name, rule in rules.items())
            problems.append(
                f"the anchor of {each}; expected the same for all that need one: set method.anchor where there is one."
            )
        if problems:
            raise UserError(*problems)
        super().__init__(learner.config)
        self.learner = learner
        self.parts = tuple(parts)
        self.name = "+".join(one.name for one in self.members)
        self.family: Family = learner.family
        self.joint = learner.joint
        self.source = "; ".join(dict.fromkeys(one.source for one in self.members if one.source))
        guarded = guarded_members(self)
        names = {name: owner for one in guarded for name, owner in one.owners.items()}
        for member in guarded:
            member.owners = names  # figures of one name would be averaged

    before_task = _in_turn("before_task")
    before_step = _in_turn("before_step")
    after_step = _in_turn("after_step")
    after_task = _in_turn("after_task")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset().union(*(one.needs for one in self.members))

    @property
    def anchor_rule(self) -> AnchorRule:
        return next((one.anchor_rule for one in self.members if "anchor" in one.needs), AnchorRule())

    @property
    def fisher_items(self) -> int:
        return max(one.fisher_items for one in self.members if "fisher" in one.needs)

    @property
    def replay(self) -> ReplayPlan | None:
        return next((one.replay for one in self.members if one.replay is not None), None)

    @property
    def loss_arguments(self) -> dict[str, Any]:
        return self.learner.loss_arguments

    @property
    def kl_target(self) -> KlTarget:
        return self.learner.kl_target

    def problems(self, policy: Policy, tasks: Sequence[Task]) -> list[str]:
        return [problem for one in self.members for problem in one.problems(policy, tasks)]

    def choose_examples(self, context: TaskContext, examples: Sequence[Example]) -> Sequence[Example]:
        for one in self.members:
            examples = one.choose_examples(context, examples)
        return examples

    def targets(self, context: TaskContext) -> Mapping[str, Sequence[str]] | None:
        return self.learner.targets(context)

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for one in self.members:
            own = one.loss_terms(context)
            if shared := sorted(terms.keys() & own.keys()):
                reason = f"its term {shared[0]!r} is another member's of {self.name} too; rename it."
                raise UserError(fault(class_of(one), "loss_terms", reason))
            terms |= own
        return terms

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        return shaped_rewards(self.members, rewards, rollouts)

    def normalize_advantages(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        scaling = [one for one in self.members if overrides(class_of(one), "normalize_advantages")]
        return (scaling or [self.learner])[0].normalize_advantages(rewards, rollouts)

    def state_dict(self) -> dict[str, Any]:
        return {f"{one.name}{SEPARATOR}{key}": value for one in self.members for key, value in one.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for one in self.members:
            prefix = one.name + SEPARATOR
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if own:
                one.load_state_dict(own)
        known = {one.name for one in self.members}
        if strange := sorted(key for key in state if key.partition(SEPARATOR)[0] not in known):
            raise ValueError(f"method {self.name!r} has no state {', '.join(strange)}")

    def describe(self) -> dict[str, Any]:
        return {one.name: facts for one in self.members if (facts := one.describe())}


def shaped_rewards(members: Iterable[Method], rewards: Tensor, rollouts: Rollouts) -> Tensor:
    """Rewards after every method that shapes them, in their order, each reported by its name, [B*G] to [B*G]."""
    for one in members:
        if overrides(class_of(one), "shape_rewards"):
            shaped = one.shape_rewards(rewards, rollouts)
            rollouts.log(f"{one.name}_added", (shaped - rewards).mean().item())
            rollouts.log(f"{one.name}_reranked", reranked_share(rewards, shaped, rollouts.group_size))
            rewards = shaped
    return rewards


def reranked_share(before: Tensor, after: Tensor, group_size: int) -> float:
    """Share of the pairs inside a group that are in another order after than before; values 1e-6 apart are equal."""
    orders = []
    for values in (before, after):
        groups = values.view(-1, group_size)
        apart = groups[:, :, None] - groups[:, None, :]  # [B, G, G]
        orders.append(torch.where(apart.abs() > 1e-6, apart.sign(), 0.0))
    pairs = torch.triu(torch.ones(group_size, group_size, dtype=torch.bool, device=before.device), diagonal=1)
    return (orders[0] != orders[1])[:, pairs].float().mean().item()


def build_method(name: str, config: Any, parts: Sequence[tuple[str, Any]] = ()) -> Method:
    """A fresh method with its config, an instance of its ``Config`` dataclass, and the parts that join it.

    Raises:
        UserError: an unknown name, or methods that cannot go together.
    """
    learner = made_method(method_class(name), config)
    joined = [made_method(method_class(part), settings) for part, settings in parts]
    return Composite(learner, joined) if joined else learner
