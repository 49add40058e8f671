"""Estimated memory is what autograd, gradients and optimizer really hold, and what a hand works out for a 2B model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from clrft.base_model import default_model_path
from clrft.memory.model_sizes import PUBLISHED, ModelSizes, known_sizes, local_config, model_sizes
from clrft.memory.phases import MARGIN, STEP, Load, Pass, Phases, Setup
from methods.costs.flops import shape_of
from methods.generation.checkpointed import checkpointed_states
from methods.generation.completion_logps import completion_states
from methods.generation.shared_prefix import prefill
from methods.inputs.media import image_patches, token_types
from methods.inputs.prompts import Prompts
from methods.model.config import ModelConfig
from methods.model.policy import Policy, load_policy, lora_config
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


def inputs(policy: Policy, stream: TaskStream, group: int, length: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Prompts of some groups, the first padded, and completions of one length with their mask."""
    asked = [request(example, stream.labels) for example in stream.tasks[0].train[:PROMPTS]]
    batch = dict(policy.encode([one for one in asked for _ in range(group)]))
    batch["attention_mask"][:group, 0] = 0
    completions = torch.full((PROMPTS * group, length), 7)
    mask = torch.ones_like(completions)
    mask[-1, -1] = 0
    return batch, completions, mask


def each_once(batch: dict[str, Tensor], types: Tensor, group: int) -> tuple[Prompts, Tensor]:
    """The prompts of the rows of ``inputs``, and which of them each row has."""
    images = image_patches(batch, [1] * len(types))
    every_row = Prompts(batch["input_ids"], batch["attention_mask"], types, images, None)
    places = torch.arange(PROMPTS).repeat_interleave(group)
    return every_row.select(torch.arange(PROMPTS) * group), places


def setup_of(policy: Policy, **others: Any) -> Setup:
    sizes = policy.numerics.weights.itemsize, policy.numerics.compute.itemsize
    rank = policy.config.lora_rank if policy.has_adapter else 0
    return Setup(*sizes, 4 if rank else 0, rank, policy.attention, **others)


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
    model, phases = policy.model.train(), Phases(known_sizes(config), setup_of(policy), LOAD)
    batch, completions, mask = inputs(policy, stream, group, length)
    rows, prompt = batch["input_ids"].shape
    types = token_types(batch["input_ids"], model.config)
    copies = phases.autocast_copies(phases.sizes.parameters)

    def plain() -> Any:
        return model(
            input_ids=torch.cat([batch["input_ids"], completions], dim=1),
            attention_mask=torch.cat([batch["attention_mask"], mask], dim=1),
            mm_token_type_ids=torch.cat([types, torch.zeros_like(completions)], dim=1),
            pixel_values=batch["pixel_values"],
            image_grid_thw=batch["image_grid_thw"],
            use_cache=False,
            logits_to_keep=1,
        )

    whole = Pass(rows, prompt + length, prompt + length)
    expected = phases.tower(rows, PATCHES, 1)[1] + phases.text(whole)[1] + copies
    with policy.computing():
        assert kept_by_autograd(model, plain) == pytest.approx(expected, rel=0.1)

    def shared() -> Any:
        prompts, places = each_once(batch, types, group)
        return completion_states(model, prefill(model, prompts), places, completions, mask)

    passes = (Pass(PROMPTS, prompt, prompt), Pass(rows, length, prompt + length))
    expected = phases.tower(PROMPTS, PATCHES, 1)[1] + sum(phases.text(one)[1] for one in passes) + copies
    with policy.computing():
        assert kept_by_autograd(model, shared) == pytest.approx(expected, rel=0.1)


def test_with_checkpointing_each_layer_keeps_its_input_alone(policy: Policy, stream: TaskStream) -> None:
    """Kept beside the inputs of 3 layers of the tower and 4 of the text: what stands before and behind them."""
    model, phases = policy.model.train(), Phases(known_sizes(policy.config), setup_of(policy, checkpointing=True), LOAD)
    model.gradient_checkpointing_enable()
    batch, completions, mask = inputs(policy, stream, 4, 24)
    rows, prompt = batch["input_ids"].shape
    types = token_types(batch["input_ids"], model.config)
    batch |= {"mm_token_type_ids": torch.cat([types, torch.zeros_like(completions)], dim=1)}
    batch["input_ids"] = torch.cat([batch["input_ids"], completions], dim=1)
    batch["attention_mask"] = torch.cat([batch["attention_mask"], mask], dim=1)
    found = kept_by_autograd(model, lambda: model(**batch, use_cache=False, logits_to_keep=1))
    expected = without_a_layer(phases.tower(rows, PATCHES, 1))
    expected += without_a_layer(phases.text(Pass(rows, prompt + 24, prompt + 24)))
    assert found == pytest.approx(expected, rel=0.1)


def without_a_layer(kept: tuple[int, int]) -> int:
    """What is kept until the backward pass computes a layer again."""
    layer, all_of_them = kept
    return all_of_them - layer


def test_with_checkpointing_shared_prompts_keep_their_layers_inputs_once(policy: Policy, stream: TaskStream) -> None:
    model, phases = policy.model.train(), Phases(known_sizes(policy.config), setup_of(policy, checkpointing=True), LOAD)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batch, completions, mask = inputs(policy, stream, 8, 24)
    rows, prompt = batch["input_ids"].shape
    types = token_types(batch["input_ids"], model.config)
    prompts, places = each_once(batch, types, 8)
    found = kept_by_autograd(model, lambda: checkpointed_states(model, prompts, places, completions, mask))
    prompts_alone = 4 * PROMPTS * prompt * 128 * 4  # inputs of 4 layers, 128 numbers of 4 bytes
    expected = without_a_layer(phases.tower(PROMPTS, PATCHES, 1)) + prompts_alone
    expected += without_a_layer(phases.text(Pass(rows, 24, prompt + 24)))
    assert found == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("which", ["policy", "lora_policy"])
def test_weights_gradients_and_moments_are_exact(which: str, request: pytest.FixtureRequest) -> None:
    policy = request.getfixturevalue(which)
    model, phases = policy.model, Phases(known_sizes(policy.config), setup_of(policy), LOAD)
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
    assert phases.step().parts["moments"] == size(moments)


def test_an_adapter_on_some_matrices_is_counted_by_their_names() -> None:
    targets = r".*language_model.*(q|v)_proj"
    config = ModelConfig(dtype="bfloat16", device="cpu", adapter="lora", lora_rank=4, lora_targets=targets)
    model = load_policy(config, str(default_model_path())).model
    sizes = known_sizes(config)
    assert sizes.tower_sides == 0
    assert 4 * sizes.text_sides == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


@pytest.fixture(scope="module")
def two_billion() -> ModelSizes:
    """Qwen2-VL-2B-Instruct's sizes."""
    return known_sizes(ModelConfig(path="Qwen/Qwen2-VL-2B-Instruct"))


BF16 = Setup(2, 2)
LORA = Setup(2, 2, adapter=4, rank=16)
LOAD = Load(64, 64, 8, 8, prompt=400, completion=512, patches=256, images=1, samples=True, shared=True, tested=32)


def test_the_sizes_of_a_2b_model_by_hand(two_billion: ModelSizes) -> None:
    # Text: a layer has queries 1536*1536+1536, keys and values 2*(1536*256+256), output 1536*1536, three matrices
    # 1536*8960, two norms 1536: 46,797,824; 28 of them, 151936*1536 embeddings, a last norm: 1,543,714,304.
    # Tower: patches 1176*1280; a layer has 2*2*1280 (norms), 1280*3840+3840, 1280*1280+1280, 1280*5120+5120,
    # 5120*1280+1280: 19,677,440; 32 of them; merger 2*1280, 5120*5120+5120, 5120*1536+1536: 665,271,296.
    assert two_billion.parameters == 1_543_714_304 + 665_271_296
    # An adapter's sides. Text: 28 * (2*3072 + 2*1792 + 3*10496); tower: 32 * (5120+2560+6400+6400) + 10240 + 6656.
    assert (two_billion.text_sides, two_billion.tower_sides) == (1_154_048, 672_256)


def test_what_stands_in_full_fine_tuning_of_2b_by_hand(two_billion: ModelSizes) -> None:
    # 2,208,985,600 weights of 2 bytes are 4.11 GiB; gradients as many; moments twice as many.
    found = Phases(two_billion, replace(BF16, gpu=True, anchor=True, reference=True), LOAD).step()
    expected = {"weights": 4.11, "moments": 8.23, "gradients": 4.11, "step": 4.11, "anchor": 4.11, "reference": 4.11}
    assert {name: size / GIB for name, size in found.parts.items()} == pytest.approx(expected, abs=0.01)
    assert found.total == int(MARGIN * sum(found.parts.values()))


def test_keys_and_values_of_2b_by_hand(two_billion: ModelSizes) -> None:
    # a token: 2 (keys, values) * 256 numbers * 2 bytes in each of 28 layers, one of them twice while it grows
    assert Phases(two_billion, BF16, LOAD).cache(rows=64, length=912) == 64 * 912 * 29 * 1024


def test_a_layers_activations_of_2b_by_hand() -> None:
    # A token in bfloat16, nothing looked at but itself. Norms: 2 * 1536 * (4 + 2); inputs: 2 * 1536 * 2;
    # gate, its activation, up, product: 4 * 8960 * 2; queries, output, keys, values by queries' heads: 4 * 1536 * 2;
    # the mask: 2.
    sizes = known_sizes(ModelConfig(path="Qwen/Qwen2-VL-2B-Instruct"))
    one = Pass(1, 1, 1)
    assert Phases(sizes, BF16, LOAD).text(one)[0] == 18_432 + 6_144 + 71_680 + 12_288 + 2
    # FlashAttention keeps keys and values by their own two heads: 2 * 1536 * 2 + 2 * 256 * 2, and no mask
    flash = replace(BF16, attention="flash_attention_2")
    assert Phases(sizes, flash, LOAD).text(one)[0] == 18_432 + 6_144 + 71_680 + 6_144 + 1_024


def test_an_adapter_has_small_moments_and_no_copies_of_the_model(two_billion: ModelSizes) -> None:
    # 16 * 1,826,304 = 29.2 million weights in float32: 0.109 GiB, twice that in moments
    parts = Phases(two_billion, replace(LORA, anchor=True, reference=True), LOAD).step().parts
    assert parts["moments"] / GIB == pytest.approx(0.218, abs=0.001)
    assert parts["anchor"] / GIB == pytest.approx(0.109, abs=0.001)
    assert "reference" not in parts


def test_snapshots_that_rest_on_the_cpu_are_there_one_at_a_time_and_when_asked(two_billion: ModelSizes) -> None:
    setup = replace(BF16, gpu=True, anchor=True, reference=True, offloaded=True)
    copy = 2 * two_billion.parameters
    assert Phases(two_billion, setup, LOAD).scoring().parts["anchor or reference"] == copy
    for phase in (Phases(two_billion, setup, LOAD).gradients(), Phases(two_billion, setup, LOAD).sampling()):
        assert not {"anchor", "reference", "anchor or reference"} & phase.parts.keys()
    # where what the policy computed for the loss is there as the anchor is asked, and in supervised losses
    for load in (replace(LOAD, once=True), replace(LOAD, samples=False, shared=False)):
        assert Phases(two_billion, setup, load).gradients().parts["anchor or reference"] == copy


def test_what_uses_less_memory_needs_less(two_billion: ModelSizes) -> None:
    setup = replace(BF16, gpu=True)
    most = Phases(two_billion, setup, LOAD).training().total
    smaller = (replace(LOAD, micro_rows=8), replace(LOAD, completion=256), replace(LOAD, rows=32, micro_rows=32))
    assert all(Phases(two_billion, setup, load).training().total < most for load in smaller)
    again = Phases(two_billion, replace(setup, checkpointing=True), replace(LOAD, shared=False)).training()
    assert again.total < most
    few = Phases(two_billion, setup, replace(LOAD, tested=4)).testing()
    assert few.total < Phases(two_billion, setup, LOAD).testing().total


def test_logits_are_bounded_whatever_the_batch(two_billion: ModelSizes) -> None:
    # 64 * 512 * 151,936 numbers would be 18.5 GiB in float32; a table has 2**25 at most, four times over: 0.5 GiB
    assert Phases(two_billion, BF16, LOAD).gradients().parts["logits"] == 4 * 4 * 2**25


def test_prefixes_that_are_kept_are_those_of_a_tasks_examples(two_billion: ModelSizes) -> None:
    setup = replace(BF16, anchor=True, reference=True)
    load = replace(LOAD, prefixes=2**30, examples=4)
    # 4 examples of 400 tokens in two models, 29 KiB a token
    assert Phases(two_billion, setup, load).gradients().parts["kept prefixes"] == 4 * 2 * 400 * 29 * 1024
    assert Phases(two_billion, setup, replace(load, examples=None)).gradients().parts["kept prefixes"] == 2**30


def test_a_small_adapter_leaves_the_optimizers_step_behind(two_billion: ModelSizes) -> None:
    assert Phases(two_billion, LORA, LOAD).step().phase == STEP
    assert Phases(two_billion, LORA, LOAD).training().phase != STEP


def test_a_family_that_is_not_known_has_no_sizes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    assert model_sizes(ModelConfig(path=str(tmp_path))) is None


ADAPTERS: list[dict[str, Any]] = [
    {},
    {"adapter": "lora", "lora_rank": 4},
    {"adapter": "lora", "lora_targets": r".*language_model.*(q|v)_proj"},
]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=["full", "lora", "some"])
@pytest.mark.parametrize("path", [str(default_model_path()), *PUBLISHED])
def test_a_checkpoints_config_tells_what_its_model_has(path: str, adapter: dict[str, Any]) -> None:
    """The real model, its weights without memory, beside what its config.json comes to."""
    config = ModelConfig(path=path, **adapter)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(
            AutoConfig.for_model(**(local_config(path) or PUBLISHED[path]))
        )
        parameters = sum(weight.numel() for weight in model.parameters())
        if adapter:
            model = get_peft_model(model, lora_config(config)).get_base_model()
    sizes = known_sizes(config)
    assert sizes.parameters == parameters
    assert sizes.trained == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert sizes.shape == shape_of(model)


def test_a_config_of_the_hub_is_flat_and_leaves_out_what_is_usual(tmp_path: Path) -> None:
    nested = PUBLISHED["Qwen/Qwen2-VL-7B-Instruct"]
    flat = {**nested["text_config"], "model_type": "qwen2_vl", "vision_config": {"hidden_size": 3584}}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    own = known_sizes(ModelConfig(path=str(tmp_path)))
    assert own == known_sizes(ModelConfig(path="Qwen/Qwen2-VL-7B-Instruct"))
