"""Policy losses against TRL's own trainer and their formulas written out, and whose policy the KL term holds to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from methods import METHODS
from methods.algorithms.anchored_kl import AnchoredKl
from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.base import Method, TaskContext
from methods.model.policy import Policy
from methods.model.snapshots import Snapshot
from methods.settings import TrainConfig
from methods.training.budget import planned_updates
from methods.training.dataset import reward_functions, rollout_dataset
from methods.training.fit import FitSettings, fit, rollout_arguments, shared_arguments
from task_streams.types import TaskStream
from tests.methods.hand_made import rollouts
from tests.methods.trainers import scored, trainer_of
from tests.methods.two_tasks import fresh_policy, shaken

TRAIN = TrainConfig(updates=1, prompts_per_update=4)
LOSSES = ("dr_grpo", "dapo", "gspo", "sapo")


def made(name: str, **settings: Any) -> Method:
    return METHODS[name](METHODS[name].Config(**settings))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_trls_own_with_the_same_arguments(
    name: str, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    """TRL scales the advantages itself here, by the same arguments."""
    method = made(name)
    twin = fresh_policy()
    arguments = shared_arguments(method, policy, 3, FitSettings(TRAIN, tmp_path))
    stock = GRPOTrainer(
        model=policy.model,
        processing_class=policy.processor,
        args=GRPOConfig(**arguments, **rollout_arguments(method, TRAIN)),
        train_dataset=rollout_dataset(stream.tasks[1]),
        reward_funcs=reward_functions(stream.tasks[1]),
    )
    ours = trainer_of(method, twin, stream.tasks[1], tmp_path)
    expected, found = scored(stock), scored(ours)
    assert torch.equal(expected["completion_ids"], found["completion_ids"])
    assert expected["advantages"].abs().max() > 0.1
    assert torch.allclose(expected["advantages"], found["advantages"], atol=1e-6, rtol=0)
    loss, our_loss = stock.compute_loss(stock.model, expected), ours.compute_loss(ours.model, found)
    assert loss.item() == pytest.approx(our_loss.item(), abs=1e-6)
    loss.backward()
    our_loss.backward()
    pairs = zip(policy.model.parameters(), twin.model.parameters(), strict=True)
    gradients = [(one.grad, other.grad) for one, other in pairs if one.grad is not None]
    assert any(one.abs().max() > 0 for one, _ in gradients)
    assert all(other is not None and torch.allclose(one, other, atol=1e-6) for one, other in gradients)


def formula(name: str, advantages: Tensor, ratio: Tensor, mask: Tensor, limit: int) -> float:
    """The papers' losses with their defaults, completion by completion; ratios of tokens, [N, L]."""
    rows = []
    for advantage, own, real in zip(advantages.tolist(), ratio, mask.bool(), strict=True):
        tokens = own[real]
        if name == "gspo":
            tokens = tokens.log().mean().exp().expand(len(tokens))  # geometric mean, for every token
        low, high = {"gspo": (3e-4, 4e-4), "dapo": (0.2, 0.28)}.get(name, (0.2, 0.2))
        clipped = torch.minimum(tokens * advantage, tokens.clamp(1 - low, 1 + high) * advantage)
        temperature = 1.0 if advantage > 0 else 1.05
        gated = 4 / temperature / (1 + torch.exp(-temperature * (tokens - 1))) * advantage
        rows.append(-(gated if name == "sapo" else clipped))
    if name == "dapo":
        return torch.cat(rows).mean().item()  # over all tokens
    if name == "dr_grpo":
        return torch.cat(rows).sum().item() / (len(rows) * limit)  # over the limit, whatever the length
    return torch.stack([row.mean() for row in rows]).mean().item()


@pytest.mark.parametrize("name", LOSSES)
def test_off_policy_the_losses_are_their_papers_formulas(
    name: str, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    settings = {"mask_truncated": False} if name == "dapo" else {}
    trainer = trainer_of(made(name, **settings), policy, stream.tasks[1], tmp_path)
    batch = scored(trainer)
    logps = trainer._asked("policy", batch)
    generator = torch.Generator().manual_seed(1)
    log_ratio = 0.4 * torch.randn(logps.shape, generator=generator)  # some ratios inside the clip, some beyond
    batch["old_per_token_logps"] = logps - log_ratio
    expected = formula(name, batch["advantages"], log_ratio.exp(), batch["completion_mask"], 24)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, abs=1e-5)


def test_dr_grpo_centres_without_scaling() -> None:
    method = made("dr_grpo")
    rewards = torch.tensor([2.0, 0.0, 1.0, 1.0])
    step, _ = rollouts({"accuracy": rewards.tolist()}, group_size=2)
    assert method.normalize_advantages(rewards, step).tolist() == [1.0, -1.0, 0.0, 0.0]


def test_completions_that_were_cut_off_are_left_out_of_dapos_loss_but_not_of_the_drift(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    method = made("dapo", temperature=1.5)
    limit = {"max_completion_tokens": 14}  # too short for some
    trainer = trainer_of(method, policy, stream.tasks[1], tmp_path, policy.snapshot(), **limit)
    seen: list[Any] = []
    normalise = method.normalize_advantages
    method.normalize_advantages = lambda rewards, step: seen.append(step) or normalise(rewards, step)  # type: ignore
    batch = scored(trainer)
    cut = ~batch["completion_mask"].bool().any(dim=1)
    assert 0 < int(cut.sum()) < len(cut)  # some, but not all
    step = seen[0]
    assert step.mask[cut].bool().all()  # every token of a cut-off completion was sampled
    assert (step.actor_logps[cut] < 0).any(dim=1).all()
    assert torch.equal(step.mask[~cut], batch["completion_mask"][~cut])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_more_updates_per_batch_learn_from_the_same_rollouts_again(
    accumulation: int, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    method = made("grpo", updates_per_batch=2, kl=0.0)
    train = TrainConfig(updates=4, prompts_per_update=4, warmup=0, accumulation=accumulation, learning_rate=1e-3)
    calls: list[int] = []
    normalise = method.normalize_advantages
    method.normalize_advantages = lambda rewards, step: calls.append(1) or normalise(rewards, step)  # type: ignore
    context = TaskContext(stream.tasks[0], policy, None, seed=3)
    result = fit(method, context, None, FitSettings(train, tmp_path))
    assert len(result.steps) == 4 and len(calls) == 2  # four updates, two batches of rollouts
    assert ["reward" in row for row in result.steps] == [True, False, True, False]


def test_epochs_count_every_update_of_a_batch() -> None:
    train = TrainConfig(epochs=2, prompts_per_update=4)
    # 10 examples fill two batches of four; two epochs, three updates on each batch
    assert planned_updates(made("grpo", updates_per_batch=3), train, 10) == 2 * 2 * 3


# The KL term: GRPO's holds to the base, that of ``anchored_kl`` to the anchor.

WITH_KL, NO_KL = GrpoConfig(kl=0.5), GrpoConfig(kl=0.0)


def loss_of(
    method: Grpo, policy: Policy, stream: TaskStream, folder: Path, *held: Snapshot | None
) -> tuple[float, dict[str, Any]]:
    """A loss and its batch; ``held``: the anchor and the reference."""
    trainer = trainer_of(method, policy, stream.tasks[1], folder, *held)
    batch = scored(trainer)
    return trainer.compute_loss(trainer.model, batch).item(), batch


def test_with_the_base_as_anchor_it_is_grpo_also_in_the_first_task(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    base, twin = policy.snapshot(), fresh_policy()
    for one in (policy, twin):
        shaken(one, 0.015)
    expected, batch = loss_of(Grpo(WITH_KL), policy, stream, tmp_path, None, base)
    found, own = loss_of(AnchoredKl(WITH_KL), twin, stream, tmp_path, base)
    assert torch.equal(batch["completion_ids"], own["completion_ids"])
    assert found == pytest.approx(expected, abs=1e-6)
    in_the_first_task, _ = loss_of(AnchoredKl(WITH_KL), policy, stream, tmp_path, None, base)
    assert in_the_first_task == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("adapter", "size"), [("none", 0.015), ("lora", 0.05)])
def test_an_anchor_other_than_the_base_is_what_it_holds_to(
    adapter: str, size: float, stream: TaskStream, tmp_path: Path
) -> None:
    policy = fresh_policy(adapter)
    base = policy.snapshot() if adapter == "none" else None  # with an adapter it is the model without it
    shaken(policy, size)
    anchored, batch = loss_of(AnchoredKl(WITH_KL), policy, stream, tmp_path, policy.snapshot(), base)
    assert batch["ref_per_token_logps"].shape == batch["completion_ids"].shape
    to_base, _ = loss_of(Grpo(WITH_KL), policy, stream, tmp_path, None, base)
    without, _ = loss_of(Grpo(NO_KL), policy, stream, tmp_path)
    # the anchor is the policy itself: every ratio is 1 and the k3 term is 0
    assert anchored == pytest.approx(without, abs=1e-5)
    assert abs(to_base - without) > 1e-4  # the term is felt


def test_it_asks_for_anchor_and_base_only_with_a_kl_term() -> None:
    assert METHODS["anchored_kl"](WITH_KL).needs == {"anchor", "reference"}
    assert METHODS["anchored_kl"](NO_KL).needs == set()
