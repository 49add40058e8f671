"""Loading, snapshots, saving, generation; in what weights are held, what is computed in and what goes together."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from clrft.base_model import default_model_path
from methods import METHODS
from methods.base import Method
from methods.compose import Composite
from methods.generation.low_precision import LowWeights, cast_weights
from methods.model.config import Decoding, ModelConfig, choose_attention, describe_model
from methods.model.numerics import Numerics, keeps_all, numerics_of, training_problems
from methods.model.policy import Policy, check_checkpoint, load_policy
from methods.settings import AUTO, KAHAN, PLAIN, WIDE
from methods.training.optimizers import COMPENSATION, AppliedShare
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.types import TaskStream
from tests.methods.two_tasks import fresh_policy


def test_sampled_answers_follow_the_seed_alone(policy: Policy, stream: TaskStream) -> None:
    asked = [request(example, stream.labels) for example in stream.tasks[0].test]
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
        assert torch.equal(weight, before[name]) and not weight.requires_grad


def test_saved_weights_come_back_exactly(either: Policy, tmp_path: Path) -> None:
    with torch.no_grad():
        for weight in (w for w in either.model.parameters() if w.requires_grad):
            weight.add_(0.01)
    either.save(tmp_path / "weights")
    assert {path.suffix for path in (tmp_path / "weights").rglob("*.*")}.isdisjoint({".bin", ".pt", ".pkl"})
    fresh = load_policy(either.config, str(default_model_path()))
    fresh.load_weights(tmp_path / "weights")
    for mine, theirs in zip(either.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_saved_policy_is_a_checkpoint_of_its_own(policy: Policy, stream: TaskStream, tmp_path: Path) -> None:
    policy.save(tmp_path / "hub")
    again = load_policy(policy.config, str(tmp_path / "hub"))
    asked = [request(example, stream.labels) for example in stream.tasks[0].test[:4]]
    assert again.generate(asked, Decoding(24)) == policy.generate(asked, Decoding(24))


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])  # older checkpoints have them in the latter
def test_generation_defaults_of_a_checkpoint_change_no_answer_and_are_on_record(
    policy: Policy, stream: TaskStream, tmp_path: Path, file: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(default_model_path(), folder)
    if file == "config.json":
        (folder / "generation_config.json").unlink()
    odd = {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2, "temperature": 0.3, "suppress_tokens": [5], "top_k": 3}
    values = json.loads((folder / file).read_text()) | odd
    (folder / file).write_text(json.dumps(values))
    asked = [request(example, stream.labels) for example in stream.tasks[0].test[:4]]
    for share in (True, False):
        penalised = load_policy(policy.config, str(folder))
        penalised.share_prefix = share
        for decoding in (Decoding(24), Decoding(24, temperature=1.0, seed=3)):
            plain = load_policy(policy.config, str(default_model_path()))
            plain.share_prefix = share
            assert penalised.generate(asked, decoding) == plain.generate(asked, decoding)
    assert odd.items() <= describe_model(penalised)["generation_defaults"].items()
    assert set(describe_model(policy)["generation_defaults"]) == {"do_sample", "max_new_tokens"}
    penalised.save(tmp_path / "saved")  # whoever uses the weights elsewhere finds them as they were
    assert odd.items() <= json.loads((tmp_path / "saved" / "generation_config.json").read_text()).items()


def test_a_folder_without_a_processor_and_a_missing_one_are_refused_before_loading(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(default_model_path() / name, folder)
    with pytest.raises(UserError, match="has no processor"):
        load_policy(ModelConfig(device="cpu"), str(folder))
    with pytest.raises(UserError, match="no folder"):  # and no hub is asked
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


LOW, FULL = torch.bfloat16, torch.float32


def config_of(dtype: str, adapter: str = "none") -> ModelConfig:
    return ModelConfig(dtype=dtype, adapter=adapter, device="cpu")


def built(name: str) -> Method:
    return METHODS[name](METHODS[name].Config())


def test_an_optimizer_decides_in_what_weights_are_held() -> None:
    assert numerics_of(config_of("bfloat16"), WIDE) == Numerics(WIDE, FULL, LOW)
    assert numerics_of(config_of("bfloat16"), KAHAN) == Numerics(KAHAN, LOW, LOW)
    assert numerics_of(config_of("bfloat16"), PLAIN) == Numerics(PLAIN, LOW, LOW)
    # float32, and an adapter beside weights of any type, lose nothing by plain AdamW
    assert numerics_of(config_of("float32"), WIDE) == Numerics(PLAIN, FULL, FULL)
    assert numerics_of(config_of("bfloat16", "lora"), WIDE) == Numerics(PLAIN, LOW, LOW)
    assert not keeps_all(config_of("bfloat16"))
    assert keeps_all(config_of("float32")) and keeps_all(config_of("bfloat16", "lora"))
    assert Numerics(WIDE, FULL, LOW).describe() == {"dtype": "bfloat16", "weights": "float32", "optimizer": WIDE}
    with pytest.raises(ValueError, match="decided before"):
        numerics_of(config_of("bfloat16"), AUTO)
    for one in (("float32", "none"), ("bfloat16", "lora")):  # nothing is compensated that is float32
        with pytest.raises(UserError, match=r"train.optimizer: got adamw_kahan, .* expected auto or adamw"):
            numerics_of(config_of(*one), KAHAN)


def test_methods_that_look_at_weights_need_them_whole() -> None:
    split = Numerics(KAHAN, LOW, LOW)
    for name in ("sft", "grpo", "rapo"):
        assert training_problems(built(name), split, adapter=False) == []
    together = Composite(built("sft"), [built("ewc")])
    (problem,) = training_problems(together, split, adapter=False)
    assert problem.startswith("method 'ewc' looks at weights") and "expected adamw_float32" in problem
    assert training_problems(together, Numerics(WIDE, FULL, LOW), adapter=False) == []
    # float16 is for adapters and for what is not trained
    half = Numerics(WIDE, FULL, torch.float16)
    (problem,) = training_problems(built("sft"), half, adapter=False)
    assert problem.startswith("model.dtype: got float16") and "expected bfloat16 or float32" in problem
    assert training_problems(built("sft"), half, adapter=True) == []
    assert training_problems(built("zero_shot"), half, adapter=False) == []


def test_a_copy_that_is_only_asked_says_the_same_in_less_memory(stream: TaskStream) -> None:
    policy = fresh_policy(dtype="bfloat16", optimizer=WIDE)
    whole, low = policy.snapshot(), policy.snapshot(asked_only=True)
    tied = policy.model.lm_head.weight
    lowered = {id(weight) for weight in cast_weights(policy.model)}
    assert id(tied) not in lowered  # it is the embeddings' too, which autocast leaves as they are
    for name, weight in low.weights().items():
        own = dict(policy.model.named_parameters())[name]
        assert weight.dtype == (LOW if id(own) in lowered else FULL), name
    assert sum(w.nbytes for w in low.weights().values()) < 0.6 * sum(w.nbytes for w in whole.weights().values())
    asked = [request(example, stream.labels) for example in stream.tasks[0].train[:2]]
    said = []
    for snapshot in (whole, low):
        batch = policy.encode(asked)
        batch["logits_to_keep"] = 1
        with snapshot.active() as model, policy.computing(), torch.no_grad():
            said.append(model(**batch).logits)
    assert torch.equal(*said)


def test_copies_stand_in_for_weights_and_leave_them(policy: Policy) -> None:
    before = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    low = LowWeights(policy.model, LOW)
    low.refresh()
    with low.in_place():
        assert {weight.dtype for weight in cast_weights(policy.model)} == {LOW}
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.named_parameters())


def test_answers_of_float32_weights_are_computed_in_bfloat16(stream: TaskStream) -> None:
    asked = [request(example, stream.labels) for example in stream.tasks[0].test[:4]]
    wide, low = (fresh_policy(dtype="bfloat16", optimizer=one) for one in (WIDE, PLAIN))
    assert wide.model.dtype == FULL and low.model.dtype == LOW
    assert wide.generate(asked, Decoding(24)) == low.generate(asked, Decoding(24))  # nothing was learned yet


def test_the_share_that_arrived_by_hand() -> None:
    """AdamW's first update is the rate along the sign of the gradient: u = (-0.1, -0.1). Of it (-0.1, 0) arrives: half.

    With the other half in the compensation all of it counts.
    """
    weight, group = torch.tensor([1.0, 2.0]), {"lr": 0.1, "betas": (0.9, 0.999), "eps": 0.0, "weight_decay": 0.0}
    state = {"step": torch.tensor(1.0), "exp_avg": torch.tensor([0.1, 0.1]), "exp_avg_sq": torch.tensor([1e-3, 1e-3])}
    share = AppliedShare(lambda: [(weight, state, group)])
    share.begin()
    weight[0] -= 0.1
    assert share.end() == pytest.approx(0.5, abs=1e-6)
    # torch-optimi's moments are free of their bias: gradient 1, so mean 1 and square 1
    state = {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2), COMPENSATION: torch.zeros(2)}
    share.begin()
    weight[0] -= 0.1
    state[COMPENSATION][1] -= 0.1
    assert share.end() == pytest.approx(1.0, abs=1e-6)
    state |= {"exp_avg": torch.zeros(2)}  # rewards that were all equal: what is left is the weight decay, below a step
    group["weight_decay"] = 1e-9
    share.begin()
    assert share.end() is None
    state |= {"exp_avg": torch.ones(2)}
    group["lr"] = 0.0
    share.begin()
    assert share.end() is None
