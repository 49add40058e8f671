"""Log-probabilities in parts are those of the whole table, with their gradients."""

import pytest
import torch

from methods.generation.completion_logps import token_logps


def example(seed: int = 0) -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A head over 5 tokens, states of 3 completions of up to 4 tokens, the tokens, and which are real."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(6, 5, bias=False)
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
