"""O-LoRA: the penalty by hand, one adapter in blocks against adapters of their own, what stands still."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from clrft.base_model import default_model_path
from methods.model.config import ModelConfig
from methods.model.policy import Policy, load_policy, lora_config
from methods.model.weights import copied_weights, trained_weights
from methods.parts.olora import Olora, OloraConfig
from methods.settings import TrainConfig
from task_streams.prompt import request
from task_streams.types import TaskStream
from tests.methods.few_weights import context_of, terms_of
from tests.methods.trainers import learn
from tests.methods.two_tasks import made

RANK = 2  # of each task
STRONG = {"updates": 2, "prompts_per_update": 4, "warmup": 0, "learning_rate": 1e-2, "weight_decay": 0.5}


def small_policy(*layers: nn.Module, rank: int) -> Policy:
    """A few layers with PEFT's adapter on each of them."""
    base = nn.Sequential(*layers)
    names = [str(number) for number in range(len(layers))]
    config = ModelConfig(adapter="lora", lora_rank=rank, lora_targets="|".join(names))
    return Policy(get_peft_model(base, lora_config(config)), None, config, "eager")


def linear_policy(*factors: list[list[float]]) -> Policy:
    """Layers whose A have these values, [R, in] each."""
    policy = small_policy(*(nn.Linear(len(rows[0]), 2) for rows in factors), rank=len(factors[0]))
    for rows, weight in zip(factors, factors_a(policy), strict=True):
        weight.data.copy_(torch.tensor(rows))
    return policy


def factors_a(policy: Policy) -> list[nn.Parameter]:
    """Every A of the adapter."""
    return [weight for name, weight in trained_weights(policy.model) if "_A." in name]


def method_of(rank: int, strength: float = 0.5) -> Olora:
    return Olora(OloraConfig(strength=strength, rank=rank))


def penalty(policy: Policy, task: int, rank: int) -> Tensor:
    """The penalty of a task that begins with the weights as they are."""
    method = method_of(rank)
    method.before_task(context_of(policy, task))
    value = terms_of(method, policy, task)["olora_penalty"]
    value.backward()
    method.after_step(task, 1)
    return value.detach()


def test_the_penalty_sums_over_earlier_tasks_and_layers() -> None:
    first = [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [3.0, -4.0, -1.0]]  # a3 a1 = 3 - 2 = 1, a3 a2 = -4
    second = [[1.0, 1.0], [2.0, 0.0], [-1.0, 3.0]]  # a3 a1 = 2, a3 a2 = -2
    policy = linear_policy(first, second)
    assert penalty(policy, task=3, rank=1).item() == 0.5 * (1 + 4 + 2 + 2)
    one, other = (weight.grad for weight in factors_a(policy))
    # 0.5 (sign(a3 a1) a1 + sign(a3 a2) a2), and nothing for the tasks before
    assert one is not None and one.tolist() == [[0, 0, 0], [0, 0, 0], [0.5, -0.5, 1.0]]
    assert other is not None and other.tolist() == [[0, 0], [0, 0], [-0.5, 0.5]]


def test_the_penalty_sums_all_entries_of_a_block() -> None:
    policy = linear_policy([[1.0, 0.0], [0.0, 1.0], [1.0, -2.0], [3.0, 4.0], [9.0, 9.0], [9.0, 9.0]])
    # rows of A_2 by the unit rows of A_1: its entries, 1, -2, 3 and 4; the third task's block does not count
    assert penalty(policy, task=2, rank=2).item() == 0.5 * (1 + 2 + 3 + 4)


def test_the_penalty_sees_the_weights_as_they_are_now_and_the_first_task_has_none() -> None:
    policy, method = linear_policy([[1.0, 0.0], [0.0, 1.0]]), method_of(1)
    method.before_task(context_of(policy, 1))
    assert terms_of(method, policy, 1) == {}
    method.before_task(context_of(policy, 2))
    assert terms_of(method, policy, 2)["olora_penalty"].item() == 0
    factors_a(policy)[0].data[1] = torch.tensor([-3.0, 1.0])
    assert terms_of(method, policy, 2)["olora_penalty"].item() == 0.5 * 3


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv2d(3, 2, 2), nn.Embedding(5, 3)])
def test_only_the_own_block_of_every_kind_of_layer_learns(layer: nn.Module) -> None:
    policy, method = small_policy(layer, rank=3), method_of(1)
    weights = dict(trained_weights(policy.model))
    for weight in weights.values():
        weight.data.fill_(1.0)
    before = copied_weights(policy.model)
    optimizer = torch.optim.AdamW(weights.values(), lr=0.1, weight_decay=0.5)
    method.before_task(context_of(policy, 2))
    for step in (1, 2):
        terms_of(method, policy, 2)
        sum(weight.square().sum() for weight in weights.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(2, step)
    for name, weight in weights.items():
        by_row, old = (one.detach().transpose(0, int("_B" in name)) for one in (weight, before[name]))
        assert torch.equal(by_row[0], old[0]) and torch.equal(by_row[2], old[2])
        assert (by_row[1] - old[1]).abs().min() > 0.05


def test_between_steps_gradients_are_whole_and_a_failed_step_does_not_bind_the_next_method() -> None:
    policy, method, fresh = linear_policy([[1.0, 0.0], [0.0, 1.0]]), method_of(1), method_of(1)
    (weight,) = factors_a(policy)
    method.before_task(context_of(policy, 1))
    terms_of(method, policy, 1)
    method.after_step(1, 1)
    assert torch.autograd.grad(weight.sum(), [weight])[0].tolist() == [[1, 1], [1, 1]]
    terms_of(method, policy, 1)  # and no end of the step
    fresh.before_task(context_of(policy, 2))
    terms_of(fresh, policy, 2)
    weight.sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[0, 0], [1, 1]]


def test_an_adapter_is_needed_with_room_for_every_task(policy: Policy, lora_policy: Policy, stream: TaskStream) -> None:
    method = method_of(8)
    each = "part 'olora' gives each of 5 tasks a rank of its own (8)"
    assert method.problems(policy, stream.tasks) == [
        f"{each} in a LoRA adapter; expected model.adapter=lora and model.lora_rank=40."
    ]
    assert method.problems(lora_policy, stream.tasks) == [f"model.lora_rank: got 4, but {each}; expected at least 40."]
    assert method_of(1).problems(lora_policy, stream.tasks[:4]) == []
    assert method_of(1).problems(lora_policy, stream.tasks) != []


def adapted(rank: int, alpha: int) -> Policy:
    """The embedded model with an adapter of that rank."""
    config = ModelConfig(dtype="float32", device="cpu", adapter="lora", lora_rank=rank, lora_alpha=alpha)
    return load_policy(config, str(default_model_path()))


@pytest.mark.parametrize("learner", ["sft", "rapo"])
def test_all_but_a_tasks_own_block_stands_still(learner: str, stream: TaskStream, tmp_path: Path) -> None:
    policy, make = adapted(3 * RANK, 32), made(learner, "olora", rank=RANK)
    for task in (1, 2):
        before = copied_weights(policy.model)
        learn(make(), policy, stream.tasks[task - 1], tmp_path, **STRONG)
        own = torch.arange(3 * RANK) // RANK == task - 1
        for name, weight in copied_weights(policy.model).items():
            moved = (weight != before[name]).transpose(0, int("_B" in name))  # by rows of the adapter
            assert moved[own].any() and not moved[~own].any(), name


def test_one_adapter_in_blocks_answers_like_adapters_of_their_own(stream: TaskStream, tmp_path: Path) -> None:
    policy = adapted(2 * RANK, 32)
    for task in (1, 2):
        learn(made("sft", "olora", rank=RANK)(), policy, stream.tasks[task - 1], tmp_path, **STRONG)
    apart = adapted(RANK, 16).model  # 16 / 2 = 32 / 4
    apart.add_adapter("second", apart.peft_config["default"])
    mine = copied_weights(policy.model)
    theirs = dict(apart.named_parameters())
    with torch.no_grad():
        for name, weight in mine.items():
            first, second = weight.chunk(2, dim=int("_B" in name))
            theirs[name].copy_(first)
            theirs[name.replace("default", "second")].copy_(second)
    inputs = policy.encode([request(one, stream.labels) for one in stream.tasks[0].test[:4]])
    together, alone = logits(policy.model, inputs), logits(apart, inputs)
    assert not torch.allclose(together, alone, atol=1e-2)  # the second task counts
    apart.base_model.set_adapter(["default", "second"])
    assert torch.allclose(together, logits(apart, inputs), atol=1e-4)


@torch.no_grad()
def logits(model: Any, inputs: Any) -> Tensor:
    return model.eval()(**inputs).logits  # type: ignore[no-any-return]


def block(weight: Tensor, name: str) -> Tensor:
    """The first task's."""
    return weight.narrow(int("_B" in name), 0, RANK)


def test_a_task_is_learned_as_with_an_adapter_of_its_own(stream: TaskStream, tmp_path: Path) -> None:
    train = {"updates": 3, "prompts_per_update": 4, "warmup": 0, "max_grad_norm": 0.1}
    policy, alone = adapted(2 * RANK, 32), adapted(RANK, 16)
    blocks = copied_weights(policy.model)
    with torch.no_grad():
        for name, weight in trained_weights(alone.model):
            weight.copy_(block(blocks[name], name))
    mine = learn(made("sft", "olora", rank=RANK)(), policy, stream.tasks[0], tmp_path, **train)
    theirs = learn(made("sft")(), alone, stream.tasks[0], tmp_path, **train)
    for one, other in zip(mine.steps, theirs.steps, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)  # clipping sees the block alone
    learned = copied_weights(policy.model)
    expected = copied_weights(alone.model).items()
    squares = [(block(learned[name], name) - weight).square().flatten() for name, weight in expected]
    assert torch.cat(squares).mean().sqrt() < 1e-2 * TrainConfig().learning_rate
