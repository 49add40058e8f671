"""Vision towers over a batch of images at once give what transformers' loop gives, for all sizes and both families."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

from clrft.base_model import default_model_path
from methods.inputs.vision import BATCHED, batch_images
from methods.model.policy import Policy

GRIDS = {
    "equal": [[1, 8, 8]] * 3,
    "ragged": [[1, 8, 8], [1, 4, 6], [1, 8, 8], [1, 2, 2]],
    "clips": [[2, 4, 4], [1, 4, 6], [3, 4, 4]],
}


def tiny_2_5() -> Any:
    """A small Qwen2.5-VL whose vision tower has windows of 2 x 2 merged patches in one of two layers."""
    text = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "num_heads": 2}
    vision |= {"patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1]}
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def stock(kind: str) -> Any:
    """A model as transformers makes it."""
    if kind == "qwen2_5_vl":
        return tiny_2_5()
    return Qwen2VLForConditionalGeneration.from_pretrained(default_model_path(), dtype=torch.float32)


def seen(model: Any, grids: Tensor, patches: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What the tower makes of some images, and the gradients of its weights."""
    tower = model.model.visual
    features = tower(patches, grid_thw=grids).pooler_output
    return features.detach(), list(torch.autograd.grad(features.square().sum(), list(tower.parameters())))


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("sizes", GRIDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_features_and_gradients_are_those_of_the_loop(kind: str, sizes: str, attention: str) -> None:
    looping = stock(kind)
    looping.set_attn_implementation(attention)
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
    plain, mine = stock("qwen2_vl").state_dict(), policy.model.state_dict()
    assert list(plain) == list(mine)
    assert all(torch.equal(plain[name], mine[name]) for name in plain)
