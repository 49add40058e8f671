"""Images resized ahead of the processor: what the model sees is the same to the last bit."""

from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from clrft.base_model import default_model_path
from methods.inputs.fit_image import as_it_is, image_fit


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
