"""Completions are those of transformers' generate from the same noise; guesses save passes where answers repeat."""

from pathlib import Path
from typing import Any

import pytest
import torch

from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.generation.answers import Session
from methods.generation.rollout import Sampling, draw, sample_after
from methods.generation.shared_prefix import prefill
from methods.generation.speculative_decoding import NgramDrafter
from methods.model.config import Decoding
from methods.model.policy import Policy
from task_streams.prompt import request
from task_streams.types import Feed, TaskStream
from tests.methods.clip_tasks import about_clips
from tests.methods.test_frozen_prefixes import Asked
from tests.methods.trainers import scored, trainer_of


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


def test_the_longest_context_that_is_known_wins() -> None:
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
def test_answers_are_those_of_transformers_generate_with_fewer_passes(
    decoding: Decoding, policy: Policy, stream: TaskStream
) -> None:
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
    ("temperature", "top_p", "feed", "counts"),
    [
        (1.0, 1.0, "images", (1,)),
        (1.3, 0.8, "images", (1,)),
        (1.0, 1.0, "images", (3,)),
        (1.3, 0.8, "images", (2, 3, 1)),
        (1.0, 1.0, "video", (4, 2)),
    ],
)
def test_the_tokens_are_those_of_generate(
    temperature: float,
    top_p: float,
    feed: Feed,
    counts: tuple[int, ...],
    policy: Policy,
    stream: TaskStream,
    tmp_path: Path,
) -> None:
    task, method = (
        about_clips(stream.tasks[2], feed, counts),
        Grpo(GrpoConfig(temperature=temperature, top_p=top_p, kl=0.0)),
    )
    outputs = [
        scored(trainer_of(method, policy, task, tmp_path, prompts_per_update=6, share_prefix=share), seed=9)
        for share in (True, False)
    ]
    shared, plain = outputs
    assert torch.equal(shared["completion_ids"], plain["completion_ids"])
    assert torch.equal(shared["completion_mask"], plain["completion_mask"])
    lengths = shared["completion_mask"].sum(dim=1)
    assert lengths.min() < lengths.max()  # some rows finished before others


def test_suppressed_tokens_are_never_drawn() -> None:
    logits = torch.tensor([[5.0, 0.0, 0.0]]).repeat(50, 1)
    noise = torch.empty(50, 3).exponential_(1)
    tokens = draw(logits, Sampling(1, 1.0, 1.0, (2,), suppressed=(0,)), noise)
    assert set(tokens.tolist()) <= {1, 2}


def test_drawing_follows_the_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, torch.log(torch.tensor(3.0))]]).repeat(4000, 1)
    noise = torch.empty(4000, 2).exponential_(1)
    share = draw(logits, Sampling(1, 1.0, 1.0, ()), noise).float().mean().item()
    # p = 3/4; the deviation of a mean of 4000 is sqrt(.75 * .25 / 4000) = 0.0068; five of them
    assert share == pytest.approx(0.75, abs=0.034)
