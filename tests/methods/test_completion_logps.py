"""Completions behind their prompt in one row, and log-probabilities in parts, have the plain numbers and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from methods.costs import pass_sizes
from methods.costs.pass_sizes import in_one_row
from methods.generation import completion_logps as module
from methods.generation.completion_logps import completion_logps, completion_states, laid_out, token_logps
from methods.generation.shared_prefix import prefill
from methods.model.policy import Policy
from task_streams.types import TaskStream
from tests.methods.test_frozen_prefixes import Asked
from tests.methods.trainers import assert_same_gradients, trained

LENGTHS = (6, 2, 5, 1, 6, 3)  # of six completions; none of one token is alone in its group


def completions() -> tuple[Tensor, Tensor]:
    """Right-padded tokens and their mask, [6, 6] each."""
    tokens = torch.randint(4, 200, (6, 6), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(6) < torch.tensor(LENGTHS)[:, None]).long()
    return tokens * mask, mask


def scored(policy: Policy, stream: TaskStream, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies; prompts are of two lengths."""
    tokens, mask = completions()
    prefix = prefill(policy.model, Asked(policy, stream).prompts([0, 1, 2])[1])
    return completion_logps(policy.model, prefix, torch.tensor(rows), tokens, mask, 0.8)


@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
@pytest.mark.parametrize("rows", [[0, 0, 0, 1, 1, 1], [2, 2, 0, 0, 2, 2]])
def test_states_and_gradients_are_those_of_rows_of_their_own(
    kind: str, rows: list[int], request: pytest.FixtureRequest, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy: Policy = request.getfixturevalue(kind)
    calls: list[int] = []
    real = module._in_one_row
    monkeypatch.setattr(module, "_in_one_row", lambda *given: calls.append(1) or real(*given))  # type: ignore[func-returns-value]
    together = scored(policy, stream, rows)
    assert calls == [1]
    monkeypatch.setattr(pass_sizes, "MOST", 0.0)
    alone = scored(policy, stream, rows)
    assert calls == [1]
    assert torch.allclose(together[0], alone[0], rtol=1e-5, atol=1e-5)
    assert torch.allclose(together[1], alone[1], rtol=1e-4, atol=1e-5)
    assert_same_gradients(together[0], alone[0], trained(policy))


def test_what_runs_in_one_row_and_what_does_not(
    policy: Policy, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_one_row(group=8, prompt=1024, completion=63, attention="sdpa")  # 1,528 of 1,087 keys: 1.41 times
    assert not in_one_row(group=8, prompt=700, completion=63, attention="sdpa")  # 1,204 of 763: 1.58 times
    assert not in_one_row(group=1, prompt=1024, completion=63, attention="sdpa")
    assert not in_one_row(group=8, prompt=1024, completion=63, attention="flash_attention_2")  # takes no such mask

    def refused(*_: Any) -> Tensor:
        raise AssertionError("in one row")

    monkeypatch.setattr(module, "_in_one_row", refused)
    prefix = prefill(policy.model, Asked(policy, stream).prompts([0, 1, 2])[1])
    tokens, mask = completions()
    rows = torch.tensor([0, 0, 1, 1, 1, 2])  # groups of two, three and one
    assert completion_states(policy.model, prefix, rows, tokens, mask).shape[:2] == (6, 6)
    first = completion_states(policy.model, prefix, rows, tokens[:, :1], mask[:, :1])  # nothing is read
    monkeypatch.setattr(module, "sees_all", lambda _: False)  # a sliding window has another mask
    assert completion_states(policy.model, prefix, torch.tensor([0, 0, 1, 1, 2, 2]), tokens, mask).shape[:2] == (6, 6)
    assert torch.equal(first, prefix.last[rows, None])


@pytest.mark.parametrize(
    ("rows", "order", "group"),
    [([0, 0, 1, 1], [0, 1], 2), ([0, 1, 2], [0, 1, 2], 1), ([1, 0], [1, 0], 1), ([0, 0, 1], [0, 0, 1], 1)],
)
def test_runs_of_unequal_length_have_their_prompts_for_themselves(
    rows: list[int], order: list[int], group: int
) -> None:
    found, size = laid_out(torch.tensor(rows))
    assert (found.tolist(), size) == (order, group)


class Headed(torch.nn.Linear):
    """A model that is an output head alone."""

    def get_output_embeddings(self) -> torch.nn.Module:
        return self


def example(seed: int = 0) -> tuple[Headed, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A head over 5 tokens, states of 3 completions of up to 4 tokens, the tokens, and which are real."""
    generator = torch.Generator().manual_seed(seed)
    head = Headed(6, 5, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(5, 6, generator=generator))
    hidden = torch.randn(3, 4, 6, generator=generator, requires_grad=True)
    tokens = torch.randint(0, 5, (3, 4), generator=generator)
    return head, hidden, tokens, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize("largest", [1, 10, 15, 1000])
def test_parts_of_any_size_have_the_same_numbers_and_gradients(largest: int) -> None:
    head, hidden, tokens, mask = example()
    logps, entropies = token_logps(head, hidden, tokens, mask, 0.7, largest)
    table = (head(hidden) / 0.7).log_softmax(dim=-1)
    expected = table.gather(2, tokens[..., None]).squeeze(2) * mask
    assert torch.allclose(logps, expected, atol=1e-6)
    assert torch.allclose(entropies, -(table.exp() * table).sum(dim=-1) * mask, atol=1e-6)
    assert not entropies.requires_grad
    mine = torch.autograd.grad((logps**2).sum(), [hidden, head.weight])
    theirs = torch.autograd.grad((expected**2).sum(), [hidden, head.weight])
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_logits_exist_where_a_token_is_and_for_few_at_a_time() -> None:
    head, hidden, tokens, mask = example()
    sizes: list[int] = []
    head.register_forward_hook(lambda _, __, logits: sizes.append(logits.numel()))
    token_logps(head, hidden, tokens, mask, 1.0, largest=10)
    assert sizes == [10, 10, 10, 5]  # 7 real tokens of 12, two at a time over 5
    sizes.clear()
    with torch.no_grad():
        token_logps(head, hidden, tokens, mask, 1.0)
    assert sizes == [35]


def test_a_batch_without_a_real_token_is_all_zeros() -> None:
    head, hidden, tokens, mask = example()
    logps, entropies = token_logps(head, hidden, tokens, mask * 0, 1.0)
    assert logps.abs().sum() == entropies.abs().sum() == 0
