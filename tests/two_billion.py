"""The sizes of Qwen2-VL-2B-Instruct, without its weights."""

import torch
from transformers import AutoModelForImageTextToText, Qwen2VLConfig

from clrft.memory.sizes import ModelSizes, sizes_of


def sizes_of_2b() -> ModelSizes:
    """From its published config, on the meta device."""
    text = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
    text |= {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16}
    vision |= {"patch_size": 14, "spatial_merge_size": 2}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    with torch.device("meta"):
        sizes = sizes_of(AutoModelForImageTextToText.from_config(config))
    assert sizes is not None
    return sizes
