"""A method behind its checks: what goes wrong in a hook is reported with method, file, hook and reason.

What hooks return is checked too: shapes, finite values, a state that can be saved. And a hook sees only what its own
method declares, whatever other methods beside it need. Deliberately absent: going on after a fault. The run stops, and
nothing of the task at hand counts as done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partialmethod
from operator import attrgetter
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from methods.base import AnchorRule, LossContext, Method, Need, ReplayPlan, Rollouts, TaskContext, overrides
from methods.lazy import Tensor, torch
from methods.registry import is_plugin, source_file
from task_streams.errors import UserError, unknown_name
from task_streams.types import Task

if TYPE_CHECKING:
    from methods.model.policy import Policy

HOOKS = [name for name, value in vars(Method).items() if callable(value) and not name.startswith("_")]
PROPERTIES = [name for name, value in vars(Method).items() if isinstance(value, property)]


class GuardedMethod(Method):
    """A method whose every hook is checked; a fault becomes a ``UserError`` that names it.

    Args:
        inner: the method.

    Attributes:
        observe: called in the place of each hook, ``observe(hook, call, arguments)``, e.g. to record calls.

    Raises:
        UserError: what it declares cannot be provided.
    """

    observe: Callable[[str, Callable[..., Any], list[Any]], Any] | None = None

    def __init__(self, inner: Method) -> None:
        if problems := declared_problems(inner):
            raise UserError(*problems)
        super().__init__(inner.config)
        self.inner = inner
        self.name, self.family, self.joint, self.source = inner.name, inner.family, inner.joint, inner.source
        self.needs_first_task, self.works_split = inner.needs_first_task, inner.works_split

    def problems(self, policy: Policy, tasks: Sequence[Task]) -> list[str]:
        found = self._called("problems", policy, tasks)
        if not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
            self._refuse("problems", f"returned {found!r}, expected a list of sentences ([] for none).")
        return found

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        terms = self._called("loss_terms", context)
        if not isinstance(terms, Mapping):
            expected = "expected scalars by name (a dict; {} for none)."
            self._refuse("loss_terms", f"returned {type(terms).__name__}, {expected}")
        for name, term in terms.items():
            if not isinstance(term, torch.Tensor) or term.numel() != 1:
                found = f"shape {tuple(term.shape)}" if isinstance(term, torch.Tensor) else type(term).__name__
                self._refuse("loss_terms", f"term {name!r} is {found}, expected a scalar tensor.")
            if not bool(torch.isfinite(term)):
                self._refuse("loss_terms", f"term {name!r} is {term.item()}, expected a finite number.")
        return terms  # type: ignore[return-value]

    def before_step(self, model: torch.nn.Module, task_index: int, step: int) -> None:
        self._called("before_step", model, task_index, step)
        if overrides(type(self.inner), "before_step") and not gradients_finite(model):
            self._refuse("before_step", "left gradients that are not finite.")

    def state_dict(self) -> dict[str, Any]:
        state = self._called("state_dict")
        if not isinstance(state, dict):
            expected = "expected a flat dict of tensors and JSON values."
            self._refuse("state_dict", f"returned {type(state).__name__}, {expected}")
        for name, value in state.items():
            if not isinstance(name, str):
                self._refuse("state_dict", f"its key {name!r} is no string.")
            if isinstance(value, torch.Tensor):
                continue
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                self._refuse("state_dict", f"{name!r} cannot be kept ({error}); expected a tensor or a JSON value.")
        return state

    def _called(self, hook: str, *arguments: Any) -> Any:
        """What a hook returns; each argument shows only what the method declares."""
        call = getattr(self.inner, hook)
        try:
            shown = [_declared_view(one, self.inner) for one in arguments]
            return call(*shown) if self.observe is None else self.observe(hook, call, shown)
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(fault(type(self.inner), hook, reason, error)) from error

    def _one_each(self, hook: str, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Rewards or advantages [B*G], checked if the method itself makes them."""
        values = self._called(hook, rewards, rollouts)
        if not overrides(type(self.inner), hook):
            return values  # type: ignore[no-any-return]
        expected = tuple(rewards.shape)
        if not isinstance(values, torch.Tensor):
            self._refuse(hook, f"returned {type(values).__name__}, expected a tensor of shape {expected}.")
        if tuple(values.shape) != expected:
            self._refuse(hook, f"returned shape {tuple(values.shape)}, expected {expected}.")
        if unusable := int((~torch.isfinite(values)).sum()):
            self._refuse(hook, f"returned {unusable} of {values.numel()} values that are not finite.")
        return values

    def _refuse(self, hook: str, reason: str) -> NoReturn:
        raise UserError(fault(type(self.inner), hook, reason))

    shape_rewards: Any = partialmethod(_one_each, "shape_rewards")
    normalize_advantages: Any = partialmethod(_one_each, "normalize_advantages")
    # Hooks whose result needs no check of its own.
    before_task: Any = partialmethod(_called, "before_task")
    choose_examples: Any = partialmethod(_called, "choose_examples")
    targets: Any = partialmethod(_called, "targets")
    after_step: Any = partialmethod(_called, "after_step")
    after_task: Any = partialmethod(_called, "after_task")
    load_state_dict: Any = partialmethod(_called, "load_state_dict")
    describe: Any = partialmethod(_called, "describe")
    # What the method behind the checks declares.
    needs: Any = property(attrgetter("inner.needs"))
    anchor_rule: Any = property(attrgetter("inner.anchor_rule"))
    fisher_items: Any = property(attrgetter("inner.fisher_items"))
    replay: Any = property(attrgetter("inner.replay"))
    loss_arguments: Any = property(attrgetter("inner.loss_arguments"))
    kl_target: Any = property(attrgetter("inner.kl_target"))


def made_method(kind: type[Method], config: Any) -> GuardedMethod:
    """A fresh method of a class, behind its checks.

    Raises:
        UserError: it fails when it is made, or what it declares cannot be provided.
    """
    try:
        method = kind(config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(fault(kind, "__init__", f"{type(error).__name__}: {error}", error)) from error
    return GuardedMethod(method)


def class_of(method: Method) -> type[Method]:
    """The class of a method, whether it is behind its checks or not."""
    return type(method.inner if isinstance(method, GuardedMethod) else method)


def members_of(method: Method) -> tuple[Method, ...]:
    """A learner and the parts that join it, or the method alone."""
    return getattr(method, "members", (method,))


def declared_problems(method: Method) -> list[str]:
    """Sentences about needs that no runner knows, or that contradict each other; empty when all is well."""
    kind = type(method)
    values = {}
    for name in PROPERTIES:
        try:
            values[name] = getattr(method, name)
        except Exception as error:
            return [fault(kind, name, f"{type(error).__name__}: {error}", error)]
    needs, plan = values["needs"], values["replay"]
    if not isinstance(needs, frozenset | set):
        return [fault(kind, "needs", f"got {needs!r}, expected a frozenset of names.")]
    known = get_args(Need)
    problems = [
        fault(kind, "needs", unknown_name("need", str(need), known)) for need in sorted(map(str, needs - set(known)))
    ]
    if not isinstance(values["anchor_rule"], AnchorRule):
        problems.append(fault(kind, "anchor_rule", f"got {values['anchor_rule']!r}, expected an AnchorRule."))
    if plan is not None and not isinstance(plan, ReplayPlan):
        problems.append(fault(kind, "replay", f"got {plan!r}, expected a ReplayPlan or None."))
    elif (plan is not None) != ("replay" in needs):
        problems.append(fault(kind, "replay", "a replay plan and 'replay' in needs belong together; one is missing."))
    return problems


def fault(kind: type[Method], hook: str, reason: str, error: BaseException | None = None) -> str:
    """One sentence about a fault: method, file (with the line, where an error tells it), hook and reason."""
    file = source_file(kind)
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == file] if error else []
    place = f"{file}, line {lines[-1]}" if lines else file
    return f"method {getattr(kind, 'name', kind.__name__)!r} ({place}), {hook}: {reason}"


def suspects(method: Method) -> str:
    """Names and files of the methods that a fault without a hook can come from: plugins first."""
    members = members_of(method)
    chosen = [one for one in members if is_plugin(class_of(one))] or members
    return " or ".join(f"method {one.name!r} ({source_file(class_of(one))})" for one in chosen)


def gradients_finite(model: torch.nn.Module) -> bool:
    """Whether every gradient of a model is a finite number."""
    from methods.distributed.sharding import split_of

    return bool(torch.isfinite(split_of(model).gradient_norm()))


# What the runner provides on demand: by the type of a hook's argument its fields, each with the need that shows it.
ON_DEMAND = {
    TaskContext: {"anchor": "anchor", "memory": "replay", "fisher": "fisher"},
    LossContext: {"anchor": "anchor"},
    Rollouts: {"actor_logps": "anchor", "anchor_logps": "anchor"},
}


def _declared_view(argument: Any, method: Method) -> Any:
    """What a hook sees of its argument: of what the runner provides on demand, only what the method declares."""
    fields, needs = ON_DEMAND.get(type(argument), {}), method.needs
    hidden = {name: () if name == "memory" else None for name, need in fields.items() if need not in needs}
    return replace(argument, **hidden) if hidden else argument
