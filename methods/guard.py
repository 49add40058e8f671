"""A method behind its checks: what goes wrong in a hook is reported with method, file, hook and reason.

What hooks return is checked too: shapes, finite values, a state that can be saved; and what they log: a name that is
taken would be averaged with another's figures. A hook sees only what its own method declares, whatever other methods
beside it need, and what it is given stays as it is: rewards are a copy, which it may edit, and other tensors that it
edits are refused. What it changes of the process is put back (``isolation.py``). Deliberately absent: going on after a
fault. The run stops, and nothing of the task at hand counts as done.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partialmethod
from operator import attrgetter
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from eval.judgement import COMPONENTS
from methods.base import (
    AnchorRule,
    KlTarget,
    LossContext,
    Method,
    Need,
    ReplayPlan,
    Rollouts,
    StepLog,
    TaskContext,
    overrides,
)
from methods.costs.meter import COUNTS
from methods.isolation import PutBack, by_user, copies, words_of
from methods.lazy import Tensor, torch
from methods.registry import as_loaded, is_plugin, source_file
from task_streams.errors import UserError, brief, unknown_name
from task_streams.types import Example, Task

if TYPE_CHECKING:
    from methods.model.policy import Policy

HOOKS = [name for name, value in vars(Method).items() if callable(value) and not name.startswith("_")]
PROPERTIES = [name for name, value in vars(Method).items() if isinstance(value, property)]
CONTRACT = frozenset(vars(Method))  # attributes that the contract names
# Figures of an update that are ours or TRL's, by both names where there are two; none of them is a method's to log.
TAKEN = {
    *("step", "loss", "policy_loss", "aux_loss", "grad_norm", "learning_rate", "update_applied"),
    *("reward", "reward_std", "reward_shaped", "zero_variance_groups", "frac_reward_zero_std"),
    *(f"reward_{part}" for parts in COMPONENTS.values() for part in parts),
    *("kl", "entropy", "entropy_coef", "cispo_clip_ratio", "token_accuracy", "mean_token_accuracy"),
    *("completion_length", "completion_clipped", "step_seconds", "step_time", "num_tokens", "epoch"),
    *COUNTS,
}
# Folders of names that TRL logs by, of which no figure of a method's is kept.
TRL_FOLDERS = ("rewards/", "completions/", "clip_ratio/", "profiling/")
OTHER_FOLDERS = ("sampling/", "tools/", "vespo/")  # those that are kept, where TRL logs by them
FIGURE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./ -]*")  # a name that every tracking store takes


class GuardedMethod(Method):
    """A method whose every hook is checked; a fault becomes a ``UserError`` that names it.

    Args:
        inner: the method.

    Attributes:
        observe: called in the place of each hook, ``observe(hook, call, arguments)``, e.g. to record calls.
        say: tells the user a sentence; for the runner to set.
        owners: who logs a figure by a name, for all methods that work together; as what it does.

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
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
        reports = [f"{inner.name}_added", f"{inner.name}_reranked"]  # of ``compose.shaped_rewards``
        self.owners: dict[str, tuple[GuardedMethod | None, str]] = dict.fromkeys(reports, (None, ""))
        self._model: Any = None  # that is trained
        self._told: set[str] = set()  # what was put back, and said once

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
            self._take("loss_terms", name, "loss term")
            if not isinstance(term, torch.Tensor) or term.numel() != 1:
                found = f"shape {tuple(term.shape)}" if isinstance(term, torch.Tensor) else type(term).__name__
                self._refuse("loss_terms", f"term {name!r} is {found}, expected a scalar tensor.")
            if not term.is_floating_point():
                self._refuse("loss_terms", f"term {name!r} is of type {term.dtype}, expected a floating point number.")
            if not bool(torch.isfinite(term)):
                self._refuse("loss_terms", f"term {name!r} is {term.item()}, expected a finite number.")
        return {name: term.reshape(()) for name, term in terms.items()}

    def before_step(self, model: torch.nn.Module, task_index: int, step: int) -> None:
        from methods.distributed.sharding import is_sharded

        self._called("before_step", model, task_index, step)
        if not overrides(type(self.inner), "before_step"):
            return
        if not is_sharded(model) and all(weight.grad is None for weight in model.parameters()):
            self._refuse("before_step", "left no gradient; expected that of some weight, zeros where none is to move.")
        if not gradients_finite(model):
            self._refuse("before_step", "left gradients that are not finite.")

    def state_dict(self) -> dict[str, Any]:
        state = self._called("state_dict")
        if not isinstance(state, dict):
            expected = "expected a flat dict of tensors and JSON values."
            self._refuse("state_dict", f"returned {type(state).__name__}, {expected}")
        for name, value in state.items():
            if not isinstance(name, str):
                self._refuse("state_dict", f"its key {name!r} is no string.")
            if not isinstance(value, torch.Tensor):
                self._check_json("state_dict", name, value, "a tensor or a JSON value")
            elif value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_complex():
                kind = f"{value.dtype}, {value.layout}, on {value.device}"
                self._refuse(
                    "state_dict", f"{name!r} cannot be kept ({kind}); expected a dense tensor of real numbers."
                )
        return state

    def describe(self) -> dict[str, Any]:
        facts = self._called("describe")
        if not isinstance(facts, dict):
            self._refuse("describe", f"returned {type(facts).__name__}, expected a dict of JSON values.")
        if taken := sorted({"source", "needs"} & facts.keys()):
            self._refuse("describe", f"the facts {', '.join(taken)} are always recorded; call them otherwise.")
        for name, value in facts.items():
            self._check_json("describe", name, value, "a JSON value")
        return facts

    def choose_examples(self, context: TaskContext, examples: Sequence[Example]) -> Sequence[Example]:
        chosen = self._called("choose_examples", context, examples)
        if not isinstance(chosen, Sequence):
            self._refuse("choose_examples", f"returned {type(chosen).__name__}, expected a list of examples.")
        known = {one.key for one in examples}
        if strange := next((one for one in chosen if not (isinstance(one, Example) and one.key in known)), None):
            found = f"the example {strange.key!r}" if isinstance(strange, Example) else type(strange).__name__
            self._refuse("choose_examples", f"returned {found}, expected examples among those that it was given.")
        return chosen

    def targets(self, context: TaskContext) -> Mapping[str, Sequence[str]] | None:
        targets = self._called("targets", context)
        if targets is None:
            return None
        if not isinstance(targets, Mapping):
            expected = "expected completions by item key, or None."
            self._refuse("targets", f"returned {type(targets).__name__}, {expected}")
        for key, texts in targets.items():
            if isinstance(texts, str) or not all(isinstance(one, str) for one in texts):
                self._refuse("targets", f"the item {key!r} has {brief(texts)}, expected a list of texts.")
        return targets

    def _check_json(self, hook: str, name: object, value: Any, expected: str) -> None:
        """Refuse what JSON does not give back: other objects, NaN, and keys that are no text."""
        try:
            written = json.dumps(value, allow_nan=False)
            read = json.loads(written)
        except (TypeError, ValueError, RecursionError) as error:
            self._refuse(hook, f"{name!r} cannot be kept ({error}); expected {expected}.")
        if hook == "state_dict" and _lists(value) != read:
            self._refuse(hook, f"{name!r} is {brief(read)} when it is loaded; expected keys that are text.")

    def _called(self, hook: str, *arguments: Any) -> Any:
        """What a hook returns; each argument shows only what the method declares."""
        call = getattr(self.inner, hook)
        try:
            shown = [self._shown(hook, one) for one in arguments]
            if not overrides(type(self.inner), hook):
                return call(*shown) if self.observe is None else self.observe(hook, call, shown)
            held = [(path, one, one._version) for record in shown for path, one in record_tensors(record)]
            mode = getattr(self._model, "training", None)
            with PutBack(draws=True) as put_back:
                result = call(*shown) if self.observe is None else self.observe(hook, call, shown)
        except UserError:
            raise
        except BaseException as error:
            if by_user(error):
                raise
            raise UserError(fault(type(self.inner), hook, words_of(error), error)) from error
        if mode is not None and self._model.training != mode:
            self._model.train(mode)
            put_back.changed.append("the model's mode (train or eval)")
        self._tell(hook, put_back.changed)
        if put_back.closed:
            self._refuse(hook, f"closed {put_back.closed}; expected it open, for the run's own words.")
        if edited := [path for path, one, version in held if one._version != version]:
            self._refuse(hook, f"edited {edited[0]} in place; expected it unchanged: edit a copy, as of clone().")
        self._check_trained(hook, arguments)
        return result

    def _shown(self, hook: str, argument: Any) -> Any:
        """What a hook sees of its argument: only what the method declares, and mappings of its own to work with."""
        kind = type(argument)
        if kind not in ON_DEMAND:
            return argument
        hidden: dict[str, Any] = {
            name: () if name == "memory" else None
            for name, need in ON_DEMAND[kind].items()
            if need not in self.inner.needs
        }
        if kind is not TaskContext:
            hidden["log"] = self._log(hook, argument.log)
        for name in MAPPINGS & {one.name for one in fields(argument)}:
            value = hidden.get(name, getattr(argument, name))
            hidden[name] = value if value is None else dict(value)
        return replace(argument, **hidden)

    def _log(self, hook: str, log: StepLog) -> StepLog:
        """What records a figure of a step, with its name checked."""

        def checked(name: str, value: float) -> None:
            self._take(hook, name, "figure")
            log(name, float(value))

        return checked

    def _take(self, hook: str, name: Any, what: str) -> None:
        """Refuse a figure's name that is not to be used, or that another figure has."""
        if not (isinstance(name, str) and FIGURE.fullmatch(name)):
            self._refuse(hook, f"a {what} is called {name!r}; expected letters, digits, and _ . / - among them.")
        mine = f"{self.name}_{name.rpartition('/')[2]}"
        if name in TAKEN or name.startswith(TRL_FOLDERS + OTHER_FOLDERS):
            self._refuse(hook, f"the {what} {name!r} has the name of a figure that is always logged; call it {mine!r}.")
        owner, other = self.owners.setdefault(name, (self, what))
        if (owner, other) == (self, what) or what == other == "loss term":  # the latter is told by ``Composite``
            return
        if owner is None:
            self._refuse(hook, f"the {what} {name!r} has the name of what it adds to rewards; call it otherwise.")
        if owner is self:
            self._refuse(hook, f"the {what} {name!r} has the name of its own {other}; call it otherwise.")
        if not (shipped(type(self.inner)) and shipped(type(owner.inner))):  # which measure the same by one name
            self._refuse(hook, f"the {what} {name!r} has the name of a {other} of {owner.name!r}; call it {mine!r}.")

    def _tell(self, hook: str, changed: Sequence[str]) -> None:
        """Say once what a hook left changed."""
        for what in changed:
            if what not in self._told:
                self._told.add(what)
                kind = type(self.inner)
                self.say(f"warning: {fault(kind, hook, f'changed {what}; it was put back as it was.')}")

    def _check_trained(self, hook: str, arguments: Sequence[Any]) -> None:
        """Refuse a hook after which nothing is left to train."""
        if hook == "before_task":
            self._model = getattr(arguments[0].policy, "model", None)
        weights = self._model.parameters() if hook in TRAINING and self._model is not None else ()
        if weights and not any(weight.requires_grad for weight in weights):
            self._refuse(hook, "left no weight to train; expected requires_grad of some.")

    def _one_each(self, hook: str, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Rewards or advantages [B*G], checked if the method itself makes them; it may edit those that it is given."""
        if not overrides(type(self.inner), hook):
            return self._called(hook, rewards, rollouts)  # type: ignore[no-any-return]
        values = self._called(hook, rewards.clone(), rollouts)
        expected = tuple(rewards.shape)
        if not isinstance(values, torch.Tensor):
            self._refuse(hook, f"returned {type(values).__name__}, expected a tensor of shape {expected}.")
        if tuple(values.shape) != expected:
            self._refuse(hook, f"returned shape {tuple(values.shape)}, expected {expected}.")
        if values.requires_grad:
            self._refuse(hook, "returned values with gradients, which would be learned from too; expected detach().")
        if values.is_complex() or values.layout != torch.strided or values.is_meta:
            self._refuse(hook, f"returned {values.dtype}, {values.layout}, on {values.device}; expected real numbers.")
        values = values.to(rewards.device, rewards.dtype, copy=True)  # counts and truths are numbers too
        if unusable := int((~torch.isfinite(values)).sum()):
            self._refuse(hook, f"returned {unusable} of {values.numel()} values that are not finite.")
        return values

    def _refuse(self, hook: str, reason: str) -> NoReturn:
        raise UserError(fault(type(self.inner), hook, reason))

    shape_rewards: Any = partialmethod(_one_each, "shape_rewards")
    normalize_advantages: Any = partialmethod(_one_each, "normalize_advantages")
    # Hooks whose result needs no check of its own.
    before_task: Any = partialmethod(_called, "before_task")
    after_step: Any = partialmethod(_called, "after_step")
    after_task: Any = partialmethod(_called, "after_task")
    load_state_dict: Any = partialmethod(_called, "load_state_dict")
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
        with PutBack(draws=True):
            as_loaded(kind)
            method = kind.__new__(kind)
            # lists and the like that stand in the class are this method's own: nothing is left over from another run
            inherited = {name: value for one in reversed(kind.__mro__) for name, value in vars(one).items()}
            vars(method).update(copies({name: inherited[name] for name in inherited.keys() - CONTRACT}))
            method.__init__(config)  # type: ignore[misc]
    except UserError:
        raise
    except BaseException as error:
        if by_user(error):
            raise
        raise UserError(fault(kind, "__init__", words_of(error), error)) from error
    return GuardedMethod(method)


def class_of(method: Method) -> type[Method]:
    """The class of a method, whether it is behind its checks or not."""
    return type(method.inner if isinstance(method, GuardedMethod) else method)


def members_of(method: Method) -> tuple[Method, ...]:
    """A learner and the parts that join it, or the method alone."""
    return getattr(method, "members", (method,))


def guarded_members(method: Method) -> list[GuardedMethod]:
    """Those of a learner and its parts that are behind their checks: all but those made by hand."""
    return [one for one in members_of(method) if isinstance(one, GuardedMethod)]


def declared_problems(method: Method) -> list[str]:
    """Sentences about needs that no runner knows, or that contradict each other; empty when all is well."""
    kind = type(method)
    values = {}
    for name in PROPERTIES:
        try:
            values[name] = getattr(method, name)
        except BaseException as error:
            if by_user(error):
                raise
            return [fault(kind, name, words_of(error), error)]
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
    elif plan is not None and (plan.items < 1 or not 0 <= plan.share < 1):
        problems.append(fault(kind, "replay", f"got {plan!r}, expected items from 1 and a share in [0, 1)."))
    if "fisher" in needs and values["fisher_items"] < 1:
        problems.append(fault(kind, "fisher_items", f"got {values['fisher_items']!r}, expected a number from 1."))
    if values["kl_target"] not in get_args(KlTarget):
        problems.append(fault(kind, "kl_target", unknown_name("policy", str(values["kl_target"]), get_args(KlTarget))))
    if not isinstance(values["loss_arguments"], dict):
        problems.append(fault(kind, "loss_arguments", f"got {values['loss_arguments']!r}, expected a dict."))
    return problems


def fault(kind: type[Method], hook: str, reason: str, error: BaseException | None = None) -> str:
    """One sentence about a fault: method, file (with the line, where an error tells it), hook and reason."""
    file = source_file(kind)
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == file] if error else []
    place = f"{file}, line {lines[-1]}" if lines else file
    return f"method {getattr(kind, 'name', kind.__name__)!r} ({place}), {hook}: {reason}"


def shipped(kind: type[Method]) -> bool:
    """Whether a method is one of the suite's."""
    return kind.__module__.partition(".")[0] == __package__


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
MAPPINGS = {"inputs", "components", "fisher"}  # fields of these of which each hook gets a mapping of its own
TRAINING = ("before_task", "loss_terms", "before_step", "after_step")  # hooks after which weights are trained


def record_tensors(record: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a hook is given in a record, with their names, and that others see too."""
    for one in fields(record) if type(record) in ON_DEMAND else ():
        value = getattr(record, one.name)
        if isinstance(value, torch.Tensor):
            yield one.name, value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if isinstance(inner, torch.Tensor):
                    yield f"{one.name}[{key!r}]", inner


def _lists(value: Any) -> Any:
    """A plain value with lists for tuples, as JSON gives it back."""
    if isinstance(value, Mapping):
        return {key: _lists(one) for key, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, list | tuple) else value
