"""The anchor by each rule; a LoRA policy's anchor costs the adapter and no more, and says what a full copy says."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from transformers import AutoModelForImageTextToText

from benchmarks.anchor_memory import LIMIT, anchor_parameters, bytes_of, geometry_2b, tensors_of
from clrft.base_model import default_model_path
from clrft.config.run_config import build_config
from clrft.runner.checkpoint import read_anchor, write_anchor
from methods.algorithms.rapo import Rapo, RapoConfig
from methods.algorithms.sft import Sft, SftConfig
from methods.base import AnchorRule
from methods.model.anchor import Anchors, anchor_problems
from methods.model.config import Decoding, ModelConfig
from methods.model.policy import Policy, load_policy, lora_config
from methods.model.snapshots import Snapshot
from methods.parts.lwf import Lwf, LwfConfig
from methods.training.targets import completion_logits, target_inputs
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.types import TaskStream
from tests.methods.trainers import learn
from tests.methods.two_tasks import fresh_policy, inputs_of

LEFT = (1.0, 5.0, 9.0)  # what each task leaves in every trained weight


def leave(policy: Policy, value: float) -> None:
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight.fill_(value)


def held(snapshot: Snapshot) -> float:
    """The one number in all of a snapshot's weights."""
    values = torch.cat([weight.flatten() for weight in snapshot.weights().values()]).unique()
    assert len(values) == 1
    return values.item()


@pytest.mark.parametrize(
    ("adapter", "rule", "expected"),
    [
        ("none", AnchorRule("previous"), [1.0, 5.0, 9.0]),
        ("none", AnchorRule("first"), [1.0, 1.0, 1.0]),
        # 0.25 * 1 + 0.75 * 5 = 4, then 0.25 * 4 + 0.75 * 9 = 7.75
        ("none", AnchorRule("average", 0.25), [1.0, 4.0, 7.75]),
        ("none", AnchorRule("average", 0.0), [1.0, 5.0, 9.0]),  # nothing of the past: the previous one
        ("lora", AnchorRule("first"), [1.0, 1.0, 1.0]),
    ],
    ids=str,
)
def test_the_anchor_is_the_policy_that_the_rule_names(adapter: str, rule: AnchorRule, expected: list[float]) -> None:
    policy, found = fresh_policy(adapter), []
    anchors = Anchors(rule, policy)
    for value in LEFT:
        leave(policy, value)
        anchors.end()
        found.append(held(anchors.begin()))
    assert found == expected
    trained = [name for name, weight in policy.model.named_parameters() if weight.requires_grad]
    assert all(".default." in name for name in trained) == (adapter == "lora")


def test_the_base_stays_what_the_model_was_before_training(either: Policy, stream: TaskStream) -> None:
    base = load_policy(ModelConfig(dtype="float32", device="cpu"), str(default_model_path()))
    anchors = Anchors(AnchorRule("base"), either)
    leave(either, 0.01)
    anchors.end()
    inputs = inputs_of(base, stream)
    expected, _ = completion_logits(base.model, inputs)
    with anchors.begin().active() as frozen:
        found, _ = completion_logits(frozen, inputs)
    moved, _ = completion_logits(either.model, inputs)
    assert torch.equal(found, expected)
    assert not torch.allclose(moved, expected)
    assert anchors.unlike_policy() == {}  # a restart loads the base anyway


def test_a_missing_or_strange_anchor_is_refused(policy: Policy, lora_policy: Policy, tmp_path: Path) -> None:
    anchors = Anchors(AnchorRule("first"), policy)
    with pytest.raises(UserError, match=r"anchor.safetensors does not hold the anchor that task 3 needs \(.*No such"):
        read_anchor(tmp_path, anchors, 2)
    adapters = Anchors(AnchorRule("first"), lora_policy)
    adapters.begin()
    write_anchor(tmp_path, adapters)
    with pytest.raises(UserError, match=r"task 3 needs .*tensors are missing or of another policy"):
        read_anchor(tmp_path, anchors, 2)


def test_an_average_of_adapters_is_refused(policy: Policy, lora_policy: Policy) -> None:
    average = Rapo(RapoConfig(anchor="average"))
    (problem,) = anchor_problems(average, lora_policy)
    assert "cannot be made of LoRA adapters" in problem and "previous, first or base" in problem
    assert anchor_problems(average, policy) == anchor_problems(Lwf(LwfConfig()), lora_policy) == []
    assert anchor_problems(Rapo(RapoConfig(anchor="average", retention=False)), lora_policy) == []  # needs no anchor


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


def test_an_adapter_anchor_says_what_a_full_copy_says(lora_policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    learning = partial(learn, updates=3, prompts_per_update=4, warmup=0, learning_rate=2e-3)
    learning(Sft(SftConfig()), lora_policy, stream.tasks[0], tmp_path)
    full, anchor = copy.deepcopy(lora_policy.model).merge_and_unload(), lora_policy.snapshot()
    learning(Sft(SftConfig()), lora_policy, stream.tasks[1], tmp_path)
    asked = [request(example, stream.labels) for example in stream.tasks[1].test[:4]]
    inputs = target_inputs(lora_policy, asked, lora_policy.generate(asked, Decoding(24, temperature=1.0, seed=5)))

    @torch.no_grad()
    def logps(model: Any) -> torch.Tensor:
        logits, labels = completion_logits(model.eval(), inputs)
        return logits.log_softmax(dim=-1).gather(1, labels[:, None])

    copied, moved = logps(full), logps(lora_policy.model)
    with anchor.active() as module:
        adapted = logps(module)
    assert len(copied) > 20
    assert (adapted - copied).abs().max() <= 1e-5
    assert (moved - copied).abs().max() > 0.1  # the policy has moved on, and the anchor has not


def test_training_keeps_no_gradients_and_moments_of_it(lora_policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    held: set[int] = set()

    def look(optimizer: Optimizer, *_: Any) -> None:
        held.update(id(weight) for group in optimizer.param_groups for weight in group["params"])
        held.update(id(weight) for weight in optimizer.state)

    handle = register_optimizer_step_post_hook(look)
    anchor = lora_policy.snapshot()
    before = [weight.clone() for weight in anchor_parameters(anchor)]
    learn(Rapo(RapoConfig()), lora_policy, stream.tasks[1], tmp_path, updates=3, prompts_per_update=4, warmup=0)
    handle.remove()
    assert all(torch.equal(one, other) for one, other in zip(anchor_parameters(anchor), before, strict=True))
    trained = {id(weight) for weight in lora_policy.model.parameters() if weight.requires_grad}
    assert held == trained  # the optimizer holds the trained adapter: all of it, and nothing else
    assert trained.isdisjoint(id(weight) for weight in anchor_parameters(anchor))
    assert all(weight.grad is None for weight in anchor_parameters(anchor))
