"""The shared prefix against TRL's plain path: same numbers, same gradients."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from clrft.base_model import default_model_path
from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.base import TaskContext
from methods.generation.completion_logps import checkpointed_logps
from methods.generation.group_passes import GroupBatch
from methods.generation.shared_prefix import Prefix, obstacle
from methods.inputs.media import Patches
from methods.inputs.prompts import Prompts
from methods.model.config import ModelConfig
from methods.model.policy import Policy, load_policy
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, build_trainer, fit
from task_streams.types import Feed, Task, TaskStream
from tests.methods.clip_tasks import about_clips
from tests.methods.test_grpo_trainer import scored


def trainer_of(policy: Policy, task: Task, share: bool, tmp_path: Path) -> Any:
    train = TrainConfig(updates=1, prompts_per_update=4, share_prefix=share)
    context = TaskContext(task, policy, None, seed=3)
    settings = FitSettings(train, scratch=tmp_path)
    trainer = build_trainer(Grpo(GrpoConfig(temperature=0.8)), context, policy.snapshot(), settings, [])
    return trainer


def both_paths(trainer: Any, output: dict[str, Any], order: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Log-probabilities and entropies of a shuffled batch: shared, then plain."""
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    trainer.generation.rows = order
    results = []
    for share in (True, False):
        trainer.share_prefix = share
        assert trainer._shares(trainer.model) == share
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids[order], mask[order], output["completion_ids"].shape[1], compute_entropy=True
        )
        results.append((logps, entropies))
    return results


def checkpoint_layers(policy: Policy) -> None:
    """As a trainer switches it on."""
    policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if policy.has_adapter:
        policy.model.enable_input_require_grads()


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_logps_entropies_and_gradients_equal_the_plain_path(
    kind: str, checkpointed: bool, request: pytest.FixtureRequest, stream: TaskStream, tmp_path: Path
) -> None:
    policy: Policy = request.getfixturevalue(kind)
    if checkpointed:
        checkpoint_layers(policy)
    trainer = trainer_of(policy, stream.tasks[2], True, tmp_path)
    output = scored(trainer)
    order = torch.randperm(len(output["prompt_ids"]), generator=torch.Generator().manual_seed(0))
    real = output["completion_mask"][order].bool()
    (shared, shared_entropy), (plain, plain_entropy) = both_paths(trainer, output, order)
    assert torch.allclose(shared[real], plain[real], rtol=1e-5, atol=1e-5)
    assert torch.allclose(shared_entropy[real], plain_entropy[real], rtol=1e-4, atol=1e-5)
    weights = [weight for weight in policy.model.parameters() if weight.requires_grad]
    mine = torch.autograd.grad(shared[real].sum(), weights, allow_unused=True)
    theirs = torch.autograd.grad(plain[real].sum(), weights, allow_unused=True)
    used = [(a, b) for a, b in zip(mine, theirs, strict=True) if b is not None]
    assert len(used) > 0
    for a, b in used:
        assert a is not None
        assert (a - b).norm() <= 1e-5 * max(float(b.norm()), 1.0)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("feed", "counts"), [("images", (3,)), ("images", (1, 3, 2)), ("video", (4,)), ("video", (2, 5))]
)
def test_several_images_or_a_clip_a_row_change_nothing(
    feed: Feed, counts: tuple[int, ...], checkpointed: bool, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    if checkpointed:
        checkpoint_layers(policy)
    trainer = trainer_of(policy, about_clips(stream.tasks[2], feed, counts), True, tmp_path)
    output = scored(trainer)
    prompts = trainer.generation.batch.prompts
    if feed == "images":
        assert set(prompts.images.counts) == set(counts)
    else:
        assert set(prompts.clips.grids[:, 0].tolist()) == {(count + 1) // 2 for count in counts}
    order = torch.randperm(len(output["prompt_ids"]), generator=torch.Generator().manual_seed(0))
    real = output["completion_mask"][order].bool()
    (shared, shared_entropy), (plain, plain_entropy) = both_paths(trainer, output, order)
    assert torch.allclose(shared[real], plain[real], rtol=1e-5, atol=1e-5)
    assert torch.allclose(shared_entropy[real], plain_entropy[real], rtol=1e-4, atol=1e-5)
    weights = list(policy.model.model.visual.parameters())
    mine, theirs = (torch.autograd.grad(logps[real].sum(), weights) for logps in (shared, plain))
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).norm() <= 1e-5 * max(float(b.norm()), 1.0)


@pytest.mark.parametrize("feed", ["images", "video"])
def test_parts_of_a_batch_keep_their_own_images_and_clips(
    feed: Feed, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    trainer = trainer_of(policy, about_clips(stream.tasks[2], feed, (1, 3, 2)), True, tmp_path)
    output = scored(trainer)
    completions, mask = output["completion_ids"], output["completion_mask"]
    real = mask.bool()
    trainer.passes.size = 6
    shared = trainer.passes.anew(trainer.model, trainer.generation.batch, completions, mask)
    plain, _, _ = trainer._get_per_token_logps_and_entropies(
        Unshared(trainer.model),
        torch.cat([output["prompt_ids"], completions], dim=1),
        torch.cat([output["prompt_mask"], mask], dim=1),
        completions.shape[1],
        6,
    )
    for parts, (whole, _) in zip((shared, plain), both_paths(trainer, output, torch.arange(len(mask))), strict=True):
        assert torch.allclose(parts[real], whole[real], rtol=1e-5, atol=1e-5)


class Unshared:
    """The policy, as a model that the trainer does not know."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def test_prompts_of_different_lengths_are_padded_without_a_difference(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    trainer = trainer_of(policy, stream.tasks[2], True, tmp_path)
    output = scored(trainer)
    pad = policy.processor.tokenizer.pad_token_id
    # two more pad tokens on the left of every prompt, as beside a longer one
    for name, value in (("prompt_ids", pad), ("prompt_mask", 0)):
        output[name] = torch.nn.functional.pad(output[name], (2, 0), value=value)
    prompts = trainer.generation.batch.prompts
    ids, mask, types = (
        torch.nn.functional.pad(rows, (2, 0), value=value)
        for rows, value in ((prompts.ids, pad), (prompts.mask, 0), (prompts.token_types, 0))
    )
    trainer.generation.batch.prompts = dataclasses.replace(prompts, ids=ids, mask=mask, token_types=types)
    trainer.generation.batch.policy = None
    order = torch.arange(len(output["prompt_ids"]))
    real = output["completion_mask"].bool()
    (shared, _), (plain, _) = both_paths(trainer, output, order)
    assert torch.allclose(shared[real], plain[real], rtol=1e-5, atol=1e-5)


def twenty_updates(
    stream: TaskStream, folder: Path, adapter: str, budget: dict[str, Any]
) -> tuple[Policy, list[float]]:
    """The policy after 20 updates of RaPO from the embedded model, and the rewards on the way."""
    checkpointing = budget.pop("gradient_checkpointing", False)
    config = ModelConfig(
        dtype="float32", device="cpu", adapter=adapter, lora_rank=4, gradient_checkpointing=checkpointing
    )
    policy = load_policy(config, str(default_model_path()))
    train = TrainConfig(updates=20, prompts_per_update=2, **budget)
    context = TaskContext(stream.tasks[1], policy, policy.snapshot(), seed=3)
    reference = None if policy.has_adapter else policy.snapshot()
    result = fit(Rapo(RapoConfig(group_size=4)), context, reference, FitSettings(train, folder))
    return policy, [row["reward"] for row in result.steps]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_twenty_updates_take_the_same_path(adapter: str, stream: TaskStream, tmp_path: Path) -> None:
    plain, expected = twenty_updates(stream, tmp_path, adapter, {"share_prefix": False})
    ways: list[dict[str, Any]] = [{}, {"gradient_checkpointing": True}]
    if adapter == "none":
        ways += [{"kept_prefixes": 0}, {"accumulation": 2}]
    for budget in ways:
        policy, rewards = twenty_updates(stream, tmp_path, adapter, dict(budget))
        assert rewards == pytest.approx(expected, abs=1e-4)
        for mine, theirs in zip(policy.model.parameters(), plain.model.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4)


def test_a_completion_of_one_token_can_be_learned_with_checkpoints(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    trainer = trainer_of(policy, stream.tasks[2], True, tmp_path)
    output = scored(trainer)
    batch, tokens, mask = trainer.generation.batch, output["completion_ids"][:, :1], output["completion_mask"][:, :1]
    expected = trainer.passes.anew(policy.model, batch, tokens, mask)
    checkpoint_layers(policy)
    found, _ = checkpointed_logps(policy.model, batch.prompts, batch.rows, tokens, mask, 0.8)
    assert torch.allclose(found, expected, atol=1e-5)


def test_chosen_prompts_keep_their_own_images() -> None:
    # two prompts; images of 1 and 2 patches, each patch holds its prompt's number
    prompts = Prompts(
        ids=torch.tensor([[7], [8]]),
        mask=torch.ones(2, 1),
        token_types=torch.zeros(2, 1),
        images=Patches(torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([[1, 1, 1], [1, 1, 2]]), (1, 1)),
        clips=None,
    )
    chosen = prompts.select(torch.tensor([1, 0, 1]))
    assert chosen.ids.tolist() == [[8], [7], [8]]
    assert chosen.images is not None
    assert chosen.images.values.tolist() == [[1.0], [1.0], [0.0], [1.0], [1.0]]
    assert chosen.images.grids.tolist() == [[1, 1, 2], [1, 1, 1], [1, 1, 2]]


def test_rows_of_one_example_share_their_prompt(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    trainer = trainer_of(policy, stream.tasks[2], True, tmp_path)
    rows = [trainer.train_dataset[place] for place in (3, 3, 0, 3, 5)]
    batch = GroupBatch.of(rows, policy.processor, policy.model.config, policy.device)
    assert batch.keys == (rows[0]["key"], rows[2]["key"], rows[4]["key"])
    assert batch.rows.tolist() == [0, 0, 1, 0, 2]
    assert len(batch.prompts.ids) == 3
    first, second, third = (batch.prompts.images.select([row]).values for row in range(3))  # type: ignore[union-attr]
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert len(batch.ids()) == 5


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


def test_what_cannot_be_shared_says_why(policy: Policy) -> None:
    assert obstacle(policy.model) is None
    policy.model.config.model_type = "llava"
    assert str(obstacle(policy.model)) == "model type 'llava' is not one of qwen2_vl, qwen2_5_vl"
