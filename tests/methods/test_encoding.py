"""Questions encoded by parts, images resized ahead and batched towers give what processor and stock tower give."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from clrft.base_model import default_model_path
from methods.generation.shared_prefix import positions_of, prefill
from methods.inputs.encoding import by_parts, encoded_turns, expanded
from methods.inputs.fit_image import as_it_is, image_fit
from methods.inputs.media import with_media
from methods.inputs.vision import BATCHED, batch_images
from methods.model.policy import Policy
from task_streams.prompt import user_turn
from task_streams.prompt_style import SUITE
from task_streams.types import TaskStream
from tests.methods.trainers import Asked

LABELS = (["cat", "dog"], ["cat", "dog", "a very long name, with commas"])


ROWS = [[(64, 64)], [(64, 64)]], [[(200, 64)], [(64, 64)], [(64, 300)]], [[(64, 64), (90, 30)], [], [(30, 90)]]


@pytest.mark.parametrize("sizes", ROWS)
def test_the_parts_make_what_the_processor_makes(sizes: list[list[tuple[int, int]]], policy: Policy) -> None:
    policy.processor.image_processor.size = {"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    turns = []
    for row, each in enumerate(sizes):
        shown = [Image.new("RGB", size, (40 * row, 255 - 40 * row, 20 * row)) for size in each]
        turns.append((user_turn(SUITE.ask("classification", LABELS[row % 2]), shown), shown))
    found = by_parts(policy.processor, turns)
    expected = policy.processor.apply_chat_template(
        [with_media(messages, shown) for messages, shown in turns],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype, name
    assert torch.equal(encoded_turns(policy.processor, turns)["input_ids"], found["input_ids"])


def test_text_alone_goes_through_the_processor(policy: Policy) -> None:
    batch = encoded_turns(policy.processor, [(user_turn("What is one and one?", []), [])])
    assert "pixel_values" not in batch and batch["input_ids"].shape[0] == 1


def test_placeholders_are_repeated_where_there_are_as_many_images() -> None:
    assert expanded([7, 1, 8, 1], 1, [2, 3]).tolist() == [7, 1, 1, 8, 1, 1, 1]
    assert expanded([7, 1, 8, 1], 1, [1, 1]).tolist() == [7, 1, 8, 1]
    for lengths in ([2], [2, 3, 4]):
        with pytest.raises(RuntimeError, match="image placeholders than images"):
            expanded([7, 1, 8, 1], 1, lengths)


def test_positions_of_one_form_are_computed_once_and_are_the_models_own(policy: Policy, stream: TaskStream) -> None:
    _, prompts = Asked(policy, stream).prompts(list(range(8)))
    backbone = policy.model.model
    own = backbone.get_rope_index
    with mock.patch.object(backbone, "get_rope_index", side_effect=own) as counted:
        found = positions_of(backbone, prompts)
    ((ids,), _), *others = counted.call_args_list
    assert len(ids) == 2 and others == []  # two lists of classes, two lengths
    grids = prompts.images.grids  # type: ignore[union-attr]
    fields = {"mm_token_type_ids": prompts.token_types, "image_grid_thw": grids}
    expected, _ = own(prompts.ids, attention_mask=prompts.mask, **fields)
    assert torch.equal(found, expected)
    with torch.no_grad():
        assert prefill(policy.model, prompts).last.shape[0] == 8


@pytest.fixture(scope="module")
def processor() -> Any:
    loaded = AutoProcessor.from_pretrained(default_model_path())
    loaded.image_processor.size = {"shortest_edge": 4096, "longest_edge": 16384}
    return loaded


@pytest.mark.parametrize("size", [(500, 375), (64, 64), (31, 97), (333, 40), (16, 16), (128, 128)])
def test_a_fitted_image_gives_the_processor_the_same_numbers(processor: Any, size: tuple[int, int]) -> None:
    noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(7))
    image = Image.fromarray(noise.to(torch.uint8).numpy())
    whole, ahead = (
        processor.image_processor(images=[one], return_tensors="pt") for one in (image, image_fit(processor)(image))
    )
    assert torch.equal(whole["image_grid_thw"], ahead["image_grid_thw"])
    assert torch.equal(whole["pixel_values"], ahead["pixel_values"])


def test_a_fitted_image_is_within_the_processors_area_and_other_processors_resize_themselves(processor: Any) -> None:
    fitted = image_fit(processor)(Image.new("RGB", (640, 480)))
    # area at most 16384; sides in multiples of a merged patch (8 x 2): 640 x 480 scaled by sqrt(16384 / 307200) =
    # 0.2309 is 147.8 x 110.9, floored to 144 x 96
    assert fitted.size == (144, 96)
    assert image_fit(SimpleNamespace(image_processor=object())) is as_it_is


GRIDS = {
    "equal": [[1, 8, 8]] * 3,
    "ragged": [[1, 8, 8], [1, 4, 6], [1, 8, 8], [1, 2, 2]],
    "clips": [[2, 4, 4], [1, 4, 6], [3, 4, 4]],
}


def seen(model: Any, grids: Tensor, patches: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What the tower makes of some images, and the gradients of its weights."""
    tower = model.model.visual
    features = tower(patches, grid_thw=grids).pooler_output
    return features.detach(), list(torch.autograd.grad(features.square().sum(), list(tower.parameters())))


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("sizes", GRIDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_features_and_gradients_are_those_of_the_loop(kind: str, sizes: str, attention: str, qwen2_5: Path) -> None:
    path = default_model_path() if kind == "qwen2_vl" else qwen2_5
    looping = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, attn_implementation=attention)
    batched = copy.deepcopy(looping)
    batch_images(batched)
    assert {type(module) for module in batched.modules()} & set(BATCHED.values())
    grids = torch.tensor(GRIDS[sizes])
    patches = torch.randn(int(grids.prod(dim=1).sum()), 3 * 2 * 8 * 8, generator=torch.Generator().manual_seed(1))
    (expected, theirs), (found, mine) = seen(looping, grids, patches), seen(batched, grids, patches)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(mine, theirs, strict=True):
        assert (one - other).norm() <= 1e-4 * max(float(other.norm()), 1.0)


def test_weights_keep_their_names_and_values(policy: Policy) -> None:
    stock = AutoModelForImageTextToText.from_pretrained(default_model_path(), dtype=torch.float32)
    plain, mine = stock.state_dict(), policy.model.state_dict()
    assert list(plain) == list(mine)
    assert all(torch.equal(plain[name], mine[name]) for name in plain)
