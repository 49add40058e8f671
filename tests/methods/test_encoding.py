"""Questions encoded by parts, and images resized ahead, are to the last bit those that the whole processor makes."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from clrft.base_model import default_model_path
from methods.generation.shared_prefix import positions_of, prefill
from methods.inputs.encoding import by_parts, encoded_turns, expanded
from methods.inputs.fit_image import as_it_is, image_fit
from methods.inputs.media import with_media
from methods.model.policy import Policy
from task_streams.prompt import user_turn
from task_streams.prompt_style import SUITE
from task_streams.types import TaskStream
from tests.methods.test_frozen_prefixes import Asked


def picture(width: int, height: int, shade: int) -> Image.Image:
    return Image.new("RGB", (width, height), (shade, 255 - shade, shade // 2))


LABELS = (["cat", "dog"], ["cat", "dog", "a very long name, with commas"])


@pytest.mark.parametrize(
    "sizes",
    [
        [[(64, 64)], [(64, 64)]],
        [[(200, 64)], [(64, 64)], [(64, 300)]],
        [[(64, 64), (90, 30)], [], [(30, 90)]],
    ],
)
def test_the_parts_make_what_the_processor_makes(sizes: list[list[tuple[int, int]]], policy: Policy) -> None:
    policy.processor.image_processor.size = {"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    turns = []
    for row, each in enumerate(sizes):
        shown = [picture(*size, 40 * row) for size in each]
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


@pytest.mark.parametrize(("lengths", "expected"), [([2, 3], [7, 1, 1, 8, 1, 1, 1]), ([1, 1], [7, 1, 8, 1])])
def test_placeholders_are_repeated(lengths: Sequence[int], expected: list[int]) -> None:
    assert expanded([7, 1, 8, 1], 1, lengths).tolist() == expected


@pytest.mark.parametrize("lengths", [[2], [2, 3, 4]])
def test_images_and_placeholders_that_do_not_match_are_an_error(lengths: Sequence[int]) -> None:
    with pytest.raises(RuntimeError, match="image placeholders than images"):
        expanded([7, 1, 8, 1], 1, lengths)


def test_positions_of_one_form_are_computed_once_and_are_the_models_own(policy: Policy, stream: TaskStream) -> None:
    _, prompts = Asked(policy, stream).prompts(list(range(8)))
    backbone = policy.model.model
    rows: list[int] = []
    own = backbone.get_rope_index

    def counted(ids: torch.Tensor, **rest: object) -> object:
        rows.append(len(ids))
        return own(ids, **rest)

    backbone.get_rope_index = counted
    found = positions_of(backbone, prompts)
    assert rows == [2]  # two lists of classes, two lengths
    expected, _ = own(
        prompts.ids,
        attention_mask=prompts.mask,
        mm_token_type_ids=prompts.token_types,
        image_grid_thw=prompts.images.grids,  # type: ignore[union-attr]
    )
    assert torch.equal(found, expected)
    del backbone.get_rope_index
    with torch.no_grad():
        assert prefill(policy.model, prompts).last.shape[0] == 8


@pytest.fixture(scope="module")
def processor() -> Any:
    loaded = AutoProcessor.from_pretrained(default_model_path())
    loaded.image_processor.size = {"shortest_edge": 4096, "longest_edge": 16384}
    return loaded


def pixels(processor: Any, image: Image.Image) -> Any:
    return processor.image_processor(images=[image], return_tensors="pt")


@pytest.mark.parametrize("size", [(500, 375), (64, 64), (31, 97), (333, 40), (16, 16), (128, 128)])
def test_a_fitted_image_gives_the_processor_the_same_numbers(processor: Any, size: tuple[int, int]) -> None:
    noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(7))
    image = Image.fromarray(noise.to(torch.uint8).numpy())
    fitted = image_fit(processor)(image)
    whole, ahead = pixels(processor, image), pixels(processor, fitted)
    assert torch.equal(whole["image_grid_thw"], ahead["image_grid_thw"])
    assert torch.equal(whole["pixel_values"], ahead["pixel_values"])


def test_a_fitted_image_is_within_the_processors_area(processor: Any) -> None:
    fitted = image_fit(processor)(Image.new("RGB", (640, 480)))
    # area at most 16384; sides in multiples of a merged patch (8 x 2): 640 x 480 scaled by sqrt(16384 / 307200) =
    # 0.2309 is 147.8 x 110.9, floored to 144 x 96
    assert fitted.size == (144, 96)


def test_processors_of_another_rule_resize_themselves() -> None:
    class Other:
        image_processor = object()

    assert image_fit(Other()) is as_it_is
