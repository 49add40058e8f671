"""Whose policy the KL term holds to, on the embedded model."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from clrft.base_model import default_model_path
from methods import METHODS
from methods.algorithms.anchored_kl import AnchoredKl
from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.base import TaskContext
from methods.model.policy import Policy, load_policy
from methods.model.snapshots import Snapshot
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, build_trainer
from task_streams.types import TaskStream

TRAIN = TrainConfig(updates=1, prompts_per_update=4)
KL = GrpoConfig(kl=0.5)


def loss_of(
    method: Grpo, policy: Policy, anchor: Snapshot | None, reference: Snapshot | None, stream: TaskStream, folder: Path
) -> tuple[float, dict[str, Any]]:
    context = TaskContext(stream.tasks[1], policy, anchor, seed=3)
    trainer: Any = build_trainer(method, context, reference, FitSettings(TRAIN, folder), [])
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    torch.manual_seed(5)
    batch = dict(trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader()))))
    return trainer.compute_loss(trainer.model, batch).item(), batch


def moved(policy: Policy, size: float) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn(weight.shape, generator=generator))


def test_with_the_base_as_anchor_it_is_grpo(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    base = policy.snapshot()
    moved(policy, 0.015)
    twin = load_policy(policy.config, str(default_model_path()))
    twin.model.load_state_dict(copy.deepcopy(policy.model.state_dict()))
    expected, batch = loss_of(Grpo(KL), policy, None, base, stream, tmp_path)
    found, own = loss_of(AnchoredKl(KL), twin, base, None, stream, tmp_path)
    assert torch.equal(batch["completion_ids"], own["completion_ids"])
    assert found == pytest.approx(expected, abs=1e-6)
    without, _ = loss_of(Grpo(GrpoConfig(kl=0.0)), policy, None, None, stream, tmp_path)
    assert abs(expected - without) > 1e-4  # the term is felt


def test_an_anchor_other_than_the_base_is_what_it_holds_to_and_in_the_first_task_the_base(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    base = policy.snapshot()
    moved(policy, 0.015)
    anchored, batch = loss_of(AnchoredKl(KL), policy, policy.snapshot(), base, stream, tmp_path)
    without, _ = loss_of(Grpo(GrpoConfig(kl=0.0)), policy, None, None, stream, tmp_path)
    # the anchor is the policy itself: every ratio is 1 and the k3 term is 0
    assert anchored == pytest.approx(without, abs=1e-5)
    assert batch["ref_per_token_logps"].shape == batch["completion_ids"].shape
    expected, _ = loss_of(Grpo(KL), policy, None, base, stream, tmp_path)
    found, _ = loss_of(AnchoredKl(KL), policy, None, base, stream, tmp_path)
    assert found == pytest.approx(expected, abs=1e-6)


def test_with_an_adapter_the_anchor_is_the_second_adapter(
    lora_policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    moved(lora_policy, 0.05)
    anchor = lora_policy.snapshot()
    same, _ = loss_of(AnchoredKl(KL), lora_policy, anchor, None, stream, tmp_path)
    to_base, _ = loss_of(Grpo(KL), lora_policy, None, None, stream, tmp_path)
    without, _ = loss_of(Grpo(GrpoConfig(kl=0.0)), lora_policy, None, None, stream, tmp_path)
    assert same == pytest.approx(without, abs=1e-5)
    assert abs(to_base - without) > 1e-4


def test_it_asks_for_anchor_and_base_only_with_a_kl_term() -> None:
    assert METHODS["anchored_kl"](GrpoConfig()).needs == {"anchor", "reference"}
    assert METHODS["anchored_kl"](GrpoConfig(kl=0.0)).needs == set()
