"""Rollouts draw the tokens of transformers' generate: with guesses, and in buffers that stay where they are.

vLLM's are tested as far as they can be without it, by an engine that answers with the suite's own completions. CUDA
graphs need a GPU.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer import grpo_trainer

from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.generation import static_decode
from methods.generation.answers import Session
from methods.generation.group_passes import GroupPasses
from methods.generation.rollout import Sampling, draw, sample_after
from methods.generation.shared_prefix import Prefix, obstacle, prefill
from methods.generation.speculative_decoding import NgramDrafter
from methods.generation.static_decode import ROOM, Shape, StaticSteps, graph_obstacle, sample_static
from methods.generation.vllm import never_drawn, vllm_arguments, vllm_obstacles
from methods.inputs.prompts import Prompts
from methods.model.config import Decoding
from methods.model.policy import Policy
from methods.settings import TrainConfig
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.types import Feed, TaskStream
from tests.methods.clip_tasks import about_clips
from tests.methods.trainers import Asked, checkpoint_layers, learn, scored, trainer_of
from tests.methods.two_tasks import fresh_policy


def test_what_came_last_after_the_longest_known_context_is_guessed() -> None:
    drafter = NgramDrafter(longest=3)
    assert drafter.draft([], 9) == drafter.draft([1], 9) == []
    drafter.learn([1, 2, 3, 4])
    drafter.learn([1, 2, 5])
    assert drafter.draft([], 9) == [1, 2, 5]
    assert drafter.draft([9, 3], 9) == [4]  # known after 3, nothing after 4
    assert drafter.draft([1, 2], 1) == [5]  # room for one
    drafter.learn([7, 1, 2, 3, 8])
    assert drafter.draft([7, 1, 2, 3], 9) == [8]
    assert drafter.draft([1, 2, 3], 9)[0] == 8  # after 2, 3 it was 8 last
    assert NgramDrafter(longest=0).draft([1, 2], 9) == []
    drafter = NgramDrafter()
    drafter.learn([1, 2, 3, 4, 5])
    drafter.learn([9, 9, 9, 4, 6])
    assert drafter.draft([1, 2, 3, 4], 1) == [5]
    assert drafter.draft([0, 0, 0, 4], 1) == [6]


def test_beyond_the_limit_known_contexts_are_renewed_and_none_is_new() -> None:
    drafter = NgramDrafter(largest=4)
    drafter.learn([1, 2, 3])  # after nothing; after 1; after 1, 2 and after 2
    assert len(drafter.next) == 4
    drafter.learn([1, 4, 5, 6])
    assert len(drafter.next) == 4
    assert drafter.draft([1], 1) == [4]  # renewed
    assert drafter.draft([4], 1) == []  # not learned
    assert drafter.draft([9, 2], 1) == [3]


def test_guesses_are_as_long_as_they_tend_to_be_right() -> None:
    drafter = NgramDrafter(longest=8)
    drafter.learn([5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    lengths = []
    for right in ([0, 0], [0, 1], [], [1], [8]):
        drafter.accepted(right)
        lengths.append(len(drafter.draft([5], 20)))
    # (8 + 1) / 2 = 4.5; (4.5 + 1 + 1) / 2 = 3.25; as before; (3.25 + 3) / 2 = 3.125; (3.125 + 17) / 2, at most 8
    assert lengths == [5, 4, 4, 4, 8]


def passes(policy: Policy, call: Any) -> tuple[Any, int]:
    """What a call returns, and how many passes the language model made in it."""
    made = []
    watch = policy.model.model.language_model.register_forward_hook(lambda *_: made.append(1))
    try:
        return call(), len(made)
    finally:
        watch.remove()


@pytest.mark.parametrize("decoding", [Decoding(24), Decoding(24, temperature=1.0, top_p=0.9, seed=4)])
def test_guessed_answers_are_those_of_generate(decoding: Decoding, policy: Policy, stream: TaskStream) -> None:
    asked = [[request(example, stream.labels) for example in task.test[:9]] for task in stream.tasks[:3]]
    session = Session()
    plain, plain_passes = passes(policy, lambda: [policy.generate(one, decoding) for one in asked])
    guessed, fewer = passes(policy, lambda: [policy.generate(one, decoding, session) for one in asked])
    policy.share_prefix = False
    expected = [policy.generate(one, decoding) for one in asked]
    assert plain == guessed == expected
    assert fewer < (0.8 if decoding.temperature == 0 else 1.0) * plain_passes


def test_prompts_of_different_lengths_and_wrong_guesses_change_nothing(policy: Policy, stream: TaskStream) -> None:
    _, prompts = Asked(policy, stream).prompts(list(range(8)))
    sampling = Sampling(20, 1.5, 1.0, tuple(policy.ends))
    drafter = NgramDrafter(longest=5)
    for start in range(40):  # nonsense: hardly a guess is right
        drafter.learn([start, start + 1, start + 2, start * 7 % 40, 3])
    with torch.no_grad():
        torch.manual_seed(2)
        plain = sample_after(policy.model, prefill(policy.model, prompts).repeated(torch.arange(8)), sampling)
        torch.manual_seed(2)
        rows = prefill(policy.model, prompts).repeated(torch.arange(8))
        guessed = sample_after(policy.model, rows, sampling, drafter)
    assert plain == guessed
    assert len({len(one) for one in plain}) > 1


@pytest.mark.parametrize(
    ("temperature", "top_p", "about"),
    [
        (1.0, 1.0, ("images", (1,))),
        (1.3, 0.8, ("images", (1,))),
        (1.0, 1.0, ("images", (3,))),
        (1.3, 0.8, ("images", (2, 3, 1))),
        (1.0, 1.0, ("video", (4, 2))),
    ],
)
def test_the_tokens_are_those_of_generate(
    temperature: float, top_p: float, about: tuple[Feed, Any], policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    task = about_clips(stream.tasks[2], *about)
    method = Grpo(GrpoConfig(temperature=temperature, top_p=top_p, kl=0.0))
    shared, plain = (
        scored(trainer_of(method, policy, task, tmp_path, prompts_per_update=6, share_prefix=share), seed=9)
        for share in (True, False)
    )
    assert torch.equal(shared["completion_ids"], plain["completion_ids"])
    assert torch.equal(shared["completion_mask"], plain["completion_mask"])
    lengths = shared["completion_mask"].sum(dim=1)
    assert lengths.min() < lengths.max()  # some rows finished before others


def test_drawing_follows_the_probabilities_and_leaves_out_suppressed_tokens() -> None:
    logits = torch.tensor([[5.0, 0.0, 0.0]]).repeat(50, 1)
    noise = torch.empty(50, 3).exponential_(1)
    tokens = draw(logits, Sampling(1, 1.0, 1.0, (2,), suppressed=(0,)), noise)
    assert set(tokens.tolist()) <= {1, 2}
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, torch.log(torch.tensor(3.0))]]).repeat(4000, 1)
    noise = torch.empty(4000, 2).exponential_(1)
    share = draw(logits, Sampling(1, 1.0, 1.0, ()), noise).float().mean().item()
    # p = 3/4; the deviation of a mean of 4000 is sqrt(.75 * .25 / 4000) = 0.0068; five of them
    assert share == pytest.approx(0.75, abs=0.034)


GROUPED = [0, 0, 0, 1, 1, 1, 2, 2, 2]
MIXED = [2, 0, 0, 1, 2, 2]
GPU_STEPS = pytest.param(True, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.fixture(params=[False, GPU_STEPS])
def recorded(request: pytest.FixtureRequest) -> bool:
    """Whether steps are recorded, which they are on a GPU."""
    model = request.getfixturevalue("either" if "either" in request.fixturenames else "policy").model
    model.to("cuda" if request.param else "cpu")
    return bool(request.param)


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


@pytest.mark.parametrize("rows", [GROUPED, MIXED])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_the_tokens_are_those_of_the_growing_cache(
    temperature: float, rows: list[int], recorded: bool, either: Policy, stream: TaskStream
) -> None:
    sampling = Sampling(20, temperature, 0.9, tuple(either.ends))
    steps, after = StaticSteps(recorded), torch.tensor(rows, device=either.device)
    # later batches have shorter prompts, and fewer: they lie in the same buffers
    for places, some in (([0, 1, 2], after), ([1, 3, 5], after), ([3, 1], after[(after < 2).nonzero()[:, 0]])):
        drawn(steps, either.model, prefix_of(either, stream, places), some, sampling)


def test_weights_that_change_where_they_are_are_used(recorded: bool, policy: Policy, stream: TaskStream) -> None:
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


def test_weights_are_cast_as_in_the_growing_cache(recorded: bool, policy: Policy, stream: TaskStream) -> None:
    sampling, rows = Sampling(8, 0.0, 1.0, tuple(policy.ends)), torch.tensor([0, 0, 1, 1], device=policy.device)
    with torch.autocast(policy.device.type, torch.bfloat16):
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
    shape = Shape(prompts=4, group=2, longest=64, limit=20)
    assert shape.holds(shape) and shape.holds(Shape(1, 2, 10, 3))
    others = (Shape(5, 2, 64, 20), Shape(4, 1, 64, 20), Shape(4, 2, 65, 20), Shape(4, 2, 64, 21))
    assert not any(shape.holds(one) for one in others)


@pytest.mark.parametrize("limit", [16, 17, 40])
def test_completions_longer_than_there_is_room_for_go_on_with_more(
    limit: int, recorded: bool, policy: Policy, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_decode, "FIRST", 8)
    sampling, rows = Sampling(limit, 1.3, 0.9, ()), torch.tensor([0, 0, 1, 1], device=policy.device)
    prefix, steps = prefix_of(policy, stream, [0, 1]), StaticSteps(recorded)
    for _ in range(2):  # the longer step is kept for the next batch
        drawn(steps, policy.model, prefix, rows, sampling)
    assert steps.begin(policy.model, prefix, torch.arange(2), 2, limit).shape.limit == {16: 16, 17: 16, 40: 64}[limit]


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_qwen2_5_vl_is_decoded_the_same_way(temperature: float, qwen2_5_policy: Policy, stream: TaskStream) -> None:
    tokens = torch.randint(7, 50, (2, 8), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(8) >= torch.tensor([[3], [0]])).long()
    text = Prompts(tokens, mask, torch.zeros_like(tokens), None, None)  # of five tokens and of eight
    for prompts in (text, Asked(qwen2_5_policy, stream).prompts([0, 1])[1]):
        prefix, sampling = prefill(qwen2_5_policy.model, prompts), Sampling(12, temperature, 1.0, ())
        drawn(StaticSteps(False), qwen2_5_policy.model, prefix, torch.tensor([0, 0, 1, 1]), sampling)


def test_steps_are_not_recorded_where_they_would_not_be_the_models_nor_prompts_shared(policy: Policy) -> None:
    gpu = torch.device("cuda")
    assert obstacle(policy.model) is graph_obstacle(policy.model, gpu) is None
    assert graph_obstacle(policy.model, torch.device("cpu")) == "there is no GPU"
    policy.model.config.text_config.layer_types[1] = "sliding_attention"
    assert graph_obstacle(policy.model, gpu) == "the model's attention has a sliding window"
    policy.model.config.model_type = "llava"
    why = "model type 'llava' is not one of qwen2_vl, qwen2_5_vl"
    assert obstacle(policy.model) == graph_obstacle(policy.model, gpu) == why


UPDATES, GROUP, PROMPTS = 2, 4, 3


class Standing:
    """Stands in for TRL's ``VLLMGeneration``: answers with completions that are known, and remembers its calls."""

    completions: Any  # of every call, by prompt
    calls: Any
    synced = 0
    settings: Any

    def __init__(self, **settings: Any) -> None:
        Standing.settings = settings

    def sync_weights(self) -> None:
        Standing.synced += 1

    def generate(self, prompts: Any, images: Any, num_generations: int, profiler: Any) -> tuple[Any, Any, Any, None]:
        known = Standing.completions[len(Standing.calls)]
        Standing.calls.append((prompts, images))
        # no log-probability is known of any token, hence there is nothing to correct
        return prompts, known, [[[float("nan")] for _ in one] for one in known], None


def learned(stream: TaskStream, folder: Path, rollouts: str, accumulation: int) -> Policy:
    policy = fresh_policy()
    train = {"updates": UPDATES, "prompts_per_update": PROMPTS, "accumulation": accumulation, "rollouts": rollouts}
    learn(Rapo(RapoConfig(group_size=GROUP)), policy, stream.tasks[1], folder, **train)
    return policy


@pytest.mark.parametrize("accumulation", [1, 3])
def test_what_vllm_samples_is_learned_as_what_is_sampled_here(
    accumulation: int, stream: TaskStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, drawn = GroupPasses.sample, []

    def remembered(*arguments: Any) -> list[list[int]]:
        drawn.append(sample(*arguments))
        return drawn[-1]

    monkeypatch.setattr(GroupPasses, "sample", remembered)
    own = learned(stream, tmp_path, "own", accumulation)
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", Standing)
    Standing.completions, Standing.calls, Standing.synced = drawn, [], 0
    policy = learned(stream, tmp_path, "vllm", accumulation)

    assert len(drawn) == len(Standing.calls) == Standing.synced == UPDATES  # it has the weights of every update
    image_token = policy.model.config.image_token_id
    for prompts, images in Standing.calls:
        assert len(prompts) == len(images) == PROMPTS * GROUP
        assert all(ids.count(image_token) == 16 for ids in prompts)  # 64 x 64 pixels, a token for 16 x 16
        assert all(len(shown) == 1 and shown[0].size == (64, 64) for shown in images)
    assert Standing.settings["mode"] == "colocate" and not Standing.settings["trust_remote_code"]
    for mine, theirs in zip(policy.model.parameters(), own.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_vllm_draws_no_image_tokens_and_a_server_is_named_by_its_address() -> None:
    assert never_drawn([7, 8], use_vllm=False) == {"suppress_tokens": [7, 8]}
    assert never_drawn([7, 8], use_vllm=True) == {"logit_bias": {7: -100.0, 8: -100.0}}
    arguments = vllm_arguments(TrainConfig(rollouts="vllm_server", vllm_server="http://127.0.0.1:9000"))
    assert (arguments["vllm_mode"], arguments["vllm_server_base_url"]) == ("server", "http://127.0.0.1:9000")
    assert vllm_arguments(TrainConfig()) == {}
    with pytest.raises(UserError, match=r"vllm_server: got '127.0.0.1:9000', expected an address"):
        TrainConfig(vllm_server="127.0.0.1:9000")
    with pytest.raises(UserError, match=r"rollouts: got 'vlm', expected one of own, vllm, vllm_server"):
        TrainConfig(rollouts="vlm")


def test_where_vllm_cannot_sample_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    train, cpu = TrainConfig(rollouts="vllm", cuda_graphs=True), torch.device("cpu")
    assert vllm_obstacles(TrainConfig(cuda_graphs=True), cpu, 2, True) == []  # it is not asked for
    monkeypatch.setattr("methods.generation.vllm.find_spec", lambda _: None)
    told = vllm_obstacles(train, cpu, 2, True)
    reasons = ("vllm is not installed", "there is no GPU", "there are 2 processes", "clips", "train.cuda_graphs")
    for reason, sentence in zip(reasons, told, strict=True):
        assert reason in sentence and sentence.startswith("train.rollouts: got 'vllm', but")
    monkeypatch.setattr("methods.generation.vllm.find_spec", lambda _: object())
    assert vllm_obstacles(TrainConfig(rollouts="vllm"), torch.device("cuda"), 1, False) == []
