"""What all prompts of a batch begin with is computed once: the class list, where images stand behind it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.generation import shared_prefix
from methods.generation.shared_prefix import common_lead, prefill
from methods.inputs.prompts import Prompts
from methods.model.config import Decoding
from methods.model.policy import Policy
from task_streams.prompt import Request, request
from task_streams.types import TaskStream
from tests.methods.test_frozen_prefixes import assert_equal
from tests.methods.test_grpo_trainer import scored
from tests.methods.test_shared_prefix import both_paths, trainer_of


@pytest.fixture
def text_first(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """The embedded model, asked with images behind the text; whatever is shared is computed once."""
    monkeypatch.setattr(shared_prefix, "SAVED", 1)
    policy.config = dataclasses.replace(policy.config, media="last")
    return policy


def questions(stream: TaskStream) -> list[Request]:
    """Six, under two lists of classes: after what they share they differ in length."""
    lists = (stream.labels, stream.labels[:3])
    return [request(one, lists[place % 2]) for place, one in enumerate(stream.tasks[1].train[:6])]


def test_the_lead_is_the_text_that_all_begin_with() -> None:
    ids = torch.tensor([[0, 1, 2, 9, 3, 4], [1, 2, 9, 9, 3, 4], [0, 0, 1, 2, 3, 4]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    text = torch.zeros_like(ids)
    # without padding: 1 2 9 3 4, 1 2 9 9 3 4 and 1 2 3 4
    assert common_lead(Prompts(ids, mask, text, None, None)) == 2
    # the first two alone share 9 too; were it an image's, it would not count
    two = Prompts(ids[:2], mask[:2], text[:2], None, None)
    assert common_lead(two) == 3
    assert common_lead(dataclasses.replace(two, token_types=(ids[:2] == 9).long())) == 2
    # of equal prompts the last token is left
    assert common_lead(Prompts(ids[[1, 1]], mask[[1, 1]], text[[1, 1]], None, None)) == 5


@torch.no_grad()
def test_each_prompt_leaves_behind_what_it_does_alone(text_first: Policy, stream: TaskStream) -> None:
    prompts = text_first.prompts(questions(stream))
    lead = common_lead(prompts)
    assert lead > 10
    text_first.meter.taken()
    together = prefill(text_first.model, prompts)
    counts = text_first.meter.taken()
    assert counts["prompt_tokens_computed"] == float(prompts.mask.sum()) - 5 * lead  # of the six
    assert counts["prompt_tokens"] == 0  # nothing was asked
    assert not together.mask.equal(prompts.mask)  # padding stands behind the lead
    for row, own in enumerate(together.rows()):
        assert_equal(own, prefill(text_first.model, prompts.select(torch.tensor([row]))).rows()[0])


def test_answers_are_those_of_generate(text_first: Policy, stream: TaskStream) -> None:
    asked = questions(stream)
    for decoding in (Decoding(20), Decoding(20, temperature=0.9, seed=4)):
        text_first.share_prefix = True
        shared = text_first.generate(asked, decoding)
        text_first.share_prefix = False
        assert shared == text_first.generate(asked, decoding)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_logps_and_gradients_equal_the_plain_path(
    checkpointed: bool, text_first: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    trainer = trainer_of(text_first, stream.tasks[2], True, tmp_path)
    if checkpointed:
        text_first.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    output = scored(trainer)
    assert common_lead(trainer.generation.batch.prompts) > 10
    order = torch.randperm(len(output["prompt_ids"]), generator=torch.Generator().manual_seed(0))
    real = output["completion_mask"][order].bool()
    (shared, _), (plain, _) = both_paths(trainer, output, order)
    assert torch.allclose(shared[real], plain[real], rtol=1e-5, atol=1e-5)
    weights = [weight for weight in text_first.model.parameters() if weight.requires_grad]
    mine, theirs = (torch.autograd.grad(one[real].sum(), weights, allow_unused=True) for one in (shared, plain))
    assert any(b is not None for b in theirs)
    for a, b in zip(mine, theirs, strict=True):
        if b is not None:
            assert a is not None
            assert (a - b).norm() <= 1e-5 * max(float(b.norm()), 1.0)


def test_training_asks_as_the_policy_is_asked(text_first: Policy, stream: TaskStream, tmp_path: Path) -> None:
    trainer: Any = trainer_of(text_first, stream.tasks[2], True, tmp_path)
    (turn,) = trainer.train_dataset[0]["prompt"]
    assert [part["type"] for part in turn["content"]] == ["text", "image"]
