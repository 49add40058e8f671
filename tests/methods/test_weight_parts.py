"""Parts that hold or average weights (L2, EWC, CPO, WiSE), by hand, and the Fisher information that EWC weighs by."""

import pytest
import torch
from torch import Tensor

from methods.model.config import Decoding
from methods.model.policy import Policy
from methods.model.weights import weighted_distance
from methods.parts.cpo import Cpo, CpoConfig, most_moved
from methods.parts.ewc import Ewc, EwcConfig
from methods.parts.l2 import L2, L2Config, L2Init
from methods.parts.wise import Wise, WiseConfig
from methods.training.fisher import diagonal_fisher
from task_streams.prompt import request
from task_streams.scenarios.draw import shuffled
from task_streams.types import TaskStream
from tests.methods.few_weights import context_of, policy_of, set_weights, terms_of
from tests.methods.test_targets import plain_logps


def test_l2_is_half_the_strength_times_the_squared_distance() -> None:
    policy, method = policy_of(a=[1.0, 2.0], b=[0.0]), L2(L2Config(strength=3.0))
    method.before_task(context_of(policy, 2))
    set_weights(policy, a=[1.5, 1.0], b=[2.0])
    penalty = terms_of(method, policy, 2)["l2_penalty"]
    # 3 / 2 * (0.5^2 + 1^2 + 2^2) = 1.5 * 5.25, and its gradient is 3 times the distance
    assert penalty.item() == pytest.approx(7.875)
    penalty.backward()
    assert policy.model.a.grad.tolist() == pytest.approx([1.5, -3.0])


def test_weights_that_are_not_trained_do_not_count() -> None:
    policy = policy_of(a=[1.0], b=[1.0])
    policy.model.b.requires_grad_(False)
    assert weighted_distance(policy.model, {"a": torch.zeros(1)}, None).item() == 1.0


@pytest.mark.parametrize(
    ("kind", "first", "centre"),
    [(L2, {}, 3.0), (L2Init, {"l2_init_penalty": 2.0}, 1.0)],  # 1 / 2 * 2^2
)
def test_l2_holds_to_the_previous_task_and_l2_init_to_the_base_also_in_a_new_object(
    kind: type[L2], first: dict[str, float], centre: float
) -> None:
    policy, method, fresh = policy_of(a=[1.0]), kind(L2Config()), kind(L2Config())
    method.before_task(context_of(policy, 1))
    set_weights(policy, a=[3.0])
    assert {name: term.item() for name, term in terms_of(method, policy, 1).items()} == first
    method.after_task(context_of(policy, 1))
    fresh.load_state_dict(method.state_dict())
    for one in (method, fresh):
        one.before_task(context_of(policy, 2))
        assert [value.tolist() for value in (one.centre or {}).values()] == [[centre]]


def test_ewc_weighs_squared_distances_by_a_running_fisher_information_also_in_a_new_object() -> None:
    config, policy = EwcConfig(strength=2.0, decay=0.5), policy_of(a=[0.0, 0.0])
    method, fresh = Ewc(config), Ewc(config)
    with pytest.raises(RuntimeError, match="no Fisher"):
        method.after_task(context_of(policy, 1))
    for task, fisher in ((1, [4.0, 2.0]), (2, [1.0, 0.0])):
        method.before_task(context_of(policy, task))
        assert task > 1 or terms_of(method, policy, 1) == {}  # the first task has no penalty
        method.after_task(context_of(policy, task, {"a": torch.tensor(fisher)}))
    assert method.fisher["a"].tolist() == [3.0, 1.0]  # 0.5 * [4, 2] + [1, 0]
    fresh.load_state_dict(method.state_dict())
    for one in (method, fresh):
        set_weights(policy, a=[1.0, 2.0])
        one.before_task(context_of(policy, 3))
        set_weights(policy, a=[1.5, 0.0])
        # 2 / 2 * (3 * 0.5^2 + 1 * 2^2)
        assert terms_of(one, policy, 3)["ewc_penalty"].item() == pytest.approx(4.75)


def ten_weights(fourth: float = 0.0, eighth: float = 0.0) -> list[float]:
    return [*[0.0] * 3, fourth, *[0.0] * 3, eighth, 0.0, 0.0]


def one_task_of_cpo() -> tuple[Cpo, Policy]:
    """Task 1 moved weight 3 of ``a`` most; ``b`` not at all."""
    method, policy = Cpo(CpoConfig(strength=10.0, share=0.1)), policy_of(a=ten_weights(), b=[1.0, 1.0])
    method.before_task(context_of(policy, 1))
    assert terms_of(method, policy, 1) == {}
    set_weights(policy, a=ten_weights(-0.5, 0.4))
    method.after_task(context_of(policy, 1))
    return method, policy


def test_cpo_is_the_mean_distance_of_the_weights_that_moved_most_also_in_a_new_object() -> None:
    method, policy = one_task_of_cpo()
    # a tensor that did not move is free
    assert {name: held.nonzero().flatten().tolist() for name, held in method.held.items()} == {"a": [3]}
    fresh = Cpo(CpoConfig(strength=10.0))
    fresh.load_state_dict(method.state_dict())
    for one in (method, fresh):
        set_weights(policy, a=ten_weights(-0.5, 0.4), b=[1.0, 1.0])
        one.before_task(context_of(policy, 2))
        set_weights(policy, a=ten_weights(-0.3, 3.0), b=[5.0, 5.0])
        # weight 3 went from -0.5 to -0.3: 10 * 0.2
        assert terms_of(one, policy, 2)["cpo_penalty"].item() == pytest.approx(2.0)


def test_each_task_adds_to_what_is_held_and_tensors_are_summed() -> None:
    method, policy = one_task_of_cpo()
    method.before_task(context_of(policy, 2))
    set_weights(policy, a=ten_weights(-0.5, 3.0), b=[1.0, 2.0])
    method.after_task(context_of(policy, 2))
    assert method.held["a"].nonzero().flatten().tolist() == [3, 7]
    assert method.held["b"].tolist() == [False, True]
    method.before_task(context_of(policy, 3))
    set_weights(policy, a=ten_weights(-0.6, 3.3), b=[9.0, 2.5])
    # a: mean of 0.1 and 0.3 = 0.2; b: 0.5; 10 * (0.2 + 0.5)
    penalty = terms_of(method, policy, 3)["cpo_penalty"]
    assert penalty.item() == pytest.approx(7.0, rel=1e-5)
    penalty.backward()
    # 10 * sign / 2 on the two of a, 10 on the one of b
    assert policy.model.a.grad.tolist() == pytest.approx(ten_weights(-5.0, 5.0))
    assert policy.model.b.grad.tolist() == [0.0, 10.0]


def test_of_equal_changes_the_first_are_held_and_of_no_change_none() -> None:
    assert most_moved(torch.tensor([1.0, 3.0, 3.0, 0.0]), 0.25).tolist() == [False, True, False, False]
    assert most_moved(torch.tensor([[1.0, 3.0], [1.0, 1.0]]), 0.5).tolist() == [[True, True], [False, False]]
    assert most_moved(torch.tensor([1.0, 0.0, 0.0, 0.0]), 0.75).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("task", "share", "expected"),
    # 0.75 [1, 2] + 0.25 [3, 0]; the first task is kept as it is
    [(2, 0.25, [1.5, 1.5]), (2, 1.0, [3.0, 0.0]), (2, 0.0, [1.0, 2.0]), (1, 0.25, [3.0, 0.0])],
)
def test_weights_end_between_those_before_and_after_the_task(task: int, share: float, expected: list[float]) -> None:
    policy, method = policy_of(a=[1.0, 2.0]), Wise(WiseConfig(share))
    method.before_task(context_of(policy, task))
    set_weights(policy, a=[3.0, 0.0])
    method.after_task(context_of(policy, task))
    assert policy.model.a.tolist() == expected
    assert policy.model.a.requires_grad


def test_half_precision_is_averaged_in_float32() -> None:
    policy, method = policy_of(a=[1.0]), Wise(WiseConfig(0.5))
    policy.model.to(torch.bfloat16)
    method.before_task(context_of(policy, 2))
    set_weights(policy, a=[1.0078125])  # the next number that bfloat16 has after 1
    method.after_task(context_of(policy, 2))
    assert policy.model.a.dtype == torch.bfloat16
    assert policy.model.a.item() in (1.0, 1.0078125)


# Diagonal Fisher information against a loop over single samples and the closed form of a softmax.


ITEMS, SEED = 3, 11


def estimated(policy: Policy, stream: TaskStream, seed: int = SEED) -> dict[str, Tensor]:
    task = stream.tasks[0]
    return diagonal_fisher(policy, task.train, task.trained, task.style, max_new_tokens=24, items=ITEMS, seed=seed)


def test_it_is_the_mean_of_the_squared_gradients_of_single_samples(policy: Policy, stream: TaskStream) -> None:
    found = estimated(policy, stream)
    task = stream.tasks[0]
    expected = {name: torch.zeros_like(weight) for name, weight in policy.model.named_parameters()}
    for number, example in enumerate(shuffled(task.train, SEED, "fisher")[:ITEMS]):
        asked = request(example, task.trained)
        text = policy.generate([asked], Decoding(24, temperature=1.0, seed=SEED + number))[0]
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
