"""Rollouts by vLLM, through TRL: TRL's arguments, and why vLLM cannot be used.

TRL gives vLLM the trained weights before the first rollout of every update, and weighs each completion by how likely
the trained model has it against how likely vLLM had it (``vllm_importance_sampling_correction``). Log-probabilities for
drift, advantages and loss come from the trained model, as with the suite's own rollouts.
Not run on a GPU yet: the seam is tested with an engine that stands in for vLLM.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from methods.settings import TrainConfig

NEVER = -100.0  # added to the logit of a token that must not be drawn, the least that vLLM takes


def vllm_arguments(train: TrainConfig) -> dict[str, Any]:
    """TRL's arguments for the engine that the settings name; nothing for the suite's own."""
    if train.rollouts == "own":
        return {}
    longest = train.max_prompt_tokens + train.max_completion_tokens
    modes: dict[str, dict[str, Any]] = {
        "vllm": {
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": train.vllm_memory,
            "vllm_max_model_length": longest,
        },
        "vllm_server": {"vllm_mode": "server", "vllm_server_base_url": train.vllm_server},
    }
    return {"use_vllm": True, **modes[train.rollouts]}


def never_drawn(tokens: Sequence[int], use_vllm: bool) -> dict[str, Any]:
    """Generation arguments that keep tokens from being drawn, by transformers' ``generate`` or by vLLM."""
    if use_vllm:
        return {"logit_bias": {token: NEVER for token in tokens}}
    return {"suppress_tokens": list(tokens)}


def vllm_obstacles(train: TrainConfig, device: torch.device, processes: int, clips: bool) -> list[str]:
    """Sentences on why the engine that is named cannot sample here; empty where it can, or is not named."""
    if train.rollouts == "own":
        return []
    found = {
        "the package vllm is not installed (pip install 'clrft[vllm]')": find_spec("vllm") is None,
        "there is no GPU": device.type != "cuda",
        f"there are {processes} processes, among which rollouts of vLLM are not shared": processes > 1,
        "clips are fed as videos, which TRL does not hand to vLLM; set stream.feed=images": clips,
        "train.cuda_graphs records the suite's own decoding": train.cuda_graphs,
    }
    given = f"train.rollouts: got {train.rollouts!r}, but"
    return [f"{given} {why}; expected own." for why, holds in found.items() if holds]
