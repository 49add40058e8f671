"""Decoding in buffers that stay where they are draws the tokens of the growing cache; the CUDA graph needs a GPU."""

from typing import Any

import pytest
import torch

from methods.generation import static_decode
from methods.generation.rollout import Sampling, sample_after
from methods.generation.shared_prefix import Prefix, prefill
from methods.generation.static_decode import ROOM, Shape, StaticSteps, graph_obstacle, sample_static
from methods.inputs.prompts import Prompts
from methods.model.policy import Policy
from task_streams.types import TaskStream
from tests.methods.test_frozen_prefixes import Asked
from tests.methods.test_vision import tiny_2_5
from tests.methods.trainers import checkpoint_layers

GROUPED = [0, 0, 0, 1, 1, 1, 2, 2, 2]
MIXED = [2, 0, 0, 1, 2, 2]
DEVICES = [False, pytest.param(True, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def prefix_of(policy: Policy, stream: TaskStream, places: list[int]) -> Prefix:
    """What some prompts leave behind, of two lengths."""
    with torch.no_grad():
        return prefill(policy.model, Asked(policy, stream).prompts(places)[1])


def drawn(steps: StaticSteps, model: Any, prefix: Prefix, rows: torch.Tensor, sampling: Sampling) -> list[list[int]]:
    """Completions decoded in buffers, which are those of the growing cache."""
    torch.manual_seed(3)
    expected = sample_after(model, prefix.repeated(rows), sampling)
    torch.manual_seed(3)
    assert sample_static(steps, model, prefix, rows, sampling) == expected
    return expected


@pytest.mark.parametrize("recorded", DEVICES)
@pytest.mark.parametrize("rows", [GROUPED, MIXED])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_the_tokens_are_those_of_the_growing_cache(
    kind: str, temperature: float, rows: list[int], recorded: bool, request: pytest.FixtureRequest, stream: TaskStream
) -> None:
    policy: Policy = request.getfixturevalue(kind)
    policy.model.to("cuda" if recorded else "cpu")
    sampling = Sampling(20, temperature, 0.9, tuple(policy.ends))
    steps, after = StaticSteps(recorded), torch.tensor(rows, device=policy.device)
    # later batches have shorter prompts, and fewer: they lie in the same buffers
    for places, some in (([0, 1, 2], after), ([1, 3, 5], after), ([3, 1], after[(after < 2).nonzero()[:, 0]])):
        drawn(steps, policy.model, prefix_of(policy, stream, places), some, sampling)


@pytest.mark.parametrize("recorded", DEVICES)
def test_weights_that_change_where_they_are_are_used(recorded: bool, policy: Policy, stream: TaskStream) -> None:
    policy.model.to("cuda" if recorded else "cpu")
    sampling, rows = Sampling(20, 0.0, 1.0, tuple(policy.ends)), torch.arange(3, device=policy.device)
    steps, found = StaticSteps(recorded), []
    for _ in range(2):
        found.append(drawn(steps, policy.model, prefix_of(policy, stream, [0, 1, 2]), rows, sampling))
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.mul_(1.3)
    assert found[0] != found[1]


def test_a_checkpointed_model_in_training_keeps_its_cache(policy: Policy, stream: TaskStream) -> None:
    checkpoint_layers(policy)
    policy.model.train()
    sampling = Sampling(8, 0.0, 1.0, tuple(policy.ends))
    drawn(StaticSteps(False), policy.model, prefix_of(policy, stream, [0, 1]), torch.arange(2), sampling)


@pytest.mark.parametrize("recorded", DEVICES)
def test_weights_are_cast_as_in_the_growing_cache(recorded: bool, policy: Policy, stream: TaskStream) -> None:
    device = "cuda" if recorded else "cpu"
    policy.model.to(device)
    sampling, rows = Sampling(8, 0.0, 1.0, tuple(policy.ends)), torch.tensor([0, 0, 1, 1], device=device)
    with torch.autocast(device, torch.bfloat16):
        drawn(StaticSteps(recorded), policy.model, prefix_of(policy, stream, [0, 1]), rows, sampling)


def test_the_meter_counts_steps_as_it_counts_those_of_the_growing_cache(policy: Policy, stream: TaskStream) -> None:
    sampling, rows = Sampling(8, 0.0, 1.0, ()), torch.arange(2)  # nothing ends a completion
    prefix = prefix_of(policy, stream, [0, 1])
    policy.meter.taken()
    sample_after(policy.model, prefix.repeated(rows), sampling)
    expected = policy.meter.taken()
    sample_static(StaticSteps(False), policy.model, prefix, rows, sampling)
    assert policy.meter.taken() == expected
    assert expected["model_flops"] > 0


def test_a_step_is_kept_for_batches_that_it_has_room_for(policy: Policy, stream: TaskStream) -> None:
    steps = StaticSteps(False)
    short, long = (prefix_of(policy, stream, places) for places in ([1, 3], [0, 1]))
    two, one = torch.arange(2), torch.arange(1)
    step = steps.begin(policy.model, short, two, 2, 20)
    assert step.shape.longest % ROOM == 0
    assert steps.begin(policy.model, short, one, 2, 8) is step
    assert steps.begin(policy.model, short, two, 1, 20) is not step
    step = steps.begin(policy.model, long, two, 1, 20)
    assert steps.begin(policy.model, short, two, 1, 25) is not step
    other = policy.snapshot().model
    assert steps.begin(other, short, two, 1, 20).model is other.model


@pytest.mark.parametrize("recorded", DEVICES)
@pytest.mark.parametrize("limit", [16, 17, 40])
def test_completions_longer_than_there_is_room_for_go_on_with_more(
    limit: int, recorded: bool, policy: Policy, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_decode, "FIRST", 8)
    policy.model.to("cuda" if recorded else "cpu")
    sampling, rows = Sampling(limit, 1.3, 0.9, ()), torch.tensor([0, 0, 1, 1], device=policy.device)
    prefix, steps = prefix_of(policy, stream, [0, 1]), StaticSteps(recorded)
    for _ in range(2):  # the longer step is kept for the next batch
        drawn(steps, policy.model, prefix, rows, sampling)
    assert steps.begin(policy.model, prefix, torch.arange(2), 2, limit).shape.limit == {16: 16, 17: 16, 40: 64}[limit]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_qwen2_5_vl_is_decoded_the_same_way(temperature: float) -> None:
    model = tiny_2_5()
    # two prompts of text, of five and eight tokens
    tokens = torch.randint(7, 50, (2, 8), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    with torch.no_grad():
        prefix = prefill(model, Prompts(tokens, mask, torch.zeros_like(tokens), None, None))
    drawn(StaticSteps(False), model, prefix, torch.tensor([0, 0, 1, 1]), Sampling(12, temperature, 1.0, ()))


def test_steps_are_not_recorded_where_they_would_not_be_the_models(policy: Policy) -> None:
    gpu = torch.device("cuda")
    assert graph_obstacle(policy.model, gpu) is None
    assert graph_obstacle(policy.model, torch.device("cpu")) == "there is no GPU"
    policy.model.config.text_config.layer_types[1] = "sliding_attention"
    assert graph_obstacle(policy.model, gpu) == "the model's attention has a sliding window"
    policy.model.config.model_type = "llava"
    assert "model type 'llava'" in str(graph_obstacle(policy.model, gpu))


def test_a_larger_step_holds_smaller_batches_of_the_same_group() -> None:
    shape = Shape(prompts=4, group=2, longest=64, limit=20)
    assert shape.holds(shape) and shape.holds(Shape(1, 2, 10, 3))
    assert not any(shape.holds(one) for one in (Shape(5, 2, 64, 20), Shape(4, 2, 65, 20), Shape(4, 2, 64, 21)))
    assert not shape.holds(Shape(4, 1, 64, 20))
