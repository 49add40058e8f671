"""Likelihoods of given completions against plain forward passes without padding."""

import pytest
import torch
from torch import Tensor

from methods.model.policy import Policy
from methods.training.targets import IGNORED, completion_logits, log_likelihood, mean_over_completions, target_inputs
from task_streams.prompt import Request, request, target_text
from task_streams.types import TaskStream


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
