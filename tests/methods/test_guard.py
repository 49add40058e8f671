"""A watched method: what goes wrong in a hook is named; what hooks see and do, and the figures of an update."""

import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clrft.runner.checkpoint import read_learned, write_learned
from clrft.utils import interrupt
from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.algorithms.sft import Sft, SftConfig
from methods.base import LossContext, Method, Need, ReplayPlan, Rollouts, StepLog, TaskContext
from methods.compose import Composite, shaped_rewards
from methods.guard import HOOKS, PROPERTIES, TAKEN, GuardedMethod, made_method
from methods.model.policy import Policy
from methods.settings import TrainConfig
from methods.training.fit import APPLIED, STEP_NAMES, TRL_ONLY, FitSettings, fit, step_row
from methods.training.state import training_state
from task_streams.errors import UserError
from task_streams.types import Task, TaskStream
from tests.methods.hand_made import rollouts

TASK = Task(2, "two", ("a",), ("a",), (), ())


class Plain(Method):
    """Nothing of its own."""

    name = "plain"
    family = "part"
    Config = SftConfig


def with_hook(hook: str, call: Callable[..., Any]) -> Method:
    return GuardedMethod(type("Own", (Plain,), {hook: call})(None))


STEP, _ = rollouts({"accuracy": [1.0] * 4}, group_size=2, drifts=[0.0] * 4)


@pytest.mark.parametrize(
    ("hook", "result", "reason"),
    [
        ("shape_rewards", torch.ones(2, 2), r"returned shape \(2, 2\), expected \(4,\)"),
        ("shape_rewards", None, r"returned NoneType, expected a tensor of shape \(4,\)"),
        ("shape_rewards", torch.tensor([0.0, 1.0, torch.nan, 0.0]), "returned 1 of 4 values that are not finite"),
        ("normalize_advantages", torch.tensor([0.0, 1.0, torch.inf, torch.nan]), "returned 2 of 4 values that are not"),
        ("loss_terms", None, "returned NoneType, expected scalars by name"),
        ("loss_terms", {"x": torch.ones(2)}, r"term 'x' is shape \(2,\), expected a scalar"),
        ("loss_terms", {"x": 1.0}, "term 'x' is float, expected a scalar"),
        ("loss_terms", {"x": torch.tensor(torch.nan)}, "term 'x' is nan, expected a finite number"),
        ("state_dict", {"x": {1, 2}}, "'x' cannot be kept"),
        ("state_dict", {"x": float("nan")}, "'x' cannot be kept"),
        ("state_dict", {1: 2}, "its key 1 is no string"),
        ("state_dict", [1], "returned list, expected a flat dict"),
        ("shape_rewards", torch.ones(4, requires_grad=True), r"returned values with gradients, .* expected detach\(\)"),
        ("shape_rewards", torch.ones(4, dtype=torch.complex64), "returned torch.complex64, .*expected real numbers"),
        ("shape_rewards", torch.full((4,), 1e300, dtype=torch.float64), "returned 4 of 4 values that are not finite"),
        ("loss_terms", {"x": torch.tensor(1)}, "term 'x' is of type torch.int64, expected a floating point number"),
        ("loss_terms", {"loss": torch.tensor(1.0)}, "the loss term 'loss' has the name of a figure that is always"),
        ("loss_terms", {"plain_added": torch.tensor(1.0)}, "the loss term 'plain_added' has the name of what it adds"),
        ("loss_terms", {"a:b": torch.tensor(1.0)}, "a loss term is called 'a:b'; expected letters, digits"),
        ("state_dict", {"x": {1: 2}}, "'x' is {'1': 2} when it is loaded; expected keys that are text"),
        ("state_dict", {"x": torch.eye(2).to_sparse()}, r"'x' cannot be kept \(torch.float32, torch.sparse_coo"),
        ("describe", {"x": torch.ones(2)}, "'x' cannot be kept .*expected a JSON value"),
        ("describe", {"needs": []}, "the facts needs are always recorded"),
        ("describe", None, "returned NoneType, expected a dict of JSON values"),
        ("choose_examples", None, "returned NoneType, expected a list of examples"),
        ("choose_examples", ["three"], "returned str, expected examples among those that it was given"),
        ("targets", [], "returned list, expected completions by item key"),
        ("targets", {"item/1": "four"}, "the item 'item/1' has 'four', expected a list of texts"),
        ("problems", None, "returned None, expected a list of sentences"),
        ("problems", "one sentence", "returned 'one sentence', expected a list of sentences"),
        ("problems", [3], r"returned \[3\], expected a list of sentences"),
    ],
)
def test_what_cannot_be_used_is_refused(hook: str, result: Any, reason: str) -> None:
    given = {"loss_terms": [None], "state_dict": [], "describe": [], "targets": [None]}
    given |= {"problems": [None, [TASK]], "choose_examples": [None, ()]}
    arguments = given.get(hook, [torch.ones(4), STEP])
    method = with_hook(hook, lambda self, *given: result)
    with pytest.raises(UserError, match=rf"method 'plain' \(.*test_guard.*\), {hook}: {reason}"):
        getattr(method, hook)(*arguments)


def test_no_hook_and_no_declaration_of_the_contract_passes_the_checks_by() -> None:
    assert {*HOOKS, *PROPERTIES} <= vars(GuardedMethod).keys()


def test_an_error_names_the_line_of_the_methods_file() -> None:
    def after_step(self: Method, task_index: int, step: int) -> None:
        raise KeyError("lost")

    line = after_step.__code__.co_firstlineno + 1
    with pytest.raises(UserError, match=rf"test_guard.py, line {line}\), after_step: KeyError: 'lost'"):
        with_hook("after_step", after_step).after_step(1, 1)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
def test_what_would_end_the_program_in_a_hook_is_a_fault_of_the_method(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_step(self: Method, task_index: int, step: int) -> None:
        raise kind

    interrupt.watch()  # Ctrl-C is known by its own
    with pytest.raises(UserError, match=rf"'plain' \(.*test_guard.py, line \d+\), after_step: {kind.__name__}$"):
        with_hook("after_step", after_step).after_step(1, 1)


def test_an_exit_that_asks_nobody_is_a_fault_too_but_in_a_child_process() -> None:
    def after_step(self: Method, task_index: int, step: int) -> None:
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        os._exit(0)

    before = os._exit
    with pytest.raises(UserError, match=r"after_step: SystemExit: 0"):
        with_hook("after_step", after_step).after_step(1, 1)
    assert os._exit is before


def test_ctrl_c_in_a_hook_stays_ctrl_c() -> None:
    interrupt.watch()
    method = with_hook("after_step", lambda self, task, step: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        method.after_step(1, 1)
    assert interrupt.asked() == 130
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a program that has no handling of its own
    try:
        with pytest.raises(KeyboardInterrupt):
            method.after_step(1, 1)
    finally:
        signal.signal(signal.SIGINT, before)
        interrupt.watch()


def edit_rewards(self: Method, rewards: Tensor, rollouts: Rollouts) -> Tensor:
    rewards += 0.5
    return rewards


def test_rewards_that_are_edited_in_place_are_recorded_as_what_was_added() -> None:
    step, logged = rollouts({"accuracy": [1.0, 0.0, 0.0, 1.0]}, group_size=2)
    edits = type("Own", (Plain,), {"shape_rewards": edit_rewards})
    halves = type("Half", (Plain,), {"name": "half", "shape_rewards": lambda self, rewards, _: rewards.mul_(0.5)})
    shaped = shaped_rewards([GuardedMethod(edits(None)), GuardedMethod(halves(None))], step.task_reward, step)
    assert shaped.tolist() == [0.75, 0.25, 0.25, 0.75]
    assert (logged["plain_added"], logged["half_added"]) == (0.5, -0.5)  # half of the mean of 1.0 is taken away
    assert step.task_reward.tolist() == [1.0, 0.0, 0.0, 1.0]
    scaled = with_hook("normalize_advantages", lambda self, rewards, _: rewards.sub_(rewards.mean()))
    assert scaled.normalize_advantages(shaped, step).tolist() == [0.25, -0.25, -0.25, 0.25]
    assert shaped.tolist() == [0.75, 0.25, 0.25, 0.75]


@pytest.mark.parametrize("given", [torch.tensor([1, 0, 0, 1]), torch.tensor([True, False, False, True])])
def test_counts_and_truths_are_rewards_too(given: Tensor) -> None:
    shaped = with_hook("shape_rewards", lambda self, rewards, _: given).shape_rewards(torch.zeros(4), STEP)
    assert shaped.dtype == torch.float32 and shaped.tolist() == [1.0, 0.0, 0.0, 1.0]


def loss_context(log: StepLog = lambda name, value: None) -> LossContext:
    return LossContext(nn.Linear(1, 1), {"input_ids": torch.arange(4), "labels": torch.arange(4)}, 1, None, log)


@pytest.mark.parametrize("edit", [lambda one: one.add_(1), lambda one: one[1:].zero_()])  # a view is the same memory
def test_what_a_hook_is_given_and_edits_in_place_is_refused_by_name(edit: Callable[[Tensor], Tensor]) -> None:
    edits = with_hook("loss_terms", lambda self, context: (edit(context.inputs["labels"]), {})[1])
    with pytest.raises(UserError, match=r"loss_terms: edited inputs\['labels'\] in place; expected it unchanged"):
        edits.loss_terms(loss_context())
    step, _ = rollouts({"accuracy": [1.0] * 4}, group_size=2)
    edits = with_hook("shape_rewards", lambda self, rewards, given: edit(given.components["accuracy"]))
    with pytest.raises(UserError, match=r"shape_rewards: edited components\['accuracy'\] in place"):
        edits.shape_rewards(torch.ones(4), step)


def test_each_hook_has_a_mapping_of_its_own() -> None:
    takes = with_hook("loss_terms", lambda self, context: {"left": context.inputs.pop("labels").sum() * 0.5})
    context = loss_context()
    assert [takes.loss_terms(context)["left"].item() for _ in range(2)] == [3.0, 3.0]  # (0 + 1 + 2 + 3) / 2
    assert list(context.inputs) == ["input_ids", "labels"]


def logging_as(name: str, part: str = "plain") -> GuardedMethod:
    hooks = {"name": part, "loss_terms": lambda self, context: (context.log(name, 1), {})[1]}
    return GuardedMethod(type("Own", (Plain,), hooks)(None))


@pytest.mark.parametrize("name", ["loss", "reward", "kl", "step", "reward_accuracy", "rewards/mine", "plain_reranked"])
def test_a_figure_of_a_name_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"method 'plain' \(.*\), loss_terms: the figure '{name}' has the name of"):
        logging_as(name).loss_terms(loss_context())


def test_two_parts_cannot_log_by_one_name_and_one_can_again_and_again() -> None:
    logged: list[tuple[str, float]] = []
    context = loss_context(lambda name, value: logged.append((name, value)))
    learner, first, second = GuardedMethod(Sft(SftConfig())), logging_as("pull", "first"), logging_as("pull", "second")
    Composite(learner, [first, second])
    first.loss_terms(context)
    first.loss_terms(context)
    with pytest.raises(UserError, match=r"method 'second' .* the figure 'pull' has the name of a figure of 'first'; "):
        second.loss_terms(context)
    assert logged == [("pull", 1.0), ("pull", 1.0)]
    own = {"loss_terms": lambda self, context: (context.log("pull", 1), {"pull": torch.tensor(1.0)})[1]}
    with pytest.raises(UserError, match="the loss term 'pull' has the name of its own figure"):
        GuardedMethod(type("Own", (Plain,), own)(None)).loss_terms(context)


def test_every_figure_that_the_trainers_log_is_taken(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    assert {*STEP_NAMES, *STEP_NAMES.values(), *TRL_ONLY, APPLIED} <= {*TAKEN, *(n for n in STEP_NAMES if "/" in n)}
    context = TaskContext(stream.tasks[0], policy, None, seed=1)
    for method, train in ((Sft(SftConfig()), TRAIN), (Grpo(GrpoConfig(group_size=2)), replace(TRAIN, updates=1))):
        rows = fit(GuardedMethod(method), context, policy.snapshot(), FitSettings(train, tmp_path)).steps
        assert rows and not {name for row in rows for name in row} - TAKEN


def changes_all() -> None:
    os.chdir("/")
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(torch.get_num_threads() + 1)
    np.seterr(all="raise")
    warnings.simplefilter("error")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def test_what_a_hook_changes_of_the_process_is_put_back_and_told_once(tmp_path: Path) -> None:
    def state() -> tuple[Any, ...]:
        return (
            *(os.getcwd(), torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), np.geterr()),
            *(torch.are_deterministic_algorithms_enabled(), logging.root.manager.disable, list(warnings.filters)),
            signal.getsignal(signal.SIGTERM),
        )

    method, told, before = with_hook("after_step", lambda self, task, step: changes_all()), [], state()
    assert isinstance(method, GuardedMethod)
    method.say = told.append
    method.after_step(1, 1)
    method.after_step(1, 2)
    assert state() == before
    assert len(told) == 9 and "after_step: changed the working folder; it was put back" in told[0]
    fails = with_hook("after_step", lambda self, task, step: (changes_all(), 1 / 0))
    with pytest.raises(UserError, match="ZeroDivisionError"):
        fails.after_step(1, 1)
    assert state() == before


@pytest.mark.parametrize("seed", [5, 6])  # as the training was seeded, and another
def test_a_seed_that_a_hook_sets_leaves_the_trainings_draws_as_they_were(seed: int) -> None:
    def draws(shape: Callable[[Any, Tensor, Any], Tensor]) -> tuple[list[float], list[str], Tensor]:
        method, told = with_hook("shape_rewards", shape), []
        assert isinstance(method, GuardedMethod)
        method.say = told.append
        torch.manual_seed(5)
        torch.rand(30)
        shaped = [method.shape_rewards(torch.zeros(4), STEP) for _ in range(2)]
        return [torch.rand(1).item()], told, torch.stack(shaped)

    plain, silent, _ = draws(lambda self, rewards, _: rewards)
    seeded, told, noise = draws(lambda self, rewards, _: torch.manual_seed(seed) and torch.rand(4))
    assert seeded == plain and silent == [] and len(told) == 1 and "changed torch.manual_seed" in told[0]
    assert torch.equal(noise[0], noise[1])
    drawn, silent, noise = draws(lambda self, rewards, _: torch.rand(4))  # which is no seed
    assert silent == [] and drawn != plain and not torch.equal(noise[0], noise[1])


def test_a_stream_that_a_hook_closes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(UserError, match=r"before_task: closed sys.stdout; expected it open"):
        with_hook("before_task", lambda self, context: sys.stdout.close()).before_task(
            TaskContext(TASK, None, None, 1)  # type: ignore[arg-type]
        )


def test_lists_that_stand_in_a_class_are_each_methods_own() -> None:
    kind = type("Own", (Plain,), {"seen": [], "after_step": lambda self, task, step: self.seen.append(step)})
    for _ in range(2):
        method = made_method(kind, None)
        method.after_step(1, 7)
        assert method.inner.seen == [7]  # type: ignore[attr-defined]


def test_a_method_that_cannot_be_made_is_named() -> None:
    class Failing(Plain):
        def __init__(self, config: Any) -> None:
            raise OSError("no file")

    with pytest.raises(UserError, match="__init__: OSError: no file"):
        made_method(Failing, None)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"needs": frozenset({"ancor"})}, "unknown need 'ancor'. Did you mean 'anchor'?"),
        ({"needs": ["anchor"]}, "expected a frozenset"),
        ({"needs": frozenset({"replay"})}, "a replay plan and 'replay' in needs belong together"),
        ({"replay": ReplayPlan(4, 0.5)}, "a replay plan and 'replay' in needs belong together"),
        ({"replay": 4, "needs": frozenset({"replay"})}, "expected a ReplayPlan"),
    ],
)
def test_what_no_runner_can_provide_is_refused(declared: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        made_method(type("Own", (Plain,), declared), None)
    assert reason in str(caught.value)


@pytest.mark.parametrize("declared", [frozenset(), frozenset({"anchor"}), frozenset({"fisher"})])
def test_a_hook_sees_only_what_its_method_declares(declared: frozenset[Need]) -> None:
    seen: list[Any] = []
    hooks = {
        "needs": declared,
        "after_task": lambda self, context: seen.append(context),
        "shape_rewards": lambda self, rewards, rollouts: seen.append(rollouts) or rewards,
    }
    method = made_method(type("Own", (Plain,), hooks), None)
    given = TaskContext(TASK, None, "the anchor", 1, memory=("an example",), fisher={})  # type: ignore[arg-type]
    method.after_task(given)
    method.shape_rewards(torch.ones(4), STEP)
    context, shown = seen
    assert (context.anchor is not None) == (shown.actor_logps is not None) == ("anchor" in declared)
    assert (context.fisher is not None) == ("fisher" in declared)
    assert context.memory == ()
    assert replace(context, anchor=None, fisher=None) == replace(given, anchor=None, fisher=None, memory=())


TRAIN = TrainConfig(updates=2, prompts_per_update=4, warmup=0, weight_decay=0.0, accumulation=2)


def learned(part: type[Method], policy: Policy, stream: TaskStream, folder: Path) -> Any:
    """Learn the first task by fine-tuning with a part; returns the part."""
    own = GuardedMethod(part(None))
    method = Composite(GuardedMethod(Sft(SftConfig())), [own])
    fit(method, TaskContext(stream.tasks[0], policy, None, seed=1), None, FitSettings(TRAIN, folder))
    return own.inner


def test_a_gradient_that_is_masked_moves_nothing(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    class Masks(Plain):
        seen: tuple[Any, ...] = ()

        def before_step(self, model: nn.Module, task_index: int, step: int) -> None:
            norm = torch.nn.utils.get_total_norm([w.grad for w in model.parameters() if w.grad is not None]).item()
            self.seen = (*self.seen, (task_index, step, norm))
            for name, weight in model.named_parameters():
                if "visual" in name and weight.grad is not None:
                    weight.grad.zero_()

    before = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    part = learned(Masks, policy, stream, tmp_path)
    moved = {name for name, weight in policy.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved and not any("visual" in name for name in moved)
    assert [(task, step) for task, step, _ in part.seen] == [(1, 1), (1, 2)]  # once per update, not per micro-batch
    assert all(0 < norm <= TRAIN.max_grad_norm * 1.0001 for _, _, norm in part.seen)  # clipped already


def test_a_gradient_that_is_no_number_is_named(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    class Root(Plain):
        def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
            weight = next(context.model.parameters())
            return {"root": (weight - weight.detach()).square().sum().sqrt()}  # 0, and without a derivative there

    with pytest.raises(UserError, match=r"'plain' \(.*test_guard.py\): the gradient of update 1 is not finite"):
        learned(Root, policy, stream, tmp_path)
    assert all(bool(torch.isfinite(weight).all()) for weight in policy.model.parameters())


class EditsWeights(Plain):
    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        with torch.no_grad():
            for weight in context.model.parameters():
                weight.mul_(0.999)
        return {}


class KeepsGraph(Plain):
    last = 0.0

    def loss_terms(self, context: LossContext) -> dict[str, Tensor]:
        self.last = self.last + next(context.model.parameters()).square().sum()
        return {"kept": self.last}


class Freezes(Plain):
    def before_task(self, context: TaskContext) -> None:
        for weight in context.policy.model.parameters():
            weight.requires_grad_(False)


class Drops(Plain):
    def before_step(self, model: nn.Module, task_index: int, step: int) -> None:
        model.zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (Drops, r"'plain' \(.*test_guard.py\), before_step: left no gradient"),
        (EditsWeights, r"'plain' \(.*test_guard.py\): a weight or an input was edited in place while its gradient"),
        (KeepsGraph, r"'plain' \(.*test_guard.py\): a loss term holds to a tensor of an update before"),
        (Freezes, r"'plain' \(.*test_guard.py\), before_task: left no weight to train"),
    ],
)
def test_a_training_that_a_hook_makes_impossible_names_the_method(
    part: type[Method], reason: str, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        learned(part, policy, stream, tmp_path)


def test_a_state_whose_tensors_share_memory_is_saved_and_loaded_as_it_is(policy: Policy, tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    state = {"turned": base.t(), "same": base, "n": 3, "base": base, "row": base[1], "wide": torch.ones(1).expand(5)}
    loaded: dict[str, Any] = {}
    keeps = {"state_dict": lambda self: state, "load_state_dict": lambda self, given: loaded.update(given)}
    method = GuardedMethod(type("Own", (Plain,), keeps)(None))
    write_learned(tmp_path, policy, method, 1, {})
    read_learned(tmp_path, policy, method, 1)
    assert list(loaded) == list(state)  # in the method's own order
    for name, value in state.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(loaded[name]))
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))])
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    kept = training_state(1, nn.Linear(1, 1), optimizer, schedule, method, [])
    save_file(dict(kept.tensors), tmp_path / "partial.safetensors")
    assert torch.equal(load_file(tmp_path / "partial.safetensors")["method:turned"], base.t())
    assert kept.values["method_names"] == list(state)


def test_a_hook_that_spoils_gradients_is_named(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    class Spoils(Plain):
        def before_step(self, model: nn.Module, task_index: int, step: int) -> None:
            for weight in model.parameters():
                if weight.grad is not None:
                    weight.grad.div_(0.0)

    with pytest.raises(UserError, match=r"method 'plain' \(.*\), before_step: left gradients that are not finite"):
        learned(Spoils, policy, stream, tmp_path)


def test_what_a_method_logs_is_kept_and_what_trl_alone_logs_is_not() -> None:
    logs = {
        "loss": 0.5,
        "reward_std": 1.0,  # TRL's
        "reward_std_batch": 0.25,  # RaPO's own
        "epoch": 2.0,
        "epochs_added": 0.125,  # a method may begin like that
        "rewards/accuracy/mean": 0.75,
        "rewards/accuracy/std": 0.1,
        "completions/mean_length": 17.0,
        "completions/min_length": 16.0,
        "clip_ratio/low_mean": 0.0,
    }
    assert step_row(3, logs) == {
        "step": 3.0,
        "loss": 0.5,
        "reward_std_batch": 0.25,
        "epochs_added": 0.125,
        "reward_accuracy": 0.75,
        "completion_length": 17.0,
    }
    # a figure without a number is left out, not zero
    assert step_row(1, {"loss": 0.5, "kl": None, "drift": None}) == {"step": 1.0, "loss": 0.5}
