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

from clrft.base_model import default_model_path
from methods import METHODS
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.base import Method, Rollouts, TaskContext
from methods.inputs.media import token_types
from methods.model.config import ModelConfig
from methods.model.policy import Policy, load_policy
from methods.settings import TrainConfig
from methods.training.dataset import reward_functions, rollout_dataset
from methods.training.fit import FitSettings, build_trainer, fit, rollout_arguments, shared_arguments
from task_streams.types import TaskStream

TRAIN = TrainConfig(updates=1, prompts_per_update=4)


def settings(tmp_path: Path, train: TrainConfig = TRAIN) -> FitSettings:
    return FitSettings(train, scratch=tmp_path)


def scored(trainer: Any, seed: int = 5) -> dict[str, Any]:
    """One generation batch, sampled and scored."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    torch.manual_seed(seed)
    return dict(trainer._generate_and_score_completions(batch))


def stock_trainer(policy: Policy, stream: TaskStream, tmp_path: Path) -> GRPOTrainer:
    """TRL's own GRPO on the same task, with TRL's own reference model and advantages."""
    method = METHODS["grpo"](METHODS["grpo"].Config())
    arguments = shared_arguments(method, policy, 3, settings(tmp_path)) | rollout_arguments(method, TRAIN)
    task = stream.tasks[1]
    return GRPOTrainer(
        model=policy.model,
        processing_class=policy.processor,
        args=GRPOConfig(**(arguments | {"beta": 2e-3})),
        train_dataset=rollout_dataset(task),
        reward_funcs=reward_functions(task),
    )


def hooked_trainer(method: Method, policy: Policy, anchor: Any, stream: TaskStream, tmp_path: Path) -> Any:
    context = TaskContext(stream.tasks[1], policy, anchor, seed=3)
    reference = None if policy.has_adapter else policy.snapshot()
    return build_trainer(method, context, reference, settings(tmp_path), [])


def test_rapo_without_its_two_parts_is_trls_grpo(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    twin = load_policy(policy.config, str(default_model_path()))
    stock = stock_trainer(policy, stream, tmp_path)
    ours = hooked_trainer(Rapo(RapoConfig(retention_weight=0.0, ctan=False)), twin, twin.snapshot(), stream, tmp_path)
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


def test_the_anchors_logps_are_those_of_a_separately_loaded_copy(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    anchor = policy.snapshot()
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.01)  # the policy moves on, its anchor does not
    trainer = hooked_trainer(Rapo(RapoConfig()), policy, anchor, stream, tmp_path)
    output = scored(trainer)
    actor, anchored = trainer._logps(output)
    copy_of_base = load_policy(policy.config, str(default_model_path())).snapshot()
    expected = independent_logps(copy_of_base.model, trainer, output)
    real = output["completion_mask"].bool()
    assert torch.allclose(anchored[real], expected[real], atol=1e-5)
    assert not torch.allclose(actor[real], expected[real], atol=1e-2)


def independent_logps(model: Any, trainer: Any, output: dict[str, Any]) -> Tensor:
    """Log-probabilities of the completions by the model's plain forward, [N, L]."""
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    types = token_types(ids, model.config)
    fields = trainer.generation.batch.repeated(torch.arange(len(ids))) | {"mm_token_type_ids": types}
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, **fields).logits
    length = output["completion_ids"].shape[1]
    logps = logits[:, -length - 1 : -1].log_softmax(dim=-1)
    return logps.gather(2, output["completion_ids"].unsqueeze(2)).squeeze(2)


class Recorded(Rapo):
    """RaPO that keeps what its hooks saw."""

    def __init__(self, config: RapoConfig) -> None:
        super().__init__(config)
        self.seen: list[Tensor] = []
        self.calls: list[str] = []

    def normalize_advantages(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        advantages = super().normalize_advantages(rewards, rollouts)
        self.seen.append(advantages)
        self.calls.append("normalize_advantages")
        return advantages

    def before_task(self, context: TaskContext) -> None:
        super().before_task(context)
        self.calls.append("before_task")

    def after_step(self, task_index: int, step: int) -> None:
        self.calls.append(f"after_step {step}")

    def after_task(self, context: TaskContext) -> None:
        self.calls.append("after_task")


def test_the_scale_moves_once_per_optimizer_step_whatever_the_accumulation(stream: TaskStream, tmp_path: Path) -> None:
    results = {}
    for accumulation in (1, 2, 4):
        policy = load_policy(ModelConfig(dtype="float32", device="cpu"), str(default_model_path()))
        method = Recorded(RapoConfig(scale_init_above=0.0))
        train = TrainConfig(updates=2, prompts_per_update=4, accumulation=accumulation, warmup=0)
        context = TaskContext(stream.tasks[1], policy, policy.snapshot(), seed=3)
        fit(method, context, policy.snapshot(), settings(tmp_path, train))
        assert method.ctan.steps_in_task == 2
        results[accumulation] = (method, policy)
    one, one_policy = results[1]
    assert one.calls == [
        "before_task",
        "normalize_advantages",
        "after_step 1",
        "normalize_advantages",
        "after_step 2",
        "after_task",
    ]
    for accumulation in (2, 4):
        other, other_policy = results[accumulation]
        assert torch.allclose(one.seen[0], other.seen[0], atol=1e-6)
        assert other.ctan.scale.value == pytest.approx(one.ctan.scale.value, abs=1e-6)
        for mine, theirs in zip(one_policy.model.parameters(), other_policy.model.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4)


def test_the_kl_reference_is_the_base_and_not_the_previous_tasks_policy(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    base = policy.snapshot()
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.01)
    context = TaskContext(stream.tasks[1], policy, policy.snapshot(), seed=3)
    trainer = build_trainer(Rapo(RapoConfig()), context, base, settings(tmp_path), [])
    output = scored(trainer)
    expected = independent_logps(base.model, trainer, output)
    real = output["completion_mask"].bool()
    assert torch.allclose(output["ref_per_token_logps"][real], expected[real], atol=1e-5)


def test_an_adapter_anchor_has_the_logps_of_a_full_copy(
    lora_policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    with torch.no_grad():
        for name, weight in lora_policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    full = copy.deepcopy(lora_policy.model)
    anchor = lora_policy.snapshot()
    with torch.no_grad():
        for name, weight in lora_policy.model.named_parameters():
            if ".default." in name:
                weight.mul_(1.5)
    trainer = hooked_trainer(Rapo(RapoConfig()), lora_policy, anchor, stream, tmp_path)
    output = scored(trainer)
    _, anchored = trainer._logps(output)
    real = output["completion_mask"].bool()
    assert torch.allclose(anchored[real], independent_logps(full, trainer, output)[real], atol=1e-5)
    trained = {name for name, weight in lora_policy.model.named_parameters() if weight.requires_grad}
    assert trained and all(".default." in name for name in trained)


class BadShape(Rapo):
    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        return super().shape_rewards(rewards, rollouts)[:-1]


class BadNumber(Rapo):
    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        return super().shape_rewards(rewards, rollouts) * float("nan")


@pytest.mark.parametrize(("broken", "reason"), [(BadShape, "returned shape"), (BadNumber, "not finite")])
def test_a_hook_that_returns_nonsense_is_named(
    broken: type[Rapo], reason: str, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    trainer = hooked_trainer(broken(RapoConfig()), policy, policy.snapshot(), stream, tmp_path)
    with pytest.raises(ValueError, match=f"rapo.shape_rewards returned.*{reason.removeprefix('returned ')}"):
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
def test_parts_of_an_update_keep_groups_together_and_learn_every_rollout_once(
    again: int, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    train = TrainConfig(updates=1, prompts_per_update=4, accumulation=2)
    method = Rapo(RapoConfig(group_size=4, updates_per_batch=again))
    context = TaskContext(stream.tasks[1], policy, policy.snapshot(), seed=3)
    trainer: Any = build_trainer(method, context, policy.snapshot(), settings(tmp_path, train), [])
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
def test_extra_loss_terms_count_once_per_update_whatever_the_accumulation(
    kind: type[Method], stream: TaskStream, tmp_path: Path
) -> None:
    ends = []
    for accumulation in (1, 2):
        policy = load_policy(ModelConfig(dtype="float32", device="cpu"), str(default_model_path()))
        train = TrainConfig(updates=1, prompts_per_update=4, accumulation=accumulation, warmup=0, max_grad_norm=1e9)
        method = kind(kind.Config())
        context = TaskContext(stream.tasks[1], policy, None, seed=3)
        reference = policy.snapshot() if "reference" in method.needs else None
        result = fit(method, context, reference, settings(tmp_path, train))
        ends.append(result.steps[0]["grad_norm"])
    # the pull's gradient alone, 0.2 |w|, dwarfs the rest: twice or half of it would show
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)
    assert ends[0] > 5
