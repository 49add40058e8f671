"""Decoding in buffers that stay where they are draws the tokens of the growing cache; the CUDA graph needs a GPU."""

import pytest
import torch

from methods.policy import Policy
from methods.rollouts.rollout import Sampling, sample_after
from methods.rollouts.shared_prefix import Prefix, Prompts, prefill
from methods.rollouts.static_decode import StaticStep, sample_static
from task_streams.types import TaskStream
from tests.methods.test_frozen_prefixes import Asked

ROWS = torch.tensor([0, 0, 1, 1, 2, 2])


def prefix_of(policy: Policy, prompts: Prompts) -> Prefix:
    with torch.no_grad():
        return prefill(policy.model, prompts)


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_the_tokens_are_those_of_the_growing_cache(temperature: float, policy: Policy, stream: TaskStream) -> None:
    sampling = Sampling(20, temperature, 0.9, tuple(policy.ends))
    asked = Asked(policy, stream)
    prefix = prefix_of(policy, asked.prompts([0, 1, 2])[1])
    step = StaticStep(policy.model, prefix, len(ROWS), 20, recorded=False)
    # the second batch's prompts are shorter: they begin later in the same buffers
    for places in ([0, 1, 2], [1, 3, 5]):
        prefix = prefix_of(policy, asked.prompts(places)[1])
        assert step.fits(policy.model, prefix, len(ROWS), 20)
        torch.manual_seed(3)
        expected = sample_after(policy.model, prefix.repeated(ROWS), sampling)
        torch.manual_seed(3)
        assert sample_static(step, policy.model, prefix, ROWS, sampling) == expected


def test_other_shapes_and_weights_elsewhere_need_another_step(policy: Policy, stream: TaskStream) -> None:
    asked = Asked(policy, stream)
    short, long = (prefix_of(policy, asked.prompts(places)[1]) for places in ([1, 3], [0, 1]))
    step = StaticStep(policy.model, short, 4, 20, recorded=False)
    assert step.fits(policy.model, short, 4, 20)
    assert not step.fits(policy.model, long, 4, 20)
    assert not step.fits(policy.model, short, 5, 20) and not step.fits(policy.model, short, 4, 21)
    assert not step.fits(policy.snapshot().model, short, 4, 20)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a CUDA graph")
def test_a_recorded_step_draws_the_same_tokens(policy: Policy, stream: TaskStream) -> None:
    policy.model.to("cuda")
    sampling = Sampling(20, 1.0, 1.0, tuple(policy.ends))
    prefix = prefix_of(policy, Asked(policy, stream).prompts([0, 1, 2])[1])
    rows = ROWS.to("cuda")
    step = StaticStep(policy.model, prefix, len(rows), 20, recorded=True)
    for _ in range(3):
        torch.manual_seed(3)
        expected = sample_after(policy.model, prefix.repeated(rows), sampling)
        torch.manual_seed(3)
        assert sample_static(step, policy.model, prefix, rows, sampling) == expected
