"""Counts of known calls by hand; whoever calls the model is counted; counting changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from methods import build_method
from methods.algorithms.grpo import GrpoConfig
from methods.algorithms.rapo import RapoConfig
from methods.algorithms.sft import SftConfig
from methods.base import LossContext, TaskContext
from methods.costs.meter import COUNTS, Meter, added, meter_of, sampled_tokens, sums
from methods.model.config import Decoding
from methods.model.policy import Policy
from methods.settings import TrainConfig
from methods.training.fit import FitResult, FitSettings, fit
from methods.training.targets import completion_logits, target_inputs
from task_streams.prompt import request, target_text
from task_streams.types import TaskStream

TRAIN = TrainConfig(updates=2, prompts_per_update=4, warmup=1, max_completion_tokens=20)


def learn(policy: Policy, method: Any, stream: TaskStream, folder: Path, train: TrainConfig = TRAIN) -> FitResult:
    """Fit the second task, with an anchor where one is needed."""
    base = policy.snapshot("base") if "reference" in method.needs else None
    anchor = policy.snapshot() if "anchor" in method.needs else None
    torch.manual_seed(3)
    context = TaskContext(stream.tasks[1], policy, anchor, seed=12)
    return fit(method, context, base, FitSettings(train, folder / "scratch"))


def prompt_lengths(policy: Policy, stream: TaskStream) -> set[int]:
    task = stream.tasks[1]
    return {policy.prompt_length(request(example, task.trained)) for example in task.train}


def text_lengths(policy: Policy, texts: list[str]) -> list[int]:
    return [len(ids) for ids in policy.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]


def test_a_call_of_prompts_and_completions_is_counted_by_hand(policy: Policy, stream: TaskStream) -> None:
    examples = stream.tasks[0].train[:2]
    asked = [request(example, stream.labels) for example in examples]
    prompts = sum(policy.prompt_length(one) for one in asked)
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
    assert counts["prompt_tokens"] == sum(policy.prompt_length(one) for one in asked)
    assert counts["images"] == 3


def test_supervised_updates_are_counted_by_hand(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    (length,) = prompt_lengths(policy, stream)
    task = stream.tasks[1]
    texts = text_lengths(policy, [target_text(example.target) for example in task.train])
    steps = learn(policy, build_method("sft", SftConfig()), stream, tmp_path).steps
    for row in steps:
        assert row["prompt_tokens"] == row["prompt_tokens_computed"] == 4 * length
        assert row["images"] == 4 and row["tokens_generated"] == 0
        assert 4 * (min(texts) + 1) <= row["tokens_trained"] <= 4 * (max(texts) + 1)


@pytest.mark.parametrize("share", [True, False])
def test_every_pass_of_rollouts_is_counted_by_hand(
    share: bool, policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    (length,) = prompt_lengths(policy, stream)
    method = build_method("rapo", RapoConfig(group_size=4))
    train = TrainConfig(**{**vars(TRAIN), "share_prefix": share})
    for row in learn(policy, method, stream, tmp_path, train).steps:
        # Rollouts, the policy's and the anchor's log-probabilities, the reference's, the update: 5 passes.
        assert row["prompt_tokens"] == 5 * 4 * 4 * length
        # Shared, each prompt is computed once for each of the three models.
        assert row["prompt_tokens_computed"] == (3 * 4 * length if share else 5 * 4 * 4 * length)
        assert row["images"] == (3 * 4 if share else 5 * 4 * 4) and row["model_flops"] > 0
        assert row["tokens_generated"] == row["tokens_trained"] == pytest.approx(16 * row["completion_length"])


def test_prompts_that_frozen_models_keep_are_computed_in_the_first_update_alone(
    policy: Policy, stream: TaskStream, tmp_path: Path
) -> None:
    (length,) = prompt_lengths(policy, stream)
    items = len(stream.tasks[1].train)
    train = TrainConfig(**{**vars(TRAIN), "updates": items // 2})  # each example comes twice
    first, *others = learn(policy, build_method("rapo", RapoConfig(group_size=4)), stream, tmp_path, train).steps
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
    row = learn(lora_policy, build_method("grpo", GrpoConfig(group_size=2)), stream, tmp_path).steps[0]
    assert row["model_flops"] > 0 and row["images"] == 2 * 4  # the policy, and the model without the adapter


def test_what_comes_after_the_last_update_is_told_apart(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    from methods.parts.ewc import EwcConfig

    method = build_method("sft", SftConfig(), (("ewc", EwcConfig()),))
    result = learn(policy, method, stream, tmp_path)
    items = len(stream.tasks[1].train)
    # The Fisher information: a completion is sampled for each of the 16 examples, and passed through once more.
    assert result.afterwards["images"] == 2 * min(items, method.fisher_items)
    assert added(sums(result.steps), result.afterwards)["images"] == 2 * 4 + 2 * items


def test_counting_changes_no_weight(stream: TaskStream, tmp_path: Path) -> None:
    from tests.methods.two_tasks import fresh_policy

    counted, silent = fresh_policy("none"), fresh_policy("none")
    for module in silent.model.modules():
        module._forward_hooks.clear()
    rows = [
        learn(one, build_method("grpo", GrpoConfig(group_size=2)), stream, tmp_path).steps for one in (counted, silent)
    ]
    assert rows[0][-1]["images"] > 0 == rows[1][-1]["images"]
    mine, theirs = counted.model.state_dict(), silent.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_is_not_counted_is_left_out() -> None:
    assert meter_of(torch.nn.Linear(1, 1)).counted == Meter().counted  # nobody watches it
    assert "model_flops" not in Meter().taken()  # not counted, which is not 0
    rows = [{"images": 1.0, "prompt_tokens": 2.0, "loss": 9.0}, {"images": 3.0, "loss": 9.0}]
    assert sums(rows) == {"images": 4.0}
