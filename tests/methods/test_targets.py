"""Likelihoods of given completions, padded, in one row behind their prompts or in parts, against plain passes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from methods.costs import pass_sizes
from methods.costs.pass_sizes import in_one_row
from methods.generation import completion_logps as module
from methods.generation.completion_logps import completion_states, laid_out, token_logps
from methods.generation.shared_prefix import prefill
from methods.model.policy import Policy
from methods.training.targets import IGNORED, completion_logits, log_likelihood, mean_over_completions, target_inputs
from task_streams.prompt import Request, request, target_text
from task_streams.types import TaskStream
from tests.methods.trainers import Asked, assert_same_gradients, trained


def asked(stream: TaskStream) -> tuple[list[Request], list[str]]:
    """Prompts and completions of three lengths each."""
    examples = stream.tasks[0].test[:3]
    requests = [request(e, stream.labels[: 2 + 3 * n]) for n, e in enumerate(examples)]
    texts = [target_text(e.target) + " and so on" * n for n, e in enumerate(examples)]
    return requests, texts


def plain_logps(policy: Policy, one: Request, text: str) -> Tensor:
    """Log-probabilities of a completion's tokens, one row without padding, [L]."""
    tokenizer = policy.processor.tokenizer
    inputs = dict(policy.encode([one]))
    added = torch.tensor([[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]])
    length = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], added], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, added.shape[1]))
    logps = policy.model(**inputs).logits[0].log_softmax(dim=-1)
    return logps[length - 1 : -1].gather(1, added.T).squeeze(1)


def test_the_likelihood_of_a_padded_batch_is_that_of_its_rows_alone(policy: Policy, stream: TaskStream) -> None:
    requests, texts = asked(stream)
    inputs = target_inputs(policy, requests, texts)
    expected = [plain_logps(policy, one, text) for one, text in zip(requests, texts, strict=True)]
    assert len({len(row) for row in expected}) == 3
    logits, labels = completion_logits(policy.model, inputs)
    found = logits.log_softmax(dim=-1).gather(1, labels[:, None]).squeeze(1)
    assert torch.allclose(found, torch.cat(expected), atol=1e-5, rtol=1e-5)
    total = sum(row.sum().item() for row in expected)
    assert log_likelihood(policy.model, inputs).item() == pytest.approx(total, rel=1e-5)


def test_only_the_completion_and_its_end_are_learned(policy: Policy, stream: TaskStream) -> None:
    requests, texts = asked(stream)
    inputs = target_inputs(policy, requests, texts)
    tokenizer = policy.processor.tokenizer
    for ids, labels, text in zip(inputs["input_ids"], inputs["labels"], texts, strict=True):
        learned = labels[labels != IGNORED]
        assert learned[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(learned[:-1]) == text
        assert torch.equal(ids[labels != IGNORED], learned)


def test_every_completion_counts_the_same_however_long_it_is() -> None:
    labels = torch.tensor([[IGNORED, IGNORED, 4, 5], [IGNORED, 6, IGNORED, IGNORED]])
    # tokens of the first completion: 1 and 3, mean 2; of the second: 5; mean of 2 and 5
    assert mean_over_completions(torch.tensor([1.0, 3.0, 5.0]), labels).item() == 3.5


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
    hidden = completion_states(policy.model, prefix, torch.tensor(rows), tokens, mask)
    return token_logps(policy.model, hidden, tokens, mask, 0.8)


@pytest.mark.parametrize("rows", [[0, 0, 0, 1, 1, 1], [2, 2, 0, 0, 2, 2]])
def test_states_and_gradients_are_those_of_rows_of_their_own(
    rows: list[int], either: Policy, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = module._in_one_row
    monkeypatch.setattr(module, "_in_one_row", lambda *given: calls.append(1) or real(*given))  # type: ignore[func-returns-value]
    together = scored(either, stream, rows)
    assert calls == [1]
    monkeypatch.setattr(pass_sizes, "MOST", 0.0)
    alone = scored(either, stream, rows)
    assert calls == [1]
    assert torch.allclose(together[0], alone[0], rtol=1e-5, atol=1e-5)
    assert torch.allclose(together[1], alone[1], rtol=1e-4, atol=1e-5)
    assert_same_gradients(together[0], alone[0], trained(either))


def test_what_runs_in_one_row(policy: Policy, stream: TaskStream, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_unequal_runs_have_their_own_prompts(rows: list[int], order: list[int], group: int) -> None:
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
    # without a real token all is zeros
    logps, entropies = token_logps(head, hidden, tokens, mask * 0, 1.0)
    assert logps.abs().sum() == entropies.abs().sum() == 0
