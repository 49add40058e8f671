"""Train a policy on one task with a method: settings to TRL's arguments, hooks in their order."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.sft_config import SFTConfig

from methods.base import Method, TaskContext
from methods.costs.meter import Counts
from methods.distributed import ranks
from methods.distributed.sharding import is_sharded, split_of
from methods.generation.vllm import vllm_arguments
from methods.guard import TRL_FOLDERS, class_of, fault, gradients_finite, members_of, suspects
from methods.model.policy import Policy
from methods.model.snapshots import AdapterSnapshot, Snapshot
from methods.settings import KAHAN, TrainConfig
from methods.training.budget import rows_per_update
from methods.training.dataset import reward_functions, rollout_dataset, target_dataset
from methods.training.determinism import deterministic
from methods.training.fisher import diagonal_fisher
from methods.training.grpo_trainer import HookedGRPOTrainer, release
from methods.training.optimizers import COMPENSATION, AppliedShare
from methods.training.replay_memory import mixed
from methods.training.state import (
    KIND,
    METHOD,
    MOMENTS,
    Keeping,
    TrainingState,
    in_order,
    moments_of,
    put_moments,
    training_state,
)
from methods.training.trainers import HookedSFTTrainer
from task_streams.errors import UserError
from task_streams.types import Task

StepRow = dict[str, float]

# TRL's names of what is logged each step, and ours.
STEP_NAMES = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "reward": "reward",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "completion_clipped",
    "mean_token_accuracy": "token_accuracy",
    "step_time": "step_seconds",
}
COMPONENT = re.compile(r"rewards/(\w+)/mean")  # a component of the task reward
APPLIED = "update_applied"  # share of an update that reached the weights
TRL_ONLY = {"num_tokens", "epoch", "reward_std", "frac_reward_zero_std"}


@dataclass(frozen=True, slots=True)
class FitSettings:
    """What a fit needs beside the task."""

    train: TrainConfig  # the training budget
    scratch: Path  # folder for scratch files
    workers: int = 0  # processes that decode and resize ahead; 0 = none
    keeping: Keeping | None = None  # what to do with the training's state now and then; None = it is not made


@dataclass(slots=True)
class FitResult:
    """What a training left."""

    # figures of every update; what it came to (``costs/meter.py``) among them, that of the preparation in the first
    steps: list[StepRow] = field(default_factory=list)
    # what came after the last update (an estimate that a method needs, say), by the same names
    afterwards: Counts = field(default_factory=dict)
    # what the optimizer hands on to the next task, by parameter name and kind: its moments where they are carried, and
    # the compensation of weights always
    moments: dict[str, Tensor] = field(default_factory=dict)


def fit(
    method: Method,
    context: TaskContext,
    reference: Snapshot | None,
    settings: FitSettings,
    moments: dict[str, Tensor] | None = None,
    on_step: Callable[[StepRow], None] | None = None,
    start: TrainingState | None = None,
) -> FitResult:
    """Train ``context.policy`` on one task, the method's hooks called in the contract's order.

    ``reference``: the base, for the KL term; not needed with an adapter, without which the model is the base.
    ``moments``: what the optimizer of the previous task handed on, or None to start anew. ``on_step``: called with the
    figures of every update, also of those before ``start``, where a training of this task was stopped; the policy has
    the weights that the task began with.

    Raises:
        UserError: the task has fewer examples than one update takes, or the method chose fewer.
    """
    check_batch(method, context.task, settings.train)
    context = replace(
        context,
        max_completion_tokens=settings.train.max_completion_tokens,
        prompts_per_update=settings.train.prompts_per_update,
        thought=getattr(method.config, "thought", context.thought),
    )
    result, model, meter = FitResult(), context.policy.model, context.policy.meter
    meter.taken()
    method.before_task(context)
    meter.look()
    chosen = method.choose_examples(context, context.task.train)
    if len(chosen) < settings.train.prompts_per_update:
        raise UserError(
            f"method {method.name!r} chose {len(chosen)} of the {len(context.task.train)} training examples of task "
            f"{context.task.name!r}; expected at least train.prompts_per_update, {settings.train.prompts_per_update}."
        )
    task = replace(context.task, train=tuple(chosen))
    mixture = replace(context, task=mixed(task, context.memory, method.replay))
    targets = method.targets(mixture)
    kinds = None if settings.train.carry_optimizer else (COMPENSATION,)
    before = (moments or {}).items()
    handed = {key: value for key, value in before if kinds is None or key.rpartition(KIND)[2] in kinds}
    hooks = UpdateHooks(method, context, settings, result, on_step, targets, handed, start)
    trainer = build_trainer(method, mixture, reference, settings, [hooks], targets)
    if start is not None:
        if own := {**start.values["method"], **start.of(METHOD)}:
            names = start.values.get("method_names")
            method.load_state_dict(in_order(own, names))  # behind what was made of the targets that the task began with
        for row in start.values["rows"]:  # the figures of the updates before it was stopped
            result.steps.append(row)
            if on_step is not None:
                on_step(row)
        meter.taken()  # what was prepared again was counted in the first update
    trainer.remove_callback(PrinterCallback)
    trainer.start = start
    trainer.compensated = context.policy.numerics.optimizer == KAHAN
    try:
        with deterministic(settings.train.deterministic):
            trainer.go_on(settings.scratch)
        keeps = ranks.is_rank0() or not is_sharded(model)
        for key, value in moments_of(model, trainer.optimizer, kinds):
            if keeps:
                result.moments[key] = value.to("cpu", copy=True)
    finally:
        release(model)
        split_of(model).rest()
    fisher = None
    if "fisher" in method.needs:
        with deterministic(settings.train.deterministic):
            fisher = diagonal_fisher(
                context.policy,
                context.task.train,
                context.task.trained,
                context.style,
                max_new_tokens=settings.train.max_completion_tokens,
                items=method.fisher_items,
                seed=context.seed,
            )
    method.after_task(replace(context, fisher=fisher))
    result.afterwards = ranks.all_reduce_counts(meter.taken())
    return result


def check_batch(method: Method, task: Task, train: TrainConfig) -> None:
    """Refuse a task that is smaller than one update, or a batch that does not split evenly."""
    if problems := batch_problems(method, task, train):
        raise UserError(*problems)


def batch_problems(method: Method, task: Task, train: TrainConfig) -> list[str]:
    """Sentences about a task that is smaller than one update, or about a batch that does not split evenly."""
    problems = []
    available = len(task.train)
    if available < train.prompts_per_update:
        problems.append(
            f"train.prompts_per_update: got {train.prompts_per_update}, but task {task.name!r} has "
            f"{available} training examples; expected at most that many."
        )
    rows = rows_per_update(method, train)
    if rows % train.accumulation:
        problems.append(
            f"train.accumulation: got {train.accumulation}, expected a divisor of the {rows} rows of one update."
        )
    if method.family == "reinforcement" and rows // train.accumulation < ranks.world_size():
        problems.append(
            f"train.prompts_per_update: an update's {rows} rollouts in {train.accumulation} parts are fewer than "
            f"{ranks.world_size()} for a part; expected at least one for each of the {ranks.world_size()} processes."
        )
    return problems


def build_trainer(
    method: Method,
    context: TaskContext,
    reference: Snapshot | None,
    settings: FitSettings,
    callbacks: list[TrainerCallback],
    targets: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """TRL's trainer for the method's family, hooks attached; ``targets`` are the method's own completions."""
    policy, task = context.policy, context.task
    if targets is not None:
        settings = replace(settings, workers=0)  # a worker would keep its copy of what the method may change
    common = {"method": method, "task": task, "anchor": context.anchor}
    common |= {"model": policy.model, "processing_class": policy.processor, "callbacks": callbacks}
    arguments = shared_arguments(method, policy, context.seed, settings)
    if method.family == "supervised":
        return HookedSFTTrainer(
            args=SFTConfig(**arguments, max_length=None, completion_only_loss=True),
            train_dataset=target_dataset(task, method.config.thought, policy.prepared, targets),
            **common,
        )
    return HookedGRPOTrainer(
        args=GRPOConfig(**arguments, **rollout_arguments(method, settings.train)),
        reference=AdapterSnapshot(policy.model) if policy.has_adapter and method.config.kl > 0 else reference,
        kl=method.config.kl,
        share_prefix=settings.train.share_prefix,
        kept_prefixes=settings.train.kept_prefixes * 2**20,
        graphs=policy.recorded,
        train_dataset=rollout_dataset(task, policy.prepared),
        reward_funcs=reward_functions(task),
        **common,
    )


def shared_arguments(method: Method, policy: Policy, seed: int, settings: FitSettings) -> dict[str, Any]:
    """Arguments that both of TRL's trainers take."""
    train = settings.train
    length = {"max_steps": train.updates} if train.epochs is None else {"num_train_epochs": train.epochs}
    return {
        **length,
        "output_dir": str(settings.scratch),
        "per_device_train_batch_size": rows_per_update(method, train) // train.accumulation,
        "gradient_accumulation_steps": train.accumulation,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.schedule,
        "warmup_steps": train.warmup,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "optim": "adamw_torch",
        "bf16": policy.numerics.autocasts,
        "use_cpu": policy.device.type == "cpu",
        "gradient_checkpointing": policy.config.gradient_checkpointing,
        "dataloader_num_workers": settings.workers,
        "remove_unused_columns": False,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
    }


def rollout_arguments(method: Method, train: TrainConfig) -> dict[str, Any]:
    """Arguments of group rollouts: one generation per ``updates_per_batch`` steps, whatever the accumulation.

    Raises:
        UserError: the method has settings of the loss that TRL does not know, or that the run's settings decide.
    """
    config = method.config
    ours = {
        "num_generations": config.group_size,
        "steps_per_generation": train.accumulation,
        "num_iterations": config.updates_per_batch,
        "max_completion_length": train.max_completion_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "epsilon": config.clip,
        "beta": 0.0,
        **vllm_arguments(train),
    }
    theirs = {one.name for one in fields(GRPOConfig)} - {one.name for one in fields(TrainingArguments)} - ours.keys()
    if wrong := sorted(method.loss_arguments.keys() - theirs):
        reason = f"{', '.join(wrong)} cannot be set by a method; expected a setting of the policy loss by TRL's name."
        raise UserError(fault(class_of(members_of(method)[0]), "loss_arguments", reason))
    return {"loss_type": "grpo", "scale_rewards": "group", **ours, **method.loss_arguments}


@dataclass(eq=False)
class UpdateHooks(TrainerCallback):
    """Calls a method's hooks around every update; keeps its figures under our names, and the training's state.

    A state is kept every so many updates, or as soon afterwards as going on from it is exact. It would not be inside
    the updates of one batch of rollouts, nor right after a change of the targets: the next batch has been read by then,
    with the targets of before. The last update's is not kept.
    """

    method: Method
    context: TaskContext
    settings: FitSettings
    result: FitResult
    on_step: Callable[[StepRow], None] | None
    targets: Mapping[str, Sequence[str]] | None  # which the method may change
    moments: Mapping[str, Tensor]  # what the previous task's optimizer hands on; with split weights, that of rank 0
    start: TrainingState | None
    known: dict[str, tuple[str, ...]] = field(init=False)  # the targets after the update before
    share: AppliedShare = field(init=False)
    applied: float | None = None
    due: bool = False

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **_: Any
    ) -> None:
        model = self.context.policy.model
        self.share = AppliedShare(lambda: split_of(model).moved(optimizer))
        self.known = self._texts()
        if self.start is None:
            own = self.moments
            put_moments(ranks.broadcast_tensors(own) if is_sharded(model) else own.items(), model, optimizer)
            return
        put_moments(self.start.of(MOMENTS).items(), model, optimizer)
        rates = self.start.values["rates"]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        lr_scheduler.load_state_dict({**self.start.values["schedule"], "lr_lambdas": [None] * len(rates)})

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        step = state.global_step + 1
        if not gradients_finite(model):  # after it all weights would be lost
            raise UserError(
                f"{suspects(self.method)}: the gradient of update {step} is not finite, though rewards and loss terms "
                "are; a root or a norm, say, has no derivative at 0, or train.learning_rate is too high."
            )
        self.method.before_step(model, self.context.task.index, step)
        self.share.begin()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.applied = self.share.end()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.method.after_step(self.context.task.index, state.global_step)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return  # the summary at the end of training
        step, model = state.global_step, self.context.policy.model
        row = step_row(step, logs) | ranks.all_reduce_counts(self.context.policy.meter.taken())
        if self.applied is not None:
            row[APPLIED] = self.applied
        self.result.steps.append(row)
        if self.on_step is not None:
            self.on_step(row)
        keeping = self.settings.keeping
        if keeping is None:
            return
        self.due |= step % keeping.every == 0
        before, self.known = self.known, self._texts()
        exact = step % int(getattr(self.method.config, "updates_per_batch", 1)) == 0 and before == self.known
        if self.due and exact and step < state.max_steps:
            self.due = False
            if ranks.is_rank0() or is_sharded(model):  # of a split model all put the state together
                kept = training_state(step, model, optimizer, lr_scheduler, self.method, self.result.steps)
                if ranks.is_rank0():
                    keeping.keep(kept)

    def _texts(self) -> dict[str, tuple[str, ...]]:
        return {key: tuple(texts) for key, texts in (self.targets or {}).items()}


def step_row(step: int, logs: dict[str, Any]) -> StepRow:
    """One update's figures by our names; what TRL alone logs, and what was not measured, is left out."""
    row: StepRow = {"step": float(step)}
    for name, value in logs.items():
        component = COMPONENT.fullmatch(name)
        if value is None:
            continue  # nothing but NaN in this update
        if component:
            row[f"reward_{component.group(1)}"] = float(value)
        elif name in STEP_NAMES:
            row[STEP_NAMES[name]] = float(value)
        elif name not in TRL_ONLY and not name.startswith(TRL_FOLDERS):
            row[name] = float(value)
    return row
