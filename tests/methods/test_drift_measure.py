"""A drift probe on the embedded model: both ways of computing it, whose numbers are right, and nothing else touched."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
import torch

from clrft.base_model import default_model_path
from eval.judgement import COMPONENTS
from methods.drift.compared_policies import base_of, held, party, saved
from methods.drift.items import Other, Probe, drawn_items, summary
from methods.drift.measure import Asked, measure
from methods.drift.rollouts import Party, SharedPasses, seen
from methods.model.policy import Policy
from methods.model.weights import trained_weights
from task_streams.prompt import request
from task_streams.types import Box, Feed, Kind, Question, Task, TaskStream
from tests.methods.clip_tasks import about_clips

Others = Mapping[Other, Callable[[], AbstractContextManager[Party]]]


def asked(task: Task, share: bool = True, items: int = 3) -> Asked:
    return Asked(drawn_items(task.test, items, 42), task.seen, task.kind, task.style, 24, 7, share)


def moved(policy: Policy, by: float = 0.02) -> Others:
    """Change what is trained; returns the policy as it was before."""
    snapshot = policy.snapshot()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in trained_weights(policy.model):
            weight += by * torch.randn(weight.shape, generator=generator)
    return {"prev": partial(held, policy, snapshot, "prev")}


def base(policy: Policy) -> Callable[[], AbstractContextManager[Party]]:
    return partial(base_of, policy, str(default_model_path()))


def assert_alike(one: Probe, other: Probe) -> None:
    assert one.rewards.tolist() == other.rewards.tolist()
    assert one.against.keys() == other.against.keys()
    for name, mine in one.against.items():
        theirs = other.against[name]
        for field in ("drift", "reverse", "forward"):
            assert torch.allclose(getattr(mine, field), getattr(theirs, field), rtol=1e-4, atol=1e-6), (name, field)


@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_a_policy_is_no_distance_from_itself(kind: str, request: pytest.FixtureRequest, stream: TaskStream) -> None:
    policy: Policy = request.getfixturevalue(kind)
    snapshot = policy.snapshot()
    others: Others = {"prev": partial(held, policy, snapshot, "prev"), "base": base(policy)}
    for share in (True, False):
        found = measure(policy, others, asked(stream.tasks[1], share, items=2))
        for one in found.against.values():
            assert one.drift.tolist() == [0.0] * 16
            assert not one.reverse.any() and not one.forward.any()
            assert torch.equal(one.reverse[:1], one.forward[:1])


@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_shared_prompts_and_plain_passes_agree(kind: str, request: pytest.FixtureRequest, stream: TaskStream) -> None:
    policy: Policy = request.getfixturevalue(kind)
    others: Others = {**moved(policy), "base": base(policy)}
    shared, plain = (measure(policy, others, asked(stream.tasks[2], share)) for share in (True, False))
    assert_alike(shared, plain)
    assert shared.against["prev"].reverse.mean() > 1e-5
    # the snapshot is the base here: two ways to the same policy
    assert shared.against["prev"].drift.tolist() == pytest.approx(shared.against["base"].drift.tolist(), abs=1e-6)


@pytest.mark.parametrize(("feed", "counts"), [("images", (1, 3, 2)), ("video", (4, 2))])
def test_several_images_and_clips_agree_too(
    feed: Feed, counts: tuple[int, ...], policy: Policy, stream: TaskStream
) -> None:
    task = about_clips(stream.tasks[1], feed, counts)
    others = moved(policy)
    assert_alike(measure(policy, others, asked(task)), measure(policy, others, asked(task, share=False)))


def test_numbers_are_those_of_torchs_distributions(policy: Policy, stream: TaskStream) -> None:
    task = stream.tasks[1]
    questions = [request(item, task.seen) for item in task.test[:2]]
    snapshot = policy.snapshot()
    moved(policy)
    passes, me = SharedPasses.of(policy, questions), party(policy, policy.model, "policy")
    with torch.no_grad(), held(policy, snapshot, "prev") as other:
        completions = passes.sample(me, 6, copies=1)
        found = seen(passes, me, other, completions)
        expected, chosen = [], []
        for question, tokens in zip(questions, completions, strict=True):
            inputs = policy.encode([question])
            row = torch.tensor([tokens])
            length = inputs["input_ids"].shape[1]
            inputs["input_ids"] = torch.cat([inputs["input_ids"], row], dim=1)
            for name in ("attention_mask", "mm_token_type_ids"):
                tail = torch.full_like(row, int(name == "attention_mask"))
                inputs[name] = torch.cat([inputs[name], tail], dim=1)
            both = [
                torch.distributions.Categorical(logits=model(**inputs).logits[0, length - 1 : -1])
                for model in (policy.model, snapshot.model)
            ]
            expected.append(torch.distributions.kl_divergence(*both))
            chosen.append(both[0].log_prob(row[0]))
    assert torch.allclose(found.kl, torch.cat(expected), rtol=1e-3, atol=1e-6)
    assert torch.allclose(found.maker, torch.cat(chosen), atol=1e-5)
    assert found.lengths == tuple(len(one) for one in completions)


@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_weights_on_disk_tell_the_same_as_a_snapshot_and_nothing_is_touched(
    kind: str, request: pytest.FixtureRequest, stream: TaskStream, tmp_path: Path
) -> None:
    policy: Policy = request.getfixturevalue(kind)
    moved(policy, 0.01)
    policy.save(tmp_path / "weights")
    there = moved(policy)
    policy.model.train()
    before = {name: (weight.clone(), weight.requires_grad) for name, weight in policy.model.named_parameters()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    from_disk = measure(policy, {"prev": partial(saved, policy, tmp_path / "weights", "prev")}, asked(stream.tasks[1]))
    held_there = measure(policy, there, asked(stream.tasks[1]))
    assert from_disk.rewards.tolist() == held_there.rewards.tolist()
    for field in ("drift", "reverse", "forward"):
        assert torch.equal(getattr(from_disk.against["prev"], field), getattr(held_there.against["prev"], field))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert policy.model.training
    after = dict(policy.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, (weight, _) in before.items())
    assert all(after[name].requires_grad == trained for name, (_, trained) in before.items())


@pytest.mark.parametrize("kind", ["detection", "question"])
def test_boxes_and_questions_are_asked_and_scored_by_their_own_rules(
    kind: Kind, policy: Policy, stream: TaskStream
) -> None:
    task = stream.tasks[0]
    target = (Box(task.seen[0], (0, 0, 500, 500)),) if kind == "detection" else Question("Which digit?", ("one",))
    other = dataclasses.replace(
        task, kind=kind, test=tuple(dataclasses.replace(item, target=target) for item in task.test)
    )
    found = measure(policy, {"base": base(policy)}, asked(other, items=2))
    assert found.full == len(COMPONENTS[kind])
    assert ((found.rewards >= 0) & (found.rewards <= found.full)).all() and len(found.rewards) == 16


def test_few_tokens_at_a_time_and_a_prefix_that_cannot_be_shared_change_nothing(
    policy: Policy, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = moved(policy)
    whole = measure(policy, others, asked(stream.tasks[1]))
    vocabulary = policy.model.config.get_text_config().vocab_size
    monkeypatch.setattr("methods.drift.rollouts.LARGEST", 5 * vocabulary)
    assert_alike(measure(policy, others, asked(stream.tasks[1])), whole)
    plain = dataclasses.replace(asked(stream.tasks[1]), share=False, max_new_tokens=3)
    assert summary(measure(policy, others, plain), {"base": "not asked"})["kl_prev_reverse"] is not None
    policy.model.config.model_type = "another"  # whose prefix cannot be shared: the plain path
    monkeypatch.undo()
    assert_alike(measure(policy, others, asked(stream.tasks[1])), whole)
