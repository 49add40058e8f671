"""The seam against TRL itself, on the embedded model and real images."""

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from methods import METHODS
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.base import Method, Rollouts
from methods.guard import GuardedMethod
from methods.model.policy import Policy
from methods.settings import TrainConfig
from methods.training.dataset import reward_functions, rollout_dataset
from methods.training.fit import FitSettings, rollout_arguments, shared_arguments
from task_streams.errors import UserError
from task_streams.types import Task, TaskStream
from tests.methods.trainers import learn, own_logps, scored, trained, trainer_of
from tests.methods.two_tasks import fresh_policy


def rapo(**settings: Any) -> Rapo:
    return Rapo(RapoConfig(**settings))


def moved(policy: Policy, factor: float = 1.01) -> Policy:
    """The policy after it has gone on from what it was."""
    with torch.no_grad():
        for weight in trained(policy):
            weight.mul_(factor)
    return policy


def stock_trainer(policy: Policy, task: Task, tmp_path: Path) -> GRPOTrainer:
    """TRL's own GRPO on the same task, with TRL's own reference model and advantages."""
    method, train = METHODS["grpo"](METHODS["grpo"].Config()), TrainConfig(updates=1, prompts_per_update=4)
    arguments = shared_arguments(method, policy, 3, FitSettings(train, tmp_path)) | rollout_arguments(method, train)
    return GRPOTrainer(
        model=policy.model,
        processing_class=policy.processor,
        args=GRPOConfig(**(arguments | {"beta": 2e-3})),
        train_dataset=rollout_dataset(task),
        reward_funcs=reward_functions(task),
    )


def test_rapo_without_its_two_parts_is_trls_grpo(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    twin = fresh_policy()
    stock = stock_trainer(policy, stream.tasks[1], tmp_path)
    ours = trainer_of(rapo(retention_weight=0.0, ctan=False), twin, stream.tasks[1], tmp_path, twin.snapshot())
    expected, found = scored(stock), scored(ours)
    assert torch.equal(expected["completion_ids"], found["completion_ids"])
    assert expected["advantages"].abs().max() > 0.1  # a batch that teaches something
    assert torch.allclose(expected["advantages"], found["advantages"], atol=1e-6, rtol=0)
    loss, our_loss = stock.compute_loss(stock.model, expected), ours.compute_loss(ours.model, found)
    assert loss.item() == pytest.approx(our_loss.item(), abs=1e-6)
    loss.backward()
    our_loss.backward()
    for (name, weight), (_, twin_weight) in zip(
        policy.model.named_parameters(), twin.model.named_parameters(), strict=True
    ):
        if weight.grad is not None:
            assert torch.allclose(weight.grad, twin_weight.grad, atol=1e-6), name


def test_anchor_and_reference_say_what_copies_say(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    base, anchor = policy.snapshot(), moved(policy).snapshot()
    trainer = trainer_of(rapo(), moved(policy), stream.tasks[1], tmp_path, anchor, base)
    output = scored(trainer)
    real = output["completion_mask"].bool()
    first, second = fresh_policy(), fresh_policy()
    for found, copied in (
        (output["ref_per_token_logps"], first),  # the base, and not the previous task's policy
        (trainer._asked("anchor", output), moved(second)),
        (trainer._asked("policy", output), policy),
    ):
        assert torch.allclose(found[real], own_logps(copied.model, trainer, output)[real], atol=1e-5)
    assert not torch.allclose(output["ref_per_token_logps"][real], trainer._asked("policy", output)[real], atol=1e-2)


def test_the_scale_moves_once_per_optimizer_step_whatever_the_accumulation(stream: TaskStream, tmp_path: Path) -> None:
    results: list[Any] = []
    for accumulation in (1, 4):
        policy, method = fresh_policy(), GuardedMethod(rapo(scale_init_above=0.0))
        calls: list[tuple[str, Any]] = []

        def observe(hook: str, call: Any, arguments: list[Any], calls: Any = calls) -> Any:
            calls.append((f"after_step {arguments[1]}" if hook == "after_step" else hook, call(*arguments)))
            return calls[-1][1]

        method.observe = observe
        train = {"updates": 2, "prompts_per_update": 4, "accumulation": accumulation, "warmup": 0}
        learn(method, policy, stream.tasks[1], tmp_path, **train)
        assert method.inner.steps_in_task == 2  # type: ignore[attr-defined]
        first = next(result for hook, result in calls if hook == "normalize_advantages")
        results.append((method.inner, policy, first, [hook for hook, _ in calls]))
    (one, one_policy, advantages, hooks), (other, other_policy, others, _) = results
    steps = ["normalize_advantages", "after_step 1", "normalize_advantages", "after_step 2"]
    order = ["before_task", *steps, "after_task"]
    assert [hook for hook in hooks if hook in order] == order
    assert torch.allclose(advantages, others, atol=1e-6)
    assert other.scale.value == pytest.approx(one.scale.value, abs=1e-6)
    for mine, theirs in zip(one_policy.model.parameters(), other_policy.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_an_adapter_anchor_says_what_a_copy_says(lora_policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    with torch.no_grad():
        for name, weight in lora_policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    full = copy.deepcopy(lora_policy.model)
    anchor = lora_policy.snapshot()
    trainer = trainer_of(rapo(), moved(lora_policy, 1.5), stream.tasks[1], tmp_path, anchor)
    output = scored(trainer)
    anchored, real = trainer._asked("anchor", output), output["completion_mask"].bool()
    expected, now = (own_logps(model, trainer, output)[real] for model in (full, lora_policy.model))
    assert torch.allclose(anchored[real], expected, atol=1e-5)
    assert (now - expected).abs().max() > 0.1  # the policy has moved on, and the anchor has not
    names = {name for name, weight in lora_policy.model.named_parameters() if weight.requires_grad}
    assert names and all(".default." in name for name in names)


@pytest.mark.parametrize(("spoiled", "reason"), [(slice(0, -1), "shape"), (None, ".*not finite")])
def test_a_bad_hook_is_named(
    spoiled: slice | None, reason: str, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    class Bad(Rapo):
        def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
            return rewards[spoiled] if spoiled else rewards * float("nan")

    trainer = trainer_of(GuardedMethod(Bad(RapoConfig())), policy, stream.tasks[1], tmp_path, policy.snapshot())
    with pytest.raises(UserError, match=rf"method 'rapo' \(.*\), shape_rewards: returned {reason}"):
        scored(trainer)


def test_trl_still_has_the_private_methods_that_the_seam_uses() -> None:
    expected = {
        "_generate_and_score_completions": ["self", "inputs"],
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
        "_compute_loss": ["self", "model", "inputs"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == parameters
    logps = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    assert {"model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"} <= set(logps)


@pytest.mark.parametrize("again", [1, 2])
def test_parts_of_an_update_are_whole_groups(again: int, policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    method = rapo(group_size=4, updates_per_batch=again)
    trainer = trainer_of(method, policy, stream.tasks[1], tmp_path, policy.snapshot(), accumulation=2)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    first = trainer._prepare_inputs(batch)
    made = trainer._buffered_inputs
    assert first is made[0] and [part["rollout"].tolist() for part in made] == [list(range(8)), list(range(8, 16))]
    whole = trainer.generation.batch
    for part in made:  # every row has its own rollout's numbers
        rows = part["rollout"]
        assert part["prompt_ids"].tolist() == whole.prompts.ids[whole.rows[rows]].tolist()
    trainer._step += 1
    assert trainer._prepare_inputs(batch) is made[1]
    meter = policy.meter
    meter.taken()
    trainer.current_gradient_accumulation_steps = 2
    trainer._compute_loss(trainer.model, made[1])
    computed = meter.taken()["prompt_tokens_computed"]
    assert computed == whole.prompts.mask[2:].sum()  # two prompts of the batch's four


class Pulled(METHODS["sft"]):  # type: ignore[misc, valid-type]
    """Supervised fine-tuning with a strong pull of all weights towards zero."""

    def loss_terms(self, context: Any) -> dict[str, Tensor]:
        return {"pull": 0.1 * sum((weight**2).sum() for weight in context.model.parameters())}


class PulledGrpo(METHODS["grpo"]):  # type: ignore[misc, valid-type]
    """The same on GRPO."""

    loss_terms = Pulled.loss_terms


@pytest.mark.parametrize("kind", [Pulled, PulledGrpo])
def test_extra_loss_terms_count_once_per_update(kind: type[Method], stream: TaskStream, tmp_path: Path) -> None:
    train = {"updates": 1, "prompts_per_update": 4, "warmup": 0, "max_grad_norm": 1e9}
    results = [
        learn(kind(kind.Config()), fresh_policy(), stream.tasks[1], tmp_path, accumulation=accumulation, **train)
        for accumulation in (1, 2)
    ]
    ends = [result.steps[0]["grad_norm"] for result in results]
    # the pull's gradient alone, 0.2 |w|, dwarfs the rest: twice or half of it would show
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)
    assert ends[0] > 5
