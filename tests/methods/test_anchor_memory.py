"""The anchor of a LoRA policy: it costs the adapter and no more, and says what a full copy would say."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from transformers import AutoModelForImageTextToText

from benchmarks.anchor_memory import LIMIT, anchor_parameters, bytes_of, geometry_2b, tensors_of
from clrft.config.run_config import build_config
from methods import METHODS, build_method
from methods.base import TaskContext
from methods.model.config import Decoding
from methods.model.policy import Policy, lora_config
from methods.model.snapshots import Snapshot
from methods.model.weights import clear_rope_state
from methods.settings import TrainConfig
from methods.training.fit import FitSettings, fit
from task_streams.prompt import request
from task_streams.types import TaskStream

TRAIN = TrainConfig(updates=3, prompts_per_update=4, warmup=0, learning_rate=2e-3)


def learn(method: str, policy: Policy, stream: TaskStream, task: int, folder: Path, anchor: Snapshot | None) -> None:
    """Real updates on a task."""
    torch.manual_seed(task)
    context = TaskContext(stream.tasks[task - 1], policy, anchor, seed=task)
    fit(build_method(method, METHODS[method].Config()), context, None, FitSettings(TRAIN, folder))


def test_a_snapshot_of_the_tiny_model_adds_the_adapters_bytes_and_no_more(lora_policy: Policy) -> None:
    adapter = bytes_of(weight for weight in lora_policy.model.parameters() if weight.requires_grad)
    before = bytes_of(tensors_of(lora_policy.model))
    # rank 4: 4 * (inputs + outputs) of each linear layer, in float32
    # text, 4 layers: q and o 128 + 128, k and v 128 + 64, gate, up and down 128 + 384
    # vision, 3 layers: qkv 96 + 288, proj 96 + 96, fc1 and fc2 96 + 384; merger: 384 + 384, 384 + 128
    text, vision = 4 * (2 * 256 + 2 * 192 + 3 * 512), 3 * (384 + 192 + 2 * 480)
    assert adapter == 4 * 4 * (text + vision + 768 + 512) == 249_856
    for _ in range(2):  # the second snapshot takes the first one's place
        snapshot = lora_policy.snapshot()
        assert bytes_of([*tensors_of(lora_policy.model), *tensors_of(snapshot.model)]) == before + adapter
    assert bytes_of(anchor_parameters(snapshot)) == adapter
    assert 100 * adapter / (before - adapter) <= LIMIT


def test_the_anchor_of_the_2b_geometry_costs_less_than_the_limit() -> None:
    config = build_config("digits_cil", "sft", "qwen2_vl_2b_lora").model
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(geometry_2b(), dtype=getattr(torch, config.dtype))
        size = bytes_of(model.parameters())
        policy = Policy(get_peft_model(model, lora_config(config)), None, config, "sdpa")
        before = bytes_of(tensors_of(policy.model))
        policy.snapshot()
    assert size == 2 * 2_208_985_600  # two bytes each; tests/methods/test_footprint.py counts them by hand
    extra = bytes_of(tensors_of(policy.model)) - before
    assert extra == bytes_of(weight for weight in policy.model.parameters() if weight.requires_grad)
    assert 0 < 100 * extra / size <= LIMIT


def test_training_beside_the_anchor_keeps_neither_gradients_nor_moments_of_it(
    lora_policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    anchor = lora_policy.snapshot()
    held: set[int] = set()

    def look(optimizer: Optimizer, *_: Any) -> None:
        held.update(id(weight) for group in optimizer.param_groups for weight in group["params"])
        held.update(id(weight) for weight in optimizer.state)

    handle = register_optimizer_step_post_hook(look)
    learn("rapo", lora_policy, stream, 2, tmp_path, anchor)
    handle.remove()
    trained = {id(weight) for weight in lora_policy.model.parameters() if weight.requires_grad}
    assert held == trained  # the optimizer holds the trained adapter: all of it, and nothing else
    assert trained.isdisjoint(id(weight) for weight in anchor_parameters(anchor))
    assert all(weight.grad is None for weight in anchor_parameters(anchor))


@pytest.mark.parametrize("method", ["sft", "rapo"])
def test_an_adapter_anchor_says_what_a_full_copy_says(
    method: str, lora_policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    learn(method, lora_policy, stream, 1, tmp_path / "1", None)
    full = copy.deepcopy(lora_policy.model).merge_and_unload().eval()
    anchor = lora_policy.snapshot()
    learn(method, lora_policy, stream, 2, tmp_path / "2", anchor)
    asked = [request(example, stream.labels) for example in stream.tasks[1].test[:4]]
    texts = lora_policy.generate(asked, Decoding(24, temperature=1.0, seed=5))
    copied, mask = token_logps(lora_policy, full, asked, texts)
    with anchor.active() as module:
        adapted, _ = token_logps(lora_policy, module, asked, texts)
    moved, _ = token_logps(lora_policy, lora_policy.model, asked, texts)
    assert mask.sum() > 20
    assert (adapted - copied)[mask].abs().max() <= 1e-5
    assert (moved - copied)[mask].abs().max() > 0.1  # the policy has moved on, and the anchor has not


@torch.no_grad()
def token_logps(policy: Policy, model: Any, asked: list[Any], texts: list[str]) -> tuple[Tensor, Tensor]:
    """Log-probability of every completion token under a model, and which tokens are real; [N, L] each."""
    prompts = policy.encode(asked)
    tokens = policy.processor.tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    completion, real = tokens["input_ids"], tokens["attention_mask"]
    inputs = dict(prompts) | {
        "input_ids": torch.cat([prompts["input_ids"], completion], dim=1),
        "attention_mask": torch.cat([prompts["attention_mask"], real], dim=1),
        "mm_token_type_ids": torch.cat([prompts["mm_token_type_ids"], torch.zeros_like(completion)], dim=1),
    }
    clear_rope_state(model)
    model.eval()
    logits = model(**inputs, use_cache=False).logits[:, -completion.shape[1] - 1 : -1].float()
    return logits.log_softmax(dim=-1).gather(2, completion[:, :, None])[:, :, 0], real.bool()
