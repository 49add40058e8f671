"""Micro-batches change memory and not the result, whatever learns, also from rollouts that are used several times."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clrft.base_model import default_model_path
from methods import METHODS, build_method
from methods.base import Method, TaskContext
from methods.generation import shared_prefix
from methods.model.config import ModelConfig
from methods.model.policy import load_policy
from methods.settings import TrainConfig
from methods.training import grpo_trainer
from methods.training.fit import FitSettings, fit
from methods.training.replay_memory import remembered
from task_streams.types import TaskStream
from tests.methods.two_tasks import base_of

# Methods, updates on a batch of rollouts, adapter, whether prefixes are shared (else TRL shuffles the rollouts). Every
# way in which an update finds its rows has a case: sequence and token losses, log-probabilities of anchor and base,
# targets, replayed examples, hooks with passes of their own.
CASES = [
    ("sft+lwf+replay", 1, "none", True),
    ("sft+derpp", 1, "lora", True),
    ("raft", 1, "none", True),
    ("grpo+ewc+replay", 2, "none", True),
    ("rapo", 3, "lora", True),
    ("dapo", 2, "none", True),
    ("gspo", 2, "none", True),
    ("anchored_kl", 2, "lora", True),
    ("grpo+latent_retention", 2, "none", True),
    ("sdft+replay", 3, "lora", True),
    ("rapo", 2, "none", False),
    ("sdft", 2, "none", False),
]


def made(words: str, updates_per_batch: int) -> Method:
    learner, *parts = words.split("+")
    rollouts = {"group_size": 2, "updates_per_batch": updates_per_batch, "temperature": 1.5}  # so that rewards differ
    own: dict[str, Any] = rollouts if METHODS[learner].family == "reinforcement" else {}
    joined = [(part, METHODS[part].Config()) for part in parts]
    return build_method(learner, METHODS[learner].Config(**own), joined)


def gradients(
    words: str, updates_per_batch: int, adapter: str, accumulation: int, stream: TaskStream, folder: Path
) -> list[dict[str, Tensor]]:
    """Those of every update on the first batch of a second task, unclipped."""
    config = ModelConfig(dtype="float32", device="cpu", adapter=adapter, lora_rank=4)
    policy, method = load_policy(config, str(default_model_path()), seed=1), made(words, updates_per_batch)
    found: list[dict[str, Tensor]] = []
    before_step = method.before_step

    def kept(model: torch.nn.Module, task_index: int, step: int) -> None:
        before_step(model, task_index, step)
        found.append({n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None})

    method.before_step = kept  # type: ignore[method-assign]
    base = base_of(method, policy)
    anchor = policy.snapshot() if "anchor" in method.needs else None
    memory = remembered(stream.tasks[:1], method.replay.items, 5) if method.replay else ()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        for weight in policy.model.parameters():  # so that anchor and base are apart from the policy
            if weight.requires_grad:
                weight.add_(0.01 * torch.randn_like(weight) * weight.std())
    context = TaskContext(stream.tasks[1], policy, anchor, seed=7, memory=memory)
    budget = {"updates": updates_per_batch, "prompts_per_update": 4, "accumulation": accumulation}
    train = TrainConfig(**budget, warmup=0, max_grad_norm=1e6, max_completion_tokens=20)  # type: ignore[arg-type]
    torch.manual_seed(2)
    fit(method, context, base, FitSettings(train, folder), None)
    return found


@pytest.mark.parametrize(("words", "again", "adapter", "shares"), CASES)
def test_gradients_do_not_depend_on_micro_batches(
    words: str, again: int, adapter: str, shares: bool, stream: TaskStream, tmp_path: Path, monkeypatch: Any
) -> None:
    if not shares:
        for module in (shared_prefix, grpo_trainer):
            monkeypatch.setattr(module, "SUPPORTED", ())
    whole, parts = (gradients(words, again, adapter, n, stream, tmp_path) for n in (1, 4))
    assert len(whole) == len(parts) == again
    for step, (one, other) in enumerate(zip(whole, parts, strict=True)):
        assert one.keys() == other.keys()
        size = sum(float(gradient.square().sum()) for gradient in one.values()) ** 0.5
        apart = sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5
        assert size > 0 or step > 0  # all ratios may be clipped by then
        # later updates begin with weights that differ by rounding, which the optimizer's first steps enlarge
        assert apart <= (1e-5 if step == 0 else 1e-2) * size
