"""A method whose every hook is watched: what goes wrong in one is reported with method, file, hook and reason.

What hooks return is looked at too: shapes, finite values, a state that can be kept. And a hook sees only what its
method declares, whatever other methods at its side need. Deliberately absent: going on after a fault. The run stops,
and nothing of the task at hand counts as done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from traceback import extract_tb
from typing import Any, get_args

from methods.base import AnchorRule, LossContext, Method, Need, ReplayPlan, Rollouts, TaskContext
from methods.lazy import torch
from methods.registry import is_plugin, source_file
from methods.shaping import overrides
from task_streams.errors import UserError, unknown_name

HOOKS = (
    "problems",
    "before_task",
    "choose_examples",
    "targets",
    "shape_rewards",
    "normalize_advantages",
    "loss_terms",
    "before_step",
    "after_step",
    "after_task",
    "state_dict",
    "load_state_dict",
    "describe",
)
PROPERTIES = ("needs", "anchor_rule", "fisher_items", "replay", "loss_arguments", "kl_target")


def guarded_method(method: Method) -> Method:
    """The same method; a fault in a hook becomes a ``UserError`` that names it.

    Raises:
        UserError: what it declares cannot be provided.
    """
    if problems := declared_problems(method):
        raise UserError(*problems)
    for hook in HOOKS:
        setattr(method, hook, _watched(method, hook, getattr(method, hook)))
    return method


def layered(method: Method, layer: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put ``layer(hook, call)`` between the guard of a watched method and each of its hooks."""
    for hook in HOOKS:
        raw = getattr(method, hook).__wrapped__
        setattr(method, hook, _watched(method, hook, layer(hook, raw)))


def made_method(kind: type[Method], config: Any) -> Method:
    """A fresh method of a class, watched.

    Raises:
        UserError: it fails when it is made, or what it declares cannot be provided.
    """
    try:
        method = kind(config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(fault(kind, "__init__", f"{type(error).__name__}: {error}", error)) from error
    return guarded_method(method)


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
    members: tuple[Method, ...] = getattr(method, "members", (method,))
    chosen = [one for one in members if is_plugin(type(one))] or list(members)
    return " or ".join(f"method {one.name!r} ({source_file(type(one))})" for one in chosen)


def _watched(method: Method, hook: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def watched(*arguments: Any, **named: Any) -> Any:
        try:
            result = call(*(_declared_view(one, method) for one in arguments), **named)
        except UserError:
            raise
        except Exception as error:
            raise UserError(fault(type(method), hook, f"{type(error).__name__}: {error}", error)) from error
        if hook in RESULTS and overrides(type(method), hook) and (problem := RESULTS[hook](result, arguments)):
            raise UserError(fault(type(method), hook, problem))
        return result

    return watched


def _declared_view(argument: Any, method: Method) -> Any:
    """What a hook sees of its argument: of what the runner provides on demand, only what the method declares."""
    if isinstance(argument, TaskContext):
        if "anchor" not in method.needs and argument.anchor is not None:
            argument = replace(argument, anchor=None)
        if "replay" not in method.needs and argument.memory:
            argument = replace(argument, memory=())
        return argument if "fisher" in method.needs or argument.fisher is None else replace(argument, fisher=None)
    if "anchor" in method.needs:
        return argument
    if isinstance(argument, LossContext) and argument.anchor is not None:
        return replace(argument, anchor=None)
    if isinstance(argument, Rollouts) and argument.anchor_logps is not None:
        return replace(argument, actor_logps=None, anchor_logps=None)
    return argument


def _values_problem(result: Any, arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with rewards or advantages; the first argument has the shape they need."""
    expected = tuple(arguments[0].shape)
    if not isinstance(result, torch.Tensor):
        return f"returned {type(result).__name__}, expected a tensor of shape {expected}."
    if tuple(result.shape) != expected:
        return f"returned shape {tuple(result.shape)}, expected {expected}."
    unusable = int((~torch.isfinite(result)).sum())
    return f"returned {unusable} of {result.numel()} values that are not finite." if unusable else None


def _terms_problem(result: Any, arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with loss terms."""
    if not isinstance(result, Mapping):
        return f"returned {type(result).__name__}, expected scalars by name (a dict; {{}} for none)."
    for name, term in result.items():
        if not isinstance(term, torch.Tensor) or term.numel() != 1:
            found = f"shape {tuple(term.shape)}" if isinstance(term, torch.Tensor) else type(term).__name__
            return f"term {name!r} is {found}, expected a scalar tensor."
        if not bool(torch.isfinite(term)):
            return f"term {name!r} is {term.item()}, expected a finite number."
    return None


def _state_problem(result: Any, arguments: tuple[Any, ...]) -> str | None:
    """What cannot be kept of a state."""
    if not isinstance(result, dict):
        return f"returned {type(result).__name__}, expected a flat dict of tensors and JSON values."
    for name, value in result.items():
        if not isinstance(name, str):
            return f"its key {name!r} is no string."
        if isinstance(value, torch.Tensor):
            continue
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            return f"{name!r} cannot be kept ({error}); expected a tensor or a JSON value."
    return None


def _sentences_problem(result: Any, arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with a list of problems."""
    if isinstance(result, list) and all(isinstance(one, str) for one in result):
        return None
    return f"returned {result!r}, expected a list of sentences ([] for none)."


def _gradients_problem(result: Any, arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with the gradients of the model, the first argument, after a hook that can change them."""
    return None if gradients_finite(arguments[0]) else "left gradients that are not finite."


def gradients_finite(model: torch.nn.Module) -> bool:
    """Whether every gradient of a model is a finite number."""
    from methods.distributed.sharding import split_of

    return bool(torch.isfinite(split_of(model).gradient_norm()))


RESULTS: dict[str, Callable[[Any, tuple[Any, ...]], str | None]] = {
    "problems": _sentences_problem,
    "shape_rewards": _values_problem,
    "normalize_advantages": _values_problem,
    "loss_terms": _terms_problem,
    "before_step": _gradients_problem,
    "state_dict": _state_problem,
}
