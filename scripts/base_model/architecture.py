"""The embedded model's shape: a real ``Qwen2VLForConditionalGeneration`` of 1.4 M parameters, and processor.

Every class is a stock one of transformers, so the folder loads like any hub checkpoint, without remote code.
``image_tokens`` is the one shortcut: the same vision modules over a batch of equal-sized images, where the
stock forward loops over images; pretraining uses it, and a test holds the two equal.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    GenerationConfig,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from scripts.base_model import tokenizer as vocabulary
from task_streams.probes.glyphs import IMAGE_SIZE

PATCH, MERGE, FRAMES = 8, 2, 2  # pixels of a patch side, patches merged per side, frames of a temporal patch
GRID = IMAGE_SIZE // PATCH  # patches per side
IMAGE_TOKENS = (GRID // MERGE) ** 2
VISION_WIDTH = 96
PIXEL_MEAN, PIXEL_STD = 0.5, 0.5


def tiny_config(tokenizer: Qwen2Tokenizer) -> Qwen2VLConfig:
    """Configuration for the vocabulary of ``tokenizer``; every special id is set, in the text part too."""
    ids = {token: vocabulary.special_id(tokenizer, token) for token in vocabulary.SPECIAL_TOKENS}
    end, pad = ids[vocabulary.TURN_END], ids[vocabulary.END_OF_TEXT]
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        # mrope sections (time, height, width) sum to half the head dimension, 128 / 4 / 2 = 16
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 3,
        "embed_dim": VISION_WIDTH,
        "hidden_size": 128,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAMES,
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[vocabulary.IMAGE_PAD],
        video_token_id=ids[vocabulary.VIDEO_PAD],
        vision_start_token_id=ids[vocabulary.VISION_START],
        vision_end_token_id=ids[vocabulary.VISION_END],
        tie_word_embeddings=True,
    )
    config.eos_token_id, config.pad_token_id = end, pad
    return config


def tiny_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2VLForConditionalGeneration:
    """Freshly initialised model in float32; the global random state is left as it was."""
    config = tiny_config(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=32
    )
    return model


def tiny_processor(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    """Processor that brings every image to 64 x 64 pixels, hence 16 image tokens (if it is about square)."""
    pixels = IMAGE_SIZE * IMAGE_SIZE
    shared: dict[str, Any] = {
        "size": {"shortest_edge": pixels, "longest_edge": pixels},  # equal, so that the size is pinned
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "image_mean": [PIXEL_MEAN] * 3,
        "image_std": [PIXEL_STD] * 3,
    }
    return Qwen2VLProcessor(  # type: ignore[no-untyped-call]
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shared),
        chat_template=vocabulary.CHAT_TEMPLATE,
    )


def patches(images: Tensor) -> Tensor:
    """Grey images in [0, 1] as the processor would lay them out: [B, 64, 64] -> [B, 64 patches, 384 values].

    Patches that are merged later stand next to each other; channels and frames repeat the same grey values.
    """
    batch, blocks = images.shape[0], GRID // MERGE
    cut = ((images - PIXEL_MEAN) / PIXEL_STD).view(batch, blocks, MERGE, PATCH, blocks, MERGE, PATCH)
    cut = cut.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, GRID * GRID, 1, PATCH * PATCH)
    return cut.expand(-1, -1, 3 * FRAMES, -1).reshape(batch, GRID * GRID, 3 * FRAMES * PATCH * PATCH)


def image_tokens(visual: Any, images: Tensor) -> Tensor:
    """Vision tower (``model.model.visual``) over grey images, all at once: [B, 64, 64] -> [B, 16, 128]."""
    width, heads = VISION_WIDTH, visual.blocks[0].attn.num_heads
    hidden = functional.linear(patches(images), visual.patch_embed.proj.weight.view(width, -1))
    cos, sin = visual.rotary_pos_emb(hidden, _patch_positions())  # [64, head dimension] each
    for block in visual.blocks:
        qkv = block.attn.qkv(block.norm1(hidden)).unflatten(-1, (3, heads, width // heads))
        query, key, value = qkv.unbind(2)  # [B, 64, heads, head dimension] each
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        hidden = hidden + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged: Tensor = visual.merger(hidden)
    return merged.view(images.shape[0], IMAGE_TOKENS, -1)


def _patch_positions() -> Tensor:
    """Row and column of each patch in the order of ``patches``: [64, 2]."""
    blocks = GRID // MERGE
    index = torch.arange(GRID * GRID).view(blocks, MERGE, blocks, MERGE).permute(0, 2, 1, 3).flatten()
    return torch.stack([index // GRID, index % GRID], dim=-1)
