"""Counts by hand and by torch, whoever calls the model; counting changes nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from clrft.base_model import default_model_path
from methods import build_method
from methods.algorithms.grpo import GrpoConfig
from methods.algorithms.rapo import RapoConfig
from methods.algorithms.sft import SftConfig
from methods.base import LossContext, Method
from methods.costs.flops import Matrices, shape_of
from methods.costs.meter import COUNTS, Meter, meter_of, sampled_tokens, sums
from methods.model.config import Decoding, ModelConfig
from methods.model.policy import Policy, load_policy
from methods.parts.ewc import EwcConfig
from methods.training.fit import FitResult
from methods.training.targets import completion_logits, target_inputs
from task_streams.prompt import request, target_text
from task_streams.types import TaskStream
from tests.methods.trainers import learn, prompt_length
from tests.methods.two_tasks import fresh_policy

TRAIN = {"updates": 2, "prompts_per_update": 4, "warmup": 1, "max_completion_tokens": 20}


def fitted(policy: Policy, method: Method, stream: TaskStream, folder: Path, **train: Any) -> FitResult:
    """Learn the second task."""
    torch.manual_seed(3)
    return learn(method, policy, stream.tasks[1], folder, **(TRAIN | train))


def prompt_lengths(policy: Policy, stream: TaskStream) -> set[int]:
    task = stream.tasks[1]
    return {prompt_length(policy, request(example, task.trained)) for example in task.train}


def text_lengths(policy: Policy, texts: list[str]) -> list[int]:
    return [len(ids) for ids in policy.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]


def test_a_call_of_prompts_and_completions_is_counted_by_hand(policy: Policy, stream: TaskStream) -> None:
    examples = stream.tasks[0].train[:2]
    asked = [request(example, stream.labels) for example in examples]
    prompts = sum(prompt_length(policy, one) for one in asked)
    texts = ["<answer>one</answer>", "a"]
    tokens = sum(text_lengths(policy, texts)) + 2  # two ends of sequence
    policy.meter.taken()
    inputs = target_inputs(policy, asked, texts)
    assert policy.meter.taken() == dict.fromkeys(COUNTS, 0.0)  # encoding calls no model
    completion_logits(policy.model, inputs)
    counts = policy.meter.taken()
    assert counts["prompt_tokens"] == counts["prompt_tokens_computed"] == prompts
    assert counts["images"] == 2 and counts["tokens_generated"] == counts["tokens_trained"] == 0
    assert int(inputs["attention_mask"].sum()) == prompts + tokens
    LossContext(policy.model, inputs, 1, None, lambda name, value: None).logits.sum()
    assert policy.meter.taken()["prompt_tokens"] == prompts


def test_generated_tokens_end_with_the_end_of_sequence() -> None:
    tokens = torch.tensor([[5, 9, 7, 7], [5, 6, 7, 8], [9, 9, 9, 9], [5, 5, 5, 9]])
    # 9 ends: 2 tokens, none ends: 4, at once: 1, at last: 4.
    assert int(sampled_tokens(tokens, torch.tensor([9]))) == 11
    assert int(sampled_tokens(tokens, torch.tensor([], dtype=torch.long))) == 16


def test_evaluation_is_counted(policy: Policy, stream: TaskStream) -> None:
    asked = [request(example, stream.labels) for example in stream.tasks[0].test[:3]]
    policy.meter.taken()
    texts = policy.generate(asked, Decoding(max_new_tokens=30))
    counts = policy.meter.taken()
    assert counts["tokens_generated"] == sum(text_lengths(policy, texts)) + 3  # each with its end of sequence
    assert counts["prompt_tokens"] == sum(prompt_length(policy, one) for one in asked)
    assert counts["images"] == 3


def test_supervised_updates_are_counted_by_hand(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    (length,) = prompt_lengths(policy, stream)
    task = stream.tasks[1]
    texts = text_lengths(policy, [target_text(example.target) for example in task.train])
    steps = fitted(policy, build_method("sft", SftConfig()), stream, tmp_path).steps
    for row in steps:
        assert row["prompt_tokens"] == row["prompt_tokens_computed"] == 4 * length
        assert row["images"] == 4 and row["tokens_generated"] == 0
        assert 4 * (min(texts) + 1) <= row["tokens_trained"] <= 4 * (max(texts) + 1)


@pytest.mark.parametrize("share", [True, False])
def test_every_pass_of_rollouts_is_counted(share: bool, policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    (length,) = prompt_lengths(policy, stream)
    method = build_method("rapo", RapoConfig(group_size=4))
    for row in fitted(policy, method, stream, tmp_path, share_prefix=share).steps:
        # Rollouts, the policy's and the anchor's log-probabilities, the reference's, the update: 5 passes.
        assert row["prompt_tokens"] == 5 * 4 * 4 * length
        # Shared, each prompt is computed once for each of the three models.
        assert row["prompt_tokens_computed"] == (3 * 4 * length if share else 5 * 4 * 4 * length)
        assert row["images"] == (3 * 4 if share else 5 * 4 * 4) and row["model_flops"] > 0
        assert row["tokens_generated"] == row["tokens_trained"] == pytest.approx(16 * row["completion_length"])


def test_kept_prompts_are_computed_once(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    (length,) = prompt_lengths(policy, stream)
    items = len(stream.tasks[1].train)
    method = build_method("rapo", RapoConfig(group_size=4))
    first, *others = fitted(policy, method, stream, tmp_path, updates=items // 2).steps  # each example comes twice
    # The policy's four, and in the first update all of the task in anchor and reference.
    assert first["images"] == 4 + 2 * items and {row["images"] for row in others} == {4}
    assert first["prompt_tokens_computed"] == (4 + 2 * items) * length
    assert {row["prompt_tokens_computed"] for row in others} == {4 * length}
    assert {row["prompt_tokens"] for row in (first, *others)} == {5 * 4 * 4 * length}


def test_a_frozen_copy_counts_where_its_original_does(policy: Policy, stream: TaskStream) -> None:
    copied = policy.snapshot().model
    assert copied is not policy.model and meter_of(copied) is policy.meter
    inputs = target_inputs(policy, [request(stream.tasks[0].train[0], stream.labels)], ["a"])
    policy.meter.taken()
    completion_logits(policy.model, inputs)
    own = policy.meter.taken()
    completion_logits(copied, inputs)
    assert policy.meter.taken() == own


def test_an_adapter_is_counted_too(lora_policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    assert meter_of(lora_policy.model) is lora_policy.meter
    row = fitted(lora_policy, build_method("grpo", GrpoConfig(group_size=2)), stream, tmp_path).steps[0]
    assert row["model_flops"] > 0 and row["images"] == 2 * 4  # the policy, and the model without the adapter


def test_what_comes_after_the_last_update_is_told_apart(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    method = build_method("sft", SftConfig(), (("ewc", EwcConfig()),))
    result = fitted(policy, method, stream, tmp_path)
    items = len(stream.tasks[1].train)
    # The Fisher information: a completion is sampled for each of the 16 examples, and passed through once more.
    assert result.afterwards["images"] == 2 * min(items, method.fisher_items)
    assert sums([*result.steps, result.afterwards])["images"] == 2 * 4 + 2 * items


def test_counting_changes_no_weight(stream: TaskStream, tmp_path: Path) -> None:
    counted, silent = fresh_policy("none"), fresh_policy("none")
    for module in silent.model.modules():
        module._forward_hooks.clear()
    rows = [
        fitted(one, build_method("grpo", GrpoConfig(group_size=2)), stream, tmp_path).steps for one in (counted, silent)
    ]
    assert rows[0][-1]["images"] > 0 == rows[1][-1]["images"]
    mine, theirs = counted.model.state_dict(), silent.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_is_not_counted_is_left_out() -> None:
    assert meter_of(torch.nn.Linear(1, 1)).taken() == Meter().taken()  # nobody watches it
    assert "model_flops" not in Meter().taken()  # not counted, which is not 0
    rows = [{"images": 1.0, "prompt_tokens": 2.0, "loss": 9.0}, {"images": 3.0, "loss": 9.0}]
    assert sums(rows) == {"images": 4.0}


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


def test_windows_of_a_qwen2_5_tower_are_counted(qwen2_5: Path) -> None:
    # 6 x 10 patches: 3 x 5 tokens in windows of 2 x 2 tokens, those at the edges smaller.
    model = AutoModelForImageTextToText.from_pretrained(qwen2_5, attn_implementation="eager", dtype=torch.float32)
    meter, image = Meter(), model.config.image_token_id
    meter.watch(model)
    ids = torch.tensor([[3, *[image] * 15, 4, 7]])
    pixels = torch.randn(60, 3 * 2 * 8 * 8, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    inputs |= {"image_grid_thw": torch.tensor([[1, 6, 10]]), "mm_token_type_ids": (ids == image).int()}
    forward, backward = counted_by_torch(model, inputs)
    assert meter.taken()["model_flops"] == pytest.approx(forward + backward, rel=1e-9)


def test_a_frozen_matrix_beneath_a_trained_one_costs_half_backward() -> None:
    # 10 positions, 6 weights, all trained and reached: 2*6*10 forward, 2*12*10 backward; frozen but reached: half.
    assert Matrices(6, 12).work(10).forward == 120 and Matrices(6, 12).work(10).backward == 240
    assert Matrices(6, 6).work(10).backward == 120
    # a family that is not known has none
    assert shape_of(SimpleNamespace(config=SimpleNamespace(model_type="other"))) is None
