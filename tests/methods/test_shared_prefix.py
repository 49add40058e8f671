"""Shared and kept prefixes against TRL's plain path, same numbers and gradients; image features that are kept."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.generation import shared_prefix
from methods.generation.answers import ImageFeatures, Session
from methods.generation.completion_logps import checkpointed_states, token_logps
from methods.generation.group_passes import FrozenPrefixes, GroupBatch
from methods.generation.shared_prefix import Prefix, common_lead, prefill
from methods.inputs.media import IMAGE_PATCHES, patches_in
from methods.inputs.prompts import Prompts
from methods.model.config import Decoding
from methods.model.policy import Policy
from task_streams.prompt import request
from task_streams.types import Feed, Task, TaskStream
from tests.methods.clip_tasks import about_clips
from tests.methods.trainers import (
    Asked,
    assert_equal,
    assert_same_gradients,
    both_paths,
    checkpoint_layers,
    learn,
    scored,
    trained,
    trainer_of,
    whole_rows,
)
from tests.methods.two_tasks import fresh_policy


def grpo_trainer(policy: Policy, task: Task, folder: Path) -> Any:
    return trainer_of(Grpo(GrpoConfig(temperature=0.8)), policy, task, folder)


@pytest.fixture
def text_first(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """The embedded model, asked with images behind the text; whatever is shared is computed once."""
    monkeypatch.setattr(shared_prefix, "SAVED", 1)
    policy.config = dataclasses.replace(policy.config, media="last")
    return policy


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["policy", "lora_policy", "text_first"])
def test_logps_entropies_and_gradients_equal_the_plain_path(
    kind: str, checkpointed: bool, request: pytest.FixtureRequest, stream: TaskStream, tmp_path: Path
) -> None:
    policy: Policy = request.getfixturevalue(kind)
    trainer = grpo_trainer(policy, stream.tasks[2], tmp_path)
    if checkpointed:
        checkpoint_layers(policy)
    output = scored(trainer)
    if kind == "text_first":
        (turn,) = trainer.train_dataset[0]["prompt"]
        assert [part["type"] for part in turn["content"]] == ["text", "image"]  # training asks as the policy is asked
        assert common_lead(trainer.generation.batch.prompts) > 10
    assert_same_gradients(*both_paths(trainer, output), trained(policy))


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("feed", "counts"), [("images", (3,)), ("images", (1, 3, 2)), ("video", (4,)), ("video", (2, 5))]
)
def test_several_images_or_a_clip_change_nothing(
    feed: Feed, counts: tuple[int, ...], checkpointed: bool, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    if checkpointed:
        checkpoint_layers(policy)
    trainer = grpo_trainer(policy, about_clips(stream.tasks[2], feed, counts), tmp_path)
    output = scored(trainer)
    prompts = trainer.generation.batch.prompts
    if feed == "images":
        assert set(prompts.images.counts) == set(counts)
    else:
        assert set(prompts.clips.grids[:, 0].tolist()) == {(count + 1) // 2 for count in counts}
    assert_same_gradients(*both_paths(trainer, output), list(policy.model.model.visual.parameters()))


@pytest.mark.parametrize("feed", ["images", "video"])
def test_parts_of_a_batch_keep_their_own_images(feed: Feed, policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    trainer = grpo_trainer(policy, about_clips(stream.tasks[2], feed, (1, 3, 2)), tmp_path)
    output = scored(trainer)
    completions, mask = output["completion_ids"], output["completion_mask"]
    trainer.passes.size = 6
    shared = trainer.passes.told("policy", trainer.model, trainer.generation.batch, completions, mask)
    unknown = partial(trainer.model)  # the policy, as a model that the trainer does not know
    plain, _, _ = trainer._get_per_token_logps_and_entropies(unknown, *whole_rows(output), completions.shape[1], 6)
    for parts, whole in zip((shared, plain), both_paths(trainer, output, torch.arange(len(mask))), strict=True):
        assert torch.allclose(parts[mask.bool()], whole, rtol=1e-5, atol=1e-5)


def test_padding_of_prompts_makes_no_difference(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    trainer = grpo_trainer(policy, stream.tasks[2], tmp_path)
    output, batch = scored(trainer), trainer.generation.batch
    padding = policy.processor.tokenizer.pad_token_id
    # two more pad tokens on the left of every prompt, as beside a longer one
    output["prompt_ids"] = pad(output["prompt_ids"], (2, 0), value=padding)
    output["prompt_mask"] = pad(output["prompt_mask"], (2, 0))
    ids = pad(batch.prompts.ids, (2, 0), value=padding)
    mask, types = (pad(rows, (2, 0)) for rows in (batch.prompts.mask, batch.prompts.token_types))
    batch.prompts = dataclasses.replace(batch.prompts, ids=ids, mask=mask, token_types=types)
    batch.policy = None
    both_paths(trainer, output)


def ten_updates(
    stream: TaskStream, folder: Path, adapter: str, checkpointing: bool = False, **budget: Any
) -> tuple[Policy, list[float]]:
    """The policy after ten updates of RaPO from the embedded model, and the rewards on the way."""
    policy = fresh_policy(adapter, gradient_checkpointing=checkpointing)
    rapo = Rapo(RapoConfig(group_size=4))
    result = learn(rapo, policy, stream.tasks[1], folder, updates=10, prompts_per_update=2, **budget)
    return policy, [row["reward"] for row in result.steps]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_ten_updates_take_the_same_path(adapter: str, stream: TaskStream, tmp_path: Path) -> None:
    plain, expected = ten_updates(stream, tmp_path, adapter, share_prefix=False)
    ways: list[dict[str, Any]] = [{}, {"checkpointing": True}]
    if adapter == "none":
        ways += [{"kept_prefixes": 0}, {"accumulation": 2}]
    for way in ways:
        policy, rewards = ten_updates(stream, tmp_path, adapter, **way)
        assert rewards == pytest.approx(expected, abs=1e-4)
        for mine, theirs in zip(policy.model.parameters(), plain.model.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4)


def test_one_token_is_learned_with_checkpoints(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    trainer = grpo_trainer(policy, stream.tasks[2], tmp_path)
    output = scored(trainer)
    batch, tokens, mask = trainer.generation.batch, output["completion_ids"][:, :1], output["completion_mask"][:, :1]
    expected = trainer.passes.told("policy", policy.model, batch, tokens, mask)
    checkpoint_layers(policy)
    hidden = checkpointed_states(policy.model, batch.prompts, batch.rows, tokens, mask)
    found, _ = token_logps(policy.model, hidden, tokens, mask, 0.8)
    assert torch.allclose(found, expected, atol=1e-5)


def test_rows_of_one_example_share_their_prompt(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    trainer = grpo_trainer(policy, stream.tasks[2], tmp_path)
    rows = [trainer.train_dataset[place] for place in (3, 3, 0, 3, 5)]
    batch = GroupBatch.of(rows, policy.processor, policy.model.config, policy.device)
    assert batch.keys == (rows[0]["key"], rows[2]["key"], rows[4]["key"])
    assert batch.rows.tolist() == [0, 0, 1, 0, 2]
    assert len(batch.prompts.ids) == 3
    first, second, third = (batch.prompts.images.select([row]).values for row in range(3))  # type: ignore[union-attr]
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_prefixes_apart_and_joined_again_are_as_they_were() -> None:
    # two prompts of 3 and 2 tokens in a layer of one head of size 1; the second is padded by one
    keys = torch.tensor([[[[1.0], [2.0], [3.0]]], [[[0.0], [4.0], [5.0]]]])
    prefix = Prefix(
        ((keys, -keys),), torch.tensor([[7.0], [8.0]]), torch.tensor([[1, 1, 1], [0, 1, 1]]), torch.tensor([3, 2])
    )
    long, short = prefix.rows()
    assert (long.mask.shape[1], short.mask.shape[1]) == (3, 2)
    assert short.layers[0][0].flatten().tolist() == [4, 5]
    again = Prefix.joined([short, long])
    assert again.layers[0][0].flatten().tolist() == [0, 4, 5, 1, 2, 3]
    assert again.layers[0][1].flatten().tolist() == [0, -4, -5, -1, -2, -3]
    assert again.mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert (again.last.flatten().tolist(), again.next_position.tolist()) == ([8, 7], [2, 3])
    assert prefix.bytes == 2 * 6 * 4  # keys and values of 6 tokens in float32


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
    prompts = text_first.prompts(Asked(text_first, stream).requests[:6])
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
    asked = Asked(text_first, stream).requests[:6]
    for decoding in (Decoding(20), Decoding(20, temperature=0.9, seed=4)):
        text_first.share_prefix = True
        shared = text_first.generate(asked, decoding)
        text_first.share_prefix = False
        assert shared == text_first.generate(asked, decoding)


@pytest.fixture
def asked(policy: Policy, stream: TaskStream) -> Asked:
    return Asked(policy, stream)


@pytest.mark.parametrize("part", [1.0, 0.5, 0.0])  # of the task's prompts are kept: all, some, none
def test_kept_ones_are_those_computed_anew(part: float, asked: Asked, policy: Policy) -> None:
    with torch.no_grad():
        whole = prefill(policy.model, asked.prompts(list(range(8)))[1])
        memory = asked.memory(int(whole.bytes * part))
        for places in ([5, 0, 7], [1], [2, 6, 3, 4]):
            keys, prompts = asked.prompts(places)
            assert_equal(memory.of("anchor", policy.model, keys, prompts), prefill(policy.model, prompts))
    assert 0 <= memory.room <= whole.bytes * part
    assert len(memory.kept["anchor"]) == {1.0: 8, 0.5: 3, 0.0: 0}[part]


def test_bits_do_not_depend_on_what_was_asked_before(asked: Asked, policy: Policy) -> None:
    keys, prompts = asked.prompts([4, 1])
    first, second = asked.memory(2**30), asked.memory(2**30)
    second.of("anchor", policy.model, *asked.prompts([7, 2, 3]))
    one, other = (memory.of("anchor", policy.model, keys, prompts) for memory in (first, second))
    assert torch.equal(one.last, other.last)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one.layers, other.layers, strict=True))


def test_models_have_prefixes_of_their_own(asked: Asked, policy: Policy) -> None:
    moved = policy.snapshot()
    with torch.no_grad():
        for weight in moved.weights().values():
            weight.mul_(1.01)
    keys, prompts = asked.prompts([0, 1])
    memory = asked.memory(2**30)
    base, anchor = (
        memory.of(name, model, keys, prompts) for name, model in (("base", policy.model), ("a", moved.model))
    )
    assert not torch.allclose(base.last, anchor.last, atol=1e-3)
    assert_equal(memory.of("base", policy.model, keys, prompts), base, 0.0)


def test_nothing_is_computed_ahead_where_it_does_not_pay(asked: Asked, policy: Policy) -> None:
    keys, prompts = asked.prompts([0, 1])
    memory = FrozenPrefixes(tuple, 2**30)
    policy.meter.taken()
    memory.of("anchor", policy.model, keys, prompts)
    assert policy.meter.taken()["images"] == 2


def test_the_same_items_under_another_list_cost_no_image(policy: Policy, stream: TaskStream) -> None:
    items, session, decoding = stream.tasks[0].test[:6], Session(), Decoding(24)
    policy.meter.taken()
    for labels, images in ((stream.tasks[0].seen, 6), (stream.labels, 0)):
        asked = [request(item, labels) for item in items]
        found = policy.generate(asked, decoding, session)
        assert policy.meter.taken()["images"] == images
        assert found == policy.generate(asked, decoding)
        policy.meter.taken()


def test_features_are_the_towers_own_in_any_order_and_beyond_the_limit(policy: Policy, stream: TaskStream) -> None:
    batch = policy.encode([request(item, stream.labels) for item in stream.tasks[0].test[:4]])
    images = patches_in(batch, IMAGE_PATCHES, [1] * 4)
    assert images is not None
    backbone = policy.model.model
    with torch.no_grad():
        expected = backbone.get_image_features(images.values, images.grids, return_dict=True).pooler_output
    size = expected[0].numel() * 4
    for limit, kept in ((10 * size, 4), (2 * size, 2), (0, 0)):
        memory = ImageFeatures(limit)
        for order in ([0, 1], [3, 0, 2, 1], [2]):
            found = memory.features(backbone, [f"item {place}" for place in order], images.select(order))
            assert torch.allclose(found, torch.cat([expected[place] for place in order]), atol=1e-5)
        assert len(memory.kept) == kept


def test_a_question_about_several_images_keeps_their_order(policy: Policy, stream: TaskStream) -> None:
    task = about_clips(stream.tasks[1], "images", (3, 1, 2))
    asked = [request(item, stream.labels) for item in task.train[:3]]
    session, decoding = Session(), Decoding(24)
    plain = policy.generate(asked, decoding)
    assert policy.generate(asked, decoding, session) == policy.generate(asked[::-1], decoding, session)[::-1] == plain
