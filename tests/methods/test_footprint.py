"""Estimated memory is what autograd, gradients and optimizer really hold, and what a hand works out for a 2B model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clrft.base_model import default_model_path
from clrft.config.run_config import build_config, parse_overrides
from clrft.memory.model_sizes import PUBLISHED, built_sizes, known_sizes, model_sizes, recorded_sizes
from clrft.memory.phases import MARGIN, STEP, TESTING, UPDATE, Longest, Phases
from clrft.utils.files import read_json
from methods.generation.completion_logps import checkpointed_states, completion_states
from methods.generation.shared_prefix import prefill
from methods.inputs.media import IMAGE_PATCHES, patches_in, token_types
from methods.inputs.prompts import Prompts
from methods.model.config import ModelConfig
from methods.model.policy import Policy, load_policy
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.types import TaskStream

PATCHES = 64  # of an image of the embedded model
PROMPTS = 3
GIB = 2**30


def kept_by_autograd(model: torch.nn.Module, call: Any) -> int:
    """Bytes of all storages that a call saves for its backward pass, weights left out."""
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        at = tensor.untyped_storage()._cdata
        if at not in own:
            saved.setdefault(at, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = call()  # as long as its graph is there, so is what it saved
    assert held is not None
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def inputs(
    policy: Policy, stream: TaskStream, group: int, length: int
) -> tuple[dict[str, Tensor], Prompts, tuple[Tensor, Tensor, Tensor]]:
    """Groups of completions of one length behind their prompts, the first padded: whole rows; and the prompts alone.

    With the latter, which of them each row has, and the completions with their mask.
    """
    asked = [request(example, stream.labels) for example in stream.tasks[0].train[:PROMPTS]]
    batch = dict(policy.encode([one for one in asked for _ in range(group)]))
    batch["attention_mask"][:group, 0] = 0
    ids, prompt_mask, types = (
        batch["input_ids"],
        batch["attention_mask"],
        token_types(batch["input_ids"], policy.model.config),
    )
    completions = torch.full((PROMPTS * group, length), 7)
    mask = torch.ones_like(completions)
    mask[-1, -1] = 0
    rows = Prompts(ids, prompt_mask, types, patches_in(batch, IMAGE_PATCHES, [1] * len(types)), None)
    parts = {"input_ids": (ids, completions), "attention_mask": (prompt_mask, mask)}
    parts["mm_token_type_ids"] = (types, torch.zeros_like(completions))
    whole = batch | {name: torch.cat(both, dim=1) for name, both in parts.items()}
    places = torch.arange(PROMPTS).repeat_interleave(group)
    return whole, rows.select(torch.arange(PROMPTS) * group), (places, completions, mask)


def phases_of(config: ModelConfig, *words: str, method: str = "rapo", device: str = "cpu", **longest: Any) -> Phases:
    """Phases with 8 prompts of 400 tokens and an image of 256 patches, 8 completions of 512 tokens each."""
    asked = ["train.prompts_per_update=8", "train.max_completion_tokens=512", "evaluate.batch_size=32"]
    asked += ["train.optimizer=adamw", "train.cuda_graphs=false", "train.kept_prefixes=0", *words]
    settings = replace(build_config("digits_cil", method, "tiny", 1993, parse_overrides(asked)), model=config)
    prompts = replace(Longest(tokens=400, patches=256, images=1, pixels=256 * 196), **longest)
    return Phases(settings, prompts, torch.device(device))


WAYS: list[dict[str, Any]] = [
    {"dtype": "float32"},
    {"dtype": "bfloat16"},
    {"dtype": "float32", "attention": "eager"},
    {"dtype": "float32", "adapter": "lora"},
    {"dtype": "bfloat16", "adapter": "lora"},
    {"dtype": "bfloat16", "optimizer": "adamw_float32"},
]


@pytest.mark.parametrize(("group", "length"), [(4, 24), (8, 96)])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way.values()))
def test_activations_are_those_that_autograd_keeps(
    way: dict[str, Any], group: int, length: int, stream: TaskStream
) -> None:
    settings = {name: value for name, value in way.items() if name != "optimizer"}
    config = ModelConfig(device="cpu", **settings)
    policy = load_policy(config, str(default_model_path()), optimizer=way.get("optimizer", "adamw"))
    own = [f"train.optimizer={way['optimizer']}"] if "optimizer" in way else []
    model, phases = policy.model.train(), phases_of(config, *own, patches=PATCHES)
    batch, prompts, behind = inputs(policy, stream, group, length)
    rows, prompt = PROMPTS * group, prompts.ids.shape[1]
    whole = phases.text(rows, prompt + length, prompt + length)
    expected = phases.tower(rows)[1] + whole[1] + phases.applied
    with policy.computing():
        found = kept_by_autograd(model, lambda: model(**batch, use_cache=False, logits_to_keep=1))
    assert found == pytest.approx(expected, rel=0.1)
    passes = phases.text(PROMPTS, prompt, prompt), phases.text(rows, length, prompt + length)
    expected = phases.tower(PROMPTS)[1] + sum(kept for _, kept in passes) + phases.applied
    with policy.computing():
        found = kept_by_autograd(model, lambda: completion_states(model, prefill(model, prompts), *behind))
    assert found == pytest.approx(expected, rel=0.1)


def test_checkpointed_layers_keep_their_input_alone_and_shared_prompts_once(policy: Policy, stream: TaskStream) -> None:
    """Kept beside the inputs of 3 layers of the tower and 4 of the text: what stands before and behind them."""

    def without_a_layer(kept: tuple[int, int]) -> int:
        """What is kept until the backward pass computes a layer again."""
        layer, all_of_them = kept
        return all_of_them - layer

    model = policy.model.train()
    phases = phases_of(replace(policy.config, gradient_checkpointing=True), patches=PATCHES)
    batch, prompts, behind = inputs(policy, stream, 8, 24)
    rows, prompt = PROMPTS * 8, prompts.ids.shape[1]
    model.gradient_checkpointing_enable()
    found = kept_by_autograd(model, lambda: model(**batch, use_cache=False, logits_to_keep=1))
    expected = without_a_layer(phases.tower(rows))
    expected += without_a_layer(phases.text(rows, prompt + 24, prompt + 24))
    assert found == pytest.approx(expected, rel=0.1)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = kept_by_autograd(model, lambda: checkpointed_states(model, prompts, *behind))
    prompts_alone = 4 * PROMPTS * prompt * 128 * 4  # inputs of 4 layers, 128 numbers of 4 bytes
    expected = without_a_layer(phases.tower(PROMPTS)) + prompts_alone
    expected += without_a_layer(phases.text(rows, 24, prompt + 24))
    assert found == pytest.approx(expected, rel=0.1)


def test_weights_gradients_and_moments_are_exact(either: Policy) -> None:
    model, phases = either.model, phases_of(either.config)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned)
    for weight in learned:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]

    def size(tensors: Any) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    assert phases.weights == size(model.parameters())
    assert phases.trained == size(weight.grad for weight in learned)
    assert phases.training()[STEP].parts["moments"] == size(moments)


def test_an_adapter_on_some_matrices_is_counted_by_their_names() -> None:
    targets = r".*language_model.*(q|v)_proj"
    config = ModelConfig(dtype="bfloat16", device="cpu", adapter="lora", lora_rank=4, lora_targets=targets)
    model = load_policy(config, str(default_model_path())).model
    sizes = known_sizes(config)
    assert not sizes.tower_trained
    assert sizes.trained == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def test_sizes_that_a_checkpoint_holds_are_those_of_its_model_and_of_its_config_alone(tmp_path: Path) -> None:
    shipped = default_model_path()
    assert recorded_sizes(shipped) == built_sizes(read_json(shipped / "config.json"))
    for name in ("config.json", "sizes.json"):
        (tmp_path / name).write_bytes((shipped / name).read_bytes())
    assert recorded_sizes(tmp_path) == recorded_sizes(shipped)
    held = json.loads((tmp_path / "sizes.json").read_text())
    (tmp_path / "sizes.json").write_text(json.dumps({**held, "sizes": {"family": "qwen2_vl"}}))
    with pytest.raises(UserError, match=r"sizes\.json is damaged"):
        recorded_sizes(tmp_path)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")  # another one, by its digest
    assert recorded_sizes(tmp_path) is None


BF16 = ModelConfig(path="Qwen/Qwen2-VL-2B-Instruct", dtype="bfloat16", attention="sdpa")
LORA = replace(BF16, adapter="lora")


def test_the_sizes_of_a_2b_model_by_hand() -> None:
    sizes = known_sizes(BF16)
    # Text: a layer has queries 1536*1536+1536, keys and values 2*(1536*256+256), output 1536*1536, three matrices
    # 1536*8960, two norms 1536: 46,797,824; 28 of them, 151936*1536 embeddings, a last norm: 1,543,714,304.
    # Tower: patches 1176*1280; a layer has 2*2*1280 (norms), 1280*3840+3840, 1280*1280+1280, 1280*5120+5120,
    # 5120*1280+1280: 19,677,440; 32 of them; merger 2*1280, 5120*5120+5120, 5120*1536+1536: 665,271,296.
    assert sizes.parameters == 1_543_714_304 + 665_271_296
    # A matrix's adapter has rank times inputs plus outputs. Text: 28 * (2*3072 + 2*1792 + 3*10496) = 1,154,048;
    # tower: 32 * (5120+2560+6400+6400) + 10240 + 6656 = 672,256.
    assert known_sizes(LORA).trained == 16 * (1_154_048 + 672_256)


def test_what_stands_in_full_fine_tuning_of_2b_by_hand() -> None:
    # 2,208,985,600 weights of 2 bytes are 4.11 GiB; gradients as many; moments twice as many.
    found = phases_of(BF16, device="cuda").training()[STEP]
    expected = {"weights": 4.11, "moments": 8.23, "gradients": 4.11, "step": 4.11, "anchor": 4.11, "reference": 4.11}
    assert {name: size / GIB for name, size in found.parts.items()} == pytest.approx(expected, abs=0.01)
    assert found.total == int(MARGIN * sum(found.parts.values()))


def test_keys_and_values_logits_and_kept_prefixes_of_2b_by_hand() -> None:
    # a token: 2 (keys, values) * 256 numbers * 2 bytes in each of 28 layers, one of them twice while it grows
    assert phases_of(BF16).cache(rows=64, length=912) == 64 * 912 * 29 * 1024
    # 64 * 512 * 151,936 numbers would be 18.5 GiB in float32; a table has 2**25 at most, four times over: 0.5 GiB
    assert phases_of(BF16).training()[UPDATE].parts["logits"] == pytest.approx(4 * 4 * 2**25, rel=0.01)
    # 4 examples of 400 tokens in two models, 29 KiB a token
    kept = "train.kept_prefixes=1024"
    assert phases_of(BF16, kept, examples=4).training()[UPDATE].parts["kept prefixes"] == 4 * 2 * 400 * 29 * 1024
    assert phases_of(BF16, kept).training()[UPDATE].parts["kept prefixes"] == 2**30


def test_a_layers_activations_of_2b_by_hand() -> None:
    # A token in bfloat16, nothing looked at but itself. Norms: 2 * 1536 * (4 + 2); inputs: 2 * 1536 * 2;
    # gate, its activation, up, product: 4 * 8960 * 2; queries, output, keys, values by queries' heads: 4 * 1536 * 2;
    # the mask: 2.
    phases = phases_of(BF16)
    assert phases.text(1, 1, 1)[0] == 18_432 + 6_144 + 71_680 + 12_288 + 2
    # FlashAttention keeps keys and values by their own two heads: 2 * 1536 * 2 + 2 * 256 * 2, and no mask
    phases.attention = "flash_attention_2"
    assert phases.text(1, 1, 1)[0] == 18_432 + 6_144 + 71_680 + 6_144 + 1_024


def test_an_adapter_has_small_moments_and_no_copies_of_the_model() -> None:
    # 16 * 1,826,304 = 29.2 million weights in float32: 0.109 GiB, twice that in moments
    phases = phases_of(LORA)
    parts = phases.training()[STEP].parts
    assert parts["moments"] / GIB == pytest.approx(0.218, abs=0.001)
    assert parts["anchor"] / GIB == pytest.approx(0.109, abs=0.001)
    assert "reference" not in parts
    assert max(phases.training().values(), key=lambda one: one.total).phase != STEP


def test_snapshots_that_rest_on_the_cpu_are_there_one_at_a_time_and_when_asked() -> None:
    resting, copy = replace(BF16, anchor_memory="cpu"), 2 * known_sizes(BF16).parameters
    # where what the policy computed for the loss is there as the anchor is asked, and in supervised losses
    for phases in (phases_of(resting, device="cuda"), phases_of(resting, method="sft+lwf", device="cuda")):
        assert phases.training()[UPDATE].parts["anchor or reference"] == copy
    apart = phases_of(resting, "train.accumulation=8", device="cuda")
    for phase in apart.training().values():
        assert not {"anchor", "reference", "anchor or reference"} & phase.parts.keys()


def test_what_uses_less_memory_needs_less() -> None:
    plain, tests = (phases_of(BF16, device="cuda").training()[UPDATE], phases_of(BF16).testing()[TESTING])
    for word in ("train.accumulation=8", "train.max_completion_tokens=256", "method.group_size=4"):
        assert phases_of(BF16, word, device="cuda").training()[UPDATE].total < plain.total
    checkpointed = phases_of(replace(BF16, gradient_checkpointing=True), "train.share_prefix=false", device="cuda")
    assert checkpointed.training()[UPDATE].total < plain.total
    assert phases_of(BF16, "evaluate.batch_size=4").testing()[TESTING].total < tests.total


def test_a_config_of_the_hub_is_flat_and_leaves_out_what_is_usual(tmp_path: Path) -> None:
    nested = PUBLISHED["Qwen/Qwen2-VL-7B-Instruct"]
    flat = {**nested["text_config"], "model_type": "qwen2_vl", "vision_config": {"hidden_size": 3584}}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    own = known_sizes(ModelConfig(path=str(tmp_path)))
    assert own == known_sizes(ModelConfig(path="Qwen/Qwen2-VL-7B-Instruct"))
    other = tmp_path / "other"  # a family that is not known has no sizes
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "other"}')
    assert model_sizes(ModelConfig(path=str(other))) is None
