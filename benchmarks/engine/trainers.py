"""Trainers of TRL and ours on the same data, and one step of each: data, rollout, rewards, log-probabilities, update.

Stock is TRL's own ``GRPOTrainer``. Its reference is a copy of the policy in the same dtype, as ours is; TRL would load
one from a folder that random weights do not have. Parts of a step are watched where TRL calls them; a GPU is waited for
at their borders.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from benchmarks.engine.memory import reachable_tensors
from benchmarks.engine.options import Options
from benchmarks.engine.pairs import Turn, synchronize
from benchmarks.engine.workload import Workload
from methods import build_method
from methods.algorithms.grpo import GrpoConfig
from methods.algorithms.rapo import RapoConfig
from methods.base import Method, TaskContext
from methods.inputs.media import never_sampled
from methods.model.policy import Policy
from methods.settings import KAHAN, TrainConfig
from methods.training.dataset import reward_functions, rollout_dataset
from methods.training.fit import FitSettings, build_trainer, rollout_arguments, shared_arguments

NAMES = ("stock", "grpo_plain", "grpo", "rapo_plain", "rapo")
SEED = 3
OUR_SCORING = ("_asked",)  # where our trainer scores before the loss
MANY = 10_000  # updates: more than are ever taken


def trainer_of(name: str, policy: Policy, work: Workload, options: Options, scratch: Path) -> Any:
    """The trainer of a name in ``NAMES``."""
    label, _, path = name.partition("_")
    settings = fit_settings(options, work, scratch, share_prefix=label != "stock" and path != "plain")
    if label == "stock":
        return stock(policy, work, options, settings)
    method = method_of(label, options)
    anchor = policy.snapshot(asked_only=True) if "anchor" in method.needs else None
    context = TaskContext(work.task, policy, anchor, seed=SEED)
    trainer = build_trainer(method, context, policy.snapshot(asked_only=True), settings, [])
    trainer.compensated = policy.numerics.optimizer == KAHAN
    return trainer


def fit_settings(options: Options, work: Workload, scratch: Path, share_prefix: bool) -> FitSettings:
    """A budget without end, at a learning rate that leaves the policy as good as it was."""
    kept: dict[str, Any] = {} if options.kept_prefixes is None else {"kept_prefixes": options.kept_prefixes}
    train = TrainConfig(
        **kept,
        updates=MANY,
        prompts_per_update=options.prompts,
        accumulation=(share_prefix and options.own_accumulation) or options.accumulation,
        learning_rate=1e-6,
        schedule="constant",
        warmup=0,
        max_completion_tokens=options.completion_limit,
        share_prefix=share_prefix,
    )
    return FitSettings(train, scratch)


def method_of(label: str, options: Options) -> Method:
    """The method of a trainer, with the group's size."""
    config = RapoConfig if label == "rapo" else GrpoConfig
    return build_method(label, config(group_size=options.group))


def stock(policy: Policy, work: Workload, options: Options, settings: FitSettings) -> Any:
    """TRL's own trainer with a reference."""
    trainer = without_reference(policy, work, options, settings)
    reference = policy.snapshot().model
    add_fused_lm_head(reference, temperature=trainer.temperature)
    trainer.ref_model = trainer.accelerator.prepare_model(reference, evaluation_mode=True)
    trainer.beta = GrpoConfig().kl
    return trainer


def without_reference(policy: Policy, work: Workload, options: Options, settings: FitSettings) -> Any:
    """TRL's own trainer without a KL term."""
    method = method_of("grpo", options)
    arguments = shared_arguments(method, policy, SEED, settings) | rollout_arguments(method, settings.train)
    suppressed = {"suppress_tokens": list(never_sampled(policy.model.config))}
    return GRPOTrainer(
        model=policy.model,
        processing_class=policy.processor,
        args=GRPOConfig(**arguments, generation_kwargs=suppressed),
        train_dataset=rollout_dataset(work.task, policy.prepared),
        reward_funcs=reward_functions(work.task),
    )


class Stepper:
    """Takes the steps of a trainer one by one; calling it takes the next.

    Args:
        trainer: of TRL, or ours.
        device: where it works.
    """

    def __init__(self, trainer: Any, device: torch.device) -> None:
        self.trainer = trainer
        self.device = device
        self.parts: dict[str, float] = {}
        self.running: set[str] = set()
        self.lengths: list[int] = []  # of the completions of this step
        trainer.create_optimizer_and_scheduler(MANY)
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        trainer.model.train()
        self.batches = batches(trainer)
        self._watch()

    def __call__(self) -> Turn:
        """One optimizer step."""
        self.parts, self.lengths = {}, []
        start = self._now()
        for _ in range(self.trainer.args.gradient_accumulation_steps):
            self.trainer.training_step(self.trainer.model, next(self.batches), None)
        torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), self.trainer.args.max_grad_norm)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()
        return Turn(
            tokens=sum(self.lengths),
            decode_steps=max(self.lengths) - 1,
            decoded=sum(self.lengths) - len(self.lengths),
            parts=step_parts(self.parts, self._now() - start),
        )

    def held(self) -> list[Tensor]:
        """Weights, those of reference and anchor, the optimizer's moments, and what else is kept between steps."""
        return reachable_tensors(vars(self.trainer))

    def _watch(self) -> None:
        """Watch the parts of a step; scoring inside the loss is part of the update, be it ours or TRL's."""
        trainer = self.trainer
        trainer._prepare_inputs = self._timed("prepare", trainer._prepare_inputs)
        trainer._generate_single_turn = self._timed("rollout", self._counted(trainer._generate_single_turn))
        scoring = trainer._get_per_token_logps_and_entropies
        timed = self._timed("logprobs", scoring)
        trainer._get_per_token_logps_and_entropies = lambda *given, **named: (
            scoring if torch.is_grad_enabled() else timed
        )(*given, **named)
        for name in OUR_SCORING:
            if hasattr(trainer, name):
                setattr(trainer, name, self._timed("logprobs", getattr(trainer, name)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            if name in self.running:  # a watched call inside another
                return call(*given, **named)
            self.running.add(name)
            start = self._now()
            result = call(*given, **named)
            self.parts[name] = self.parts.get(name, 0.0) + self._now() - start
            self.running.discard(name)
            return result

        return timed

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            result = call(*given, **named)
            self.lengths += [len(completion) for completion in result[0]]
            return result

        return counted

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


def batches(trainer: Any) -> Iterator[Any]:
    """The trainer's batches, epoch after epoch."""
    while True:
        yield from trainer.get_train_dataloader()


def step_parts(watched: dict[str, float], total: float) -> dict[str, float]:
    """Seconds of a step by part: rollout, log-probabilities, what else prepares it (data, rewards), the update."""
    prepare, rollout = watched["prepare"], watched["rollout"]
    logprobs = watched.get("logprobs", 0.0)
    return {
        "rollout": rollout,
        "logprobs": logprobs,
        "rewards_and_data": prepare - rollout - logprobs,
        "update": total - prepare,
    }
