"""Rollouts by vLLM as far as they can be tested without it: what TRL's engine is handed, and what is learned from it.

An engine that stands in for vLLM answers with the completions of the suite's own rollouts: the same must be learned.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer import grpo_trainer

from methods.algorithms.rapo import Rapo, RapoConfig
from methods.base import TaskContext
from methods.generation.group_passes import GroupPasses
from methods.generation.vllm import never_drawn, vllm_arguments, vllm_obstacles
from methods.model.policy import Policy
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, fit
from task_streams.errors import UserError
from task_streams.types import TaskStream
from tests.methods.two_tasks import fresh_policy

UPDATES, GROUP, PROMPTS = 2, 4, 3
CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Standing:
    """Stands in for TRL's ``VLLMGeneration``: answers with completions that are known, and remembers its calls."""

    completions: list[list[list[int]]]  # of every call
    calls: list[tuple[list[list[int]], Any]]
    synced: int
    settings: dict[str, Any]

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
    train = TrainConfig(updates=UPDATES, prompts_per_update=PROMPTS, accumulation=accumulation, rollouts=rollouts)
    context = TaskContext(stream.tasks[1], policy, policy.snapshot(), seed=3)
    fit(Rapo(RapoConfig(group_size=GROUP)), context, policy.snapshot(), FitSettings(train, folder))
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


def test_image_tokens_are_never_drawn_by_either_engine() -> None:
    assert never_drawn([7, 8], use_vllm=False) == {"suppress_tokens": [7, 8]}
    assert never_drawn([7, 8], use_vllm=True) == {"logit_bias": {7: -100.0, 8: -100.0}}


def test_a_server_is_named_by_its_address() -> None:
    arguments = vllm_arguments(TrainConfig(rollouts="vllm_server", vllm_server="http://127.0.0.1:9000"))
    assert (arguments["vllm_mode"], arguments["vllm_server_base_url"]) == ("server", "http://127.0.0.1:9000")
    assert vllm_arguments(TrainConfig()) == {}
    with pytest.raises(UserError, match=r"vllm_server: got '127.0.0.1:9000', expected an address"):
        TrainConfig(vllm_server="127.0.0.1:9000")
    with pytest.raises(UserError, match=r"rollouts: got 'vlm', expected one of own, vllm, vllm_server"):
        TrainConfig(rollouts="vlm")


def test_where_vllm_cannot_sample_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    train = TrainConfig(rollouts="vllm", cuda_graphs=True)
    assert vllm_obstacles(TrainConfig(cuda_graphs=True), CPU, 2, True) == []  # it is not asked for
    monkeypatch.setattr("methods.generation.vllm.find_spec", lambda _: None)
    told = vllm_obstacles(train, CPU, 2, True)
    reasons = ("vllm is not installed", "there is no GPU", "there are 2 processes", "clips", "train.cuda_graphs")
    for reason, sentence in zip(reasons, told, strict=True):
        assert reason in sentence and sentence.startswith("train.rollouts: got 'vllm', but")
    monkeypatch.setattr("methods.generation.vllm.find_spec", lambda _: object())
    assert vllm_obstacles(TrainConfig(rollouts="vllm"), GPU, 1, False) == []
