"""The shared prefix against TRL's plain path: same numbers, same gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch

from methods.base import TaskContext
from methods.fit import FitSettings, build_trainer, fit
from methods.grpo import Grpo, GrpoConfig
from methods.media import Patches
from methods.policy import Policy, load_policy
from methods.rapo import Rapo, RapoConfig
from methods.settings import TrainConfig
from methods.shared_prefix import Prompts, obstacle, sources
from methods.trl_seam import IMAGE_FIELDS
from task_streams.types import Feed, Task, TaskStream
from tests.methods.clip_tasks import about_clips, with_clips
from tests.methods.test_trl_seam import scored


def trainer_of(policy: Policy, task: Task, share: bool, tmp_path: Path) -> Any:
    train = TrainConfig(updates=1, prompts_per_update=4, share_prefix=share)
    context = TaskContext(task, policy, None, seed=3)
    settings = FitSettings(train, think=True, scratch=tmp_path)
    trainer = build_trainer(Grpo(GrpoConfig(temperature=0.8)), context, policy.snapshot(), settings, [])
    trainer.train_dataset = with_clips(task)
    return trainer


def both_paths(trainer: Any, output: dict[str, Any], order: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Log-probabilities and entropies of a shuffled batch: shared, then plain."""
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    fields = {name: output[name] for name in IMAGE_FIELDS if name in output}
    rows = order.tolist()
    if "pixel_values" in fields:
        counts = fields["num_images"]
        images = Patches(fields["pixel_values"], fields["image_grid_thw"], tuple(counts)).select(rows)
        fields |= {"pixel_values": images.values, "image_grid_thw": images.grids, "num_images": list(images.counts)}
        fields["mm_token_type_ids"] = fields["mm_token_type_ids"][order]
    trainer._clips = [output["clips"][row] for row in rows] if "clips" in output else None
    results = []
    for share in (True, False):
        trainer.share_prefix = share
        trainer._sources = output["sources"][order]
        assert trainer._can_share(trainer.model, fields) == share
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids[order], mask[order], output["completion_ids"].shape[1], compute_entropy=True, **fields
        )
        results.append((logps, entropies))
    return results


@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_logps_entropies_and_gradients_equal_the_plain_path(
    kind: str, request: pytest.FixtureRequest, stream: TaskStream, tmp_path: Path
) -> None:
    policy: Policy = request.getfixturevalue(kind)
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
        assert (a - b).norm() <= 3e-5 * max(float(b.norm()), 1.0)


@pytest.mark.parametrize(
    ("feed", "counts"), [("images", (3,)), ("images", (1, 3, 2)), ("video", (4,)), ("video", (2, 5))]
)
def test_several_images_or_a_clip_a_row_change_nothing(
    feed: Feed, counts: tuple[int, ...], policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    trainer = trainer_of(policy, about_clips(stream.tasks[2], feed, counts), True, tmp_path)
    output = scored(trainer)
    if feed == "images":
        assert set(output["num_images"]) == set(counts)
    else:
        assert {int(one.grids[0, 0]) for one in output["clips"]} == {(count + 1) // 2 for count in counts}
    order = torch.randperm(len(output["prompt_ids"]), generator=torch.Generator().manual_seed(0))
    real = output["completion_mask"][order].bool()
    (shared, shared_entropy), (plain, plain_entropy) = both_paths(trainer, output, order)
    assert torch.allclose(shared[real], plain[real], rtol=1e-5, atol=1e-5)
    assert torch.allclose(shared_entropy[real], plain_entropy[real], rtol=1e-4, atol=1e-5)
    weights = list(policy.model.model.visual.parameters())
    mine, theirs = (torch.autograd.grad(logps[real].sum(), weights) for logps in (shared, plain))
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).norm() <= 3e-5 * max(float(b.norm()), 1.0)


@pytest.mark.parametrize("feed", ["images", "video"])
def test_parts_of_a_batch_keep_their_own_images_and_clips(
    feed: Feed, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    trainer = trainer_of(policy, about_clips(stream.tasks[2], feed, (1, 3, 2)), True, tmp_path)
    output = scored(trainer)
    order = torch.arange(len(output["prompt_ids"]))
    real = output["completion_mask"].bool()
    whole = both_paths(trainer, output, order)
    fields = {name: output[name] for name in IMAGE_FIELDS if name in output}
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    for share, (expected, _) in zip((True, False), whole, strict=True):
        trainer.share_prefix = share
        length = output["completion_ids"].shape[1]
        parts, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, length, 6, **fields)
        assert torch.allclose(parts[real], expected[real], rtol=1e-5, atol=1e-5)


def test_prompts_of_different_lengths_are_padded_without_a_difference(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    trainer = trainer_of(policy, stream.tasks[2], True, tmp_path)
    output = scored(trainer)
    pad = policy.processor.tokenizer.pad_token_id
    # two more pad tokens on the left of every prompt, as beside a longer one
    for name, value in (("prompt_ids", pad), ("prompt_mask", 0), ("mm_token_type_ids", 0)):
        output[name] = torch.nn.functional.pad(output[name], (2, 0), value=value)
    order = torch.arange(len(output["prompt_ids"]))
    real = output["completion_mask"].bool()
    (shared, _), (plain, _) = both_paths(trainer, output, order)
    assert torch.allclose(shared[real], plain[real], rtol=1e-5, atol=1e-5)


def test_twenty_updates_take_the_same_path(stream: TaskStream, tmp_path: Path) -> None:
    ends = []
    for share in (True, False):
        from clrft.base import default_model_path
        from methods.model_config import ModelConfig

        policy = load_policy(ModelConfig(dtype="float32", device="cpu"), str(default_model_path()))
        train = TrainConfig(updates=20, prompts_per_update=2, share_prefix=share)
        context = TaskContext(stream.tasks[1], policy, policy.snapshot(), seed=3)
        method = Rapo(RapoConfig(group_size=4))
        result = fit(method, context, policy.snapshot(), FitSettings(train, True, tmp_path))
        ends.append((policy, [row["reward"] for row in result.steps]))
    (one, rewards), (other, other_rewards) = ends
    assert rewards == pytest.approx(other_rewards, abs=1e-4)
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_unique_prompts_keep_their_own_images() -> None:
    # three rows of two prompts; images of 1 and 2 patches, each patch holds its row number
    prompts = Prompts(
        ids=torch.tensor([[7], [8], [7]]),
        mask=torch.ones(3, 1),
        token_types=torch.zeros(3, 1),
        images=Patches(
            torch.tensor([[0.0], [1.0], [1.0], [0.0]]), torch.tensor([[1, 1, 1], [1, 1, 2], [1, 1, 1]]), (1, 1, 1)
        ),
        clips=None,
        source=torch.tensor([0, 1, 0]),
    )
    unique, rows = prompts.unique()
    assert unique.ids.tolist() == [[7], [8]]
    assert unique.images is not None
    assert unique.images.values.tolist() == [[0.0], [1.0], [1.0]]
    assert rows.tolist() == [0, 1, 0]


def test_rows_of_one_example_share_their_source() -> None:
    assert sources(["a", "a", "b", "a", "c"]) == [0, 0, 2, 0, 4]


def test_what_cannot_be_shared_says_why(policy: Policy) -> None:
    assert obstacle(policy.model) is None
    policy.model.gradient_checkpointing_enable()
    assert "checkpointing" in str(obstacle(policy.model))
