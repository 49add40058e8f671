"""Counted operations are those that torch counts itself, forward and backward, to the last one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from clrft.base_model import default_model_path
from methods.costs.flops import Matrices, shape_of
from methods.costs.meter import Meter
from methods.model.config import ModelConfig
from methods.model.policy import load_policy
from methods.training.targets import target_inputs
from task_streams.prompt import request
from task_streams.types import TaskStream

LANGUAGE_ONLY = r".*language_model.*(q|k|v|o|up|gate|down)_proj"


def counted_by_torch(model: Any, inputs: dict[str, Any]) -> tuple[int, int]:
    """Operations of a forward pass and of its backward pass."""
    with FlopCounterMode(display=False) as forward:
        logits = model(**inputs, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize(
    "adapter",
    [{}, {"adapter": "lora", "lora_rank": 4}, {"adapter": "lora", "lora_rank": 4, "lora_targets": LANGUAGE_ONLY}],
    ids=["full", "lora", "lora of the language model"],
)
def test_operations_are_those_that_torch_counts(adapter: Any, stream: TaskStream) -> None:
    config = ModelConfig(dtype="float32", device="cpu", attention="eager", **adapter)  # torch sees no SDPA on a CPU
    policy = load_policy(config, str(default_model_path()))
    asked = [request(example, stream.labels) for example in stream.tasks[0].train[:3]]
    inputs = target_inputs(policy, asked, ["<answer>one</answer>", "<answer>seven</answer>", "a"])
    del inputs["labels"]
    policy.meter.taken()
    forward, backward = counted_by_torch(policy.model, inputs)
    assert policy.meter.taken()["model_flops"] == forward + backward


def test_windows_of_a_qwen2_5_tower_are_counted() -> None:
    # 6 x 10 patches: 3 x 5 tokens in windows of 2 x 2 tokens, those at the edges smaller.
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [2], "spatial_merge_size": 2}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, image_token_id=5, video_token_id=6)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    meter = Meter()
    meter.watch(model)
    ids = torch.tensor([[3, *[5] * 15, 4, 7]])
    pixels = torch.randn(60, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    inputs |= {"image_grid_thw": torch.tensor([[1, 6, 10]]), "mm_token_type_ids": (ids == 5).int()}
    forward, backward = counted_by_torch(model, inputs)
    assert meter.taken()["model_flops"] == pytest.approx(forward + backward, rel=1e-9)


def test_a_frozen_matrix_beneath_a_trained_one_costs_half_backward() -> None:
    # 10 positions, 6 weights, all trained and reached: 2*6*10 forward, 2*12*10 backward; frozen but reached: half.
    assert Matrices(6, 12).work(10).forward == 120 and Matrices(6, 12).work(10).backward == 240
    assert Matrices(6, 6).work(10).backward == 120


def test_a_family_that_is_not_known_has_no_shape() -> None:
    assert shape_of(SimpleNamespace(config=SimpleNamespace(model_type="other"))) is None
