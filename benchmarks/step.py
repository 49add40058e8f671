"""Time of one training step against TRL's stock GRPOTrainer: same model, prompts and lengths, in one process.

One trainer each for TRL's own GRPO, ours, and RaPO, with and without the shared prefix. Their steps are taken in
turn (A B C … A B C …), so that a machine whose speed drifts slows all alike; the figure is the median of the
ratios of neighbouring steps.

    python benchmarks/step.py --steps 15 --output benchmarks/results/step.json
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from clrft.base import default_model_path
from clrft.provenance import code_identity, hardware, versions
from clrft.quiet import quiet_environment, quiet_libraries
from methods import build_method
from methods.base import TaskContext
from methods.data import reward_functions, rollout_dataset
from methods.fit import FitSettings, build_trainer, rollout_arguments, shared_arguments
from methods.grpo import GrpoConfig
from methods.model_config import ModelConfig
from methods.policy import Policy, load_policy
from methods.rapo import RapoConfig
from methods.settings import TrainConfig
from task_streams import STREAMS, build_stream
from task_streams.types import Task

Step = Callable[[], float]


def main() -> None:
    """Measure, print, and write the figures."""
    options = arguments().parse_args()
    quiet_environment()
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    task = build_stream("digits_cil", STREAMS["digits_cil"].config(), 1993).tasks[1]
    with tempfile.TemporaryDirectory() as scratch:
        steps = {name: step_of(name, task, Path(scratch)) for name in NAMES}
        seconds = measure(steps, options.steps, options.warmup)
    figures = summary(seconds)
    for name, row in figures.items():
        print(f"{name:24} {row['median_seconds']:.3f} s   {row['ratio_to_stock']:.3f} x stock")
    if options.output:
        body = {"command": command(options), "figures": figures, "seconds": seconds}
        facts = {"versions": versions(), "hardware": hardware(), "code": code_identity()}
        Path(options.output).write_text(json.dumps({**body, **facts}, indent=1) + "\n")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="counted steps of each trainer")
    parser.add_argument("--warmup", type=int, default=3, help="steps before counting")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own)")
    parser.add_argument("--output", help="JSON file for the figures")
    return parser


def command(options: argparse.Namespace) -> str:
    """The command that makes these figures again."""
    threads = f" --threads {options.threads}" if options.threads else ""
    return f"python benchmarks/step.py --steps {options.steps} --warmup {options.warmup}{threads}"


NAMES = ("stock", "grpo_plain", "rapo_plain", "grpo_shared", "rapo_shared")
TRAIN = TrainConfig(updates=10_000, schedule="constant", warmup=0, learning_rate=1e-6)


def step_of(name: str, task: Task, scratch: Path) -> Step:
    """A function that takes one training step of a trainer and returns its seconds."""
    policy = load_policy(ModelConfig(dtype="float32", device="cpu"), str(default_model_path()))
    trainer = stock(policy, task, scratch) if name == "stock" else ours(name, policy, task, scratch)
    trainer.create_optimizer_and_scheduler(TRAIN.updates)
    trainer.current_gradient_accumulation_steps = 1
    batches = iter(trainer.get_train_dataloader())
    trainer.model.train()

    def step() -> float:
        nonlocal batches
        try:
            batch = next(batches)
        except StopIteration:
            batches = iter(trainer.get_train_dataloader())
            batch = next(batches)
        start = time.perf_counter()
        trainer.training_step(trainer.model, batch, None)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def stock(policy: Policy, task: Task, scratch: Path) -> Any:
    """TRL's own trainer."""
    method = build_method("grpo", GrpoConfig())
    settings = FitSettings(TRAIN, True, scratch)
    arguments = shared_arguments(method, policy, 3, settings) | rollout_arguments(method, TRAIN)
    return GRPOTrainer(
        model=policy.model,
        processing_class=policy.processor,
        args=GRPOConfig(**(arguments | {"beta": 2e-3})),
        train_dataset=rollout_dataset(task, True),
        reward_funcs=reward_functions(task, True),
    )


def ours(name: str, policy: Policy, task: Task, scratch: Path) -> Any:
    """Our trainer for a method, with or without the shared prefix."""
    import dataclasses

    label, _, path = name.partition("_")
    method = build_method(label, RapoConfig() if label == "rapo" else GrpoConfig())
    train = dataclasses.replace(TRAIN, share_prefix=path == "shared")
    anchor = policy.snapshot() if label == "rapo" else None
    context = TaskContext(task, policy, anchor, seed=3)
    return build_trainer(method, context, policy.snapshot(), FitSettings(train, True, scratch), [])


def measure(steps: dict[str, Step], count: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of every counted step, the trainers in turn."""
    for _ in range(warmup):
        for step in steps.values():
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(count):
        for name, step in steps.items():
            seconds[name].append(step())
    return seconds


def summary(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median seconds, and the median of the ratios to the stock step of the same round."""
    return {
        name: {
            "median_seconds": statistics.median(values),
            "ratio_to_stock": statistics.median(
                mine / base for mine, base in zip(values, seconds["stock"], strict=True)
            ),
        }
        for name, values in seconds.items()
    }


if __name__ == "__main__":
    main()
