"""Loading, snapshots, saving and generation, on the embedded model."""

import shutil
from pathlib import Path

import pytest
import torch

from clrft.base_model import default_model_path
from methods.model.config import Decoding, ModelConfig, choose_attention, describe_model
from methods.model.policy import Policy, check_checkpoint, load_policy
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.types import TaskStream


def requests_of(stream: TaskStream, count: int = 4) -> list:
    return [request(example, stream.labels) for example in stream.tasks[0].test[:count]]


def test_sampled_answers_follow_the_seed_and_leave_the_global_generator_alone(
    policy: Policy, stream: TaskStream
) -> None:
    asked = requests_of(stream, 8)
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first = policy.generate(asked, Decoding(24, temperature=1.5, seed=1))
    assert torch.equal(torch.rand(1), expected)
    assert policy.generate(asked, Decoding(24, temperature=1.5, seed=1)) == first
    assert policy.generate(asked, Decoding(24, temperature=1.5, seed=2)) != first


def test_a_snapshot_stays_when_the_policy_moves(policy: Policy) -> None:
    snapshot = policy.snapshot()
    before = {name: weight.clone() for name, weight in snapshot.model.named_parameters()}
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(1.0)
    for name, weight in snapshot.model.named_parameters():
        assert torch.equal(weight, before[name])
        assert not weight.requires_grad


@pytest.mark.parametrize("kind", ["policy", "lora_policy"])
def test_saved_weights_come_back_exactly(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    trained: Policy = request.getfixturevalue(kind)
    with torch.no_grad():
        for weight in (w for w in trained.model.parameters() if w.requires_grad):
            weight.add_(0.01)
    trained.save(tmp_path / "weights")
    assert {path.suffix for path in (tmp_path / "weights").rglob("*.*")}.isdisjoint({".bin", ".pt", ".pkl"})
    fresh = load_policy(trained.config, str(default_model_path()))
    fresh.load_weights(tmp_path / "weights")
    for mine, theirs in zip(trained.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_saved_policy_is_a_checkpoint_of_its_own(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    policy.save(tmp_path / "hub")
    again = load_policy(policy.config, str(tmp_path / "hub"))
    asked = requests_of(stream)
    assert again.generate(asked, Decoding(24)) == policy.generate(asked, Decoding(24))


def test_a_folder_without_a_processor_is_refused_before_loading(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(default_model_path() / name, folder)
    with pytest.raises(UserError, match="has no processor"):
        load_policy(ModelConfig(device="cpu"), str(folder))


def test_a_missing_local_folder_is_not_asked_of_a_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        check_checkpoint(str(tmp_path / "nothing"))


def test_auto_attention_is_sdpa_on_a_cpu_and_flash_attention_says_why_not() -> None:
    device = torch.device("cpu")
    assert choose_attention(ModelConfig(), device, torch.float32) == "sdpa"
    with pytest.raises(UserError, match="flash_attention_2"):
        choose_attention(ModelConfig(attention="flash_attention_2"), device, torch.float32)


def test_what_was_loaded_is_described(policy: Policy, lora_policy: Policy) -> None:
    full, adapter = describe_model(policy), describe_model(lora_policy)
    assert full["model_type"] == "qwen2_vl"
    assert full["parameters"] == full["trained_parameters"]
    assert 1_000_000 < full["parameters"] < 3_000_000
    assert not full["recorded"]
    policy.recorded = True
    assert describe_model(policy)["recorded"]
    assert adapter["trained_parameters"] < 0.2 * adapter["parameters"]
