"""Diagonal Fisher information against a loop over single samples and the closed form of a softmax."""

import pytest
import torch
from torch import Tensor

from methods.model.config import Decoding
from methods.model.policy import Policy
from methods.training.fisher import diagonal_fisher
from task_streams.prompt import request
from task_streams.scenarios.draw import shuffled
from task_streams.types import TaskStream
from tests.methods.test_targets import plain_logps

ITEMS, SEED, TOKENS = 3, 11, 24


def estimated(policy: Policy, stream: TaskStream, seed: int = SEED) -> dict[str, Tensor]:
    task = stream.tasks[0]
    return diagonal_fisher(policy, task.train, task.trained, task.style, max_new_tokens=TOKENS, items=ITEMS, seed=seed)


def test_it_is_the_mean_of_the_squared_gradients_of_single_samples(policy: Policy, stream: TaskStream) -> None:
    found = estimated(policy, stream)
    task = stream.tasks[0]
    expected = {name: torch.zeros_like(weight) for name, weight in policy.model.named_parameters()}
    for number, example in enumerate(shuffled(task.train, SEED, "fisher")[:ITEMS]):
        asked = request(example, task.trained)
        text = policy.generate([asked], Decoding(TOKENS, temperature=1.0, seed=SEED + number))[0]
        policy.model.zero_grad()
        plain_logps(policy, asked, text).sum().backward()
        for name, weight in policy.model.named_parameters():
            if weight.grad is not None:
                expected[name] += weight.grad**2 / ITEMS
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-6 * value.max().item() + 1e-12), name
    assert max(value.max().item() for value in found.values()) > 0


def test_it_follows_the_seed_and_leaves_the_policy_and_its_mode_as_they_were(
    policy: Policy, stream: TaskStream
) -> None:
    before = {name: weight.clone() for name, weight in policy.model.named_parameters()}
    policy.model.train()
    first, again, other = (estimated(policy, stream, seed) for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    assert policy.model.training
    for name, weight in policy.model.named_parameters():
        assert torch.equal(weight, before[name]) and weight.grad is None


def test_an_adapters_fisher_is_that_of_the_adapter_alone(lora_policy: Policy, stream: TaskStream) -> None:
    found = estimated(lora_policy, stream)
    assert found and all("lora_" in name for name in found)
    # B is 0 at first, so nothing that A does is seen yet: its gradient is 0, that of B is not
    assert max(value.max().item() for name, value in found.items() if "lora_A" in name) == 0
    assert max(value.max().item() for name, value in found.items() if "lora_B" in name) > 0


def test_a_sure_policy_has_no_information(policy: Policy, stream: TaskStream) -> None:
    # grad of log softmax_y = (e_y - p): as p_y goes to 1 it goes to 0, and so does its square
    unsure = estimated(policy, stream)
    hook = policy.model.get_output_embeddings().register_forward_hook(lambda module, given, logits: logits * 1000)
    sure = estimated(policy, stream)
    hook.remove()
    name = next(name for name in unsure if name.endswith("norm.weight"))
    assert sure[name].max().item() == pytest.approx(0.0, abs=1e-6)
    assert unsure[name].max().item() > 1e-6
