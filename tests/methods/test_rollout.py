"""Sampling with a shared prefix draws what transformers' generate draws from the same noise."""

from pathlib import Path

import pytest
import torch

from methods.algorithms.grpo import Grpo, GrpoConfig
from methods.base import TaskContext
from methods.generation.rollout import Sampling, draw
from methods.model.policy import Policy
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, build_trainer
from task_streams.types import Feed, TaskStream
from tests.methods.clip_tasks import about_clips
from tests.methods.test_grpo_trainer import scored


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
    outputs = []
    task = about_clips(stream.tasks[2], feed, counts)
    for share in (True, False):
        train = TrainConfig(updates=1, prompts_per_update=6, share_prefix=share)
        method = Grpo(GrpoConfig(temperature=temperature, top_p=top_p, kl=0.0))
        context = TaskContext(task, policy, None, seed=3)
        trainer = build_trainer(method, context, None, FitSettings(train, tmp_path), [])
        outputs.append(scored(trainer, seed=9))
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
