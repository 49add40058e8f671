"""A Qwen2.5-VL checkpoint of random weights in hub format: transformers' classes, TRL's copy of the chat template."""

from importlib.resources import files
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from clrft.base_model import default_model_path
from scripts.base_model.architecture import tiny_processor


def write_qwen2_5_vl(folder: Path) -> Path:
    """Write the checkpoint, with the embedded model's tokens and images of 64 x 64 pixels; returns the folder."""
    tokenizer = AutoTokenizer.from_pretrained(default_model_path())
    end, image, video = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|image_pad|>", "<|video_pad|>"])
    text = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": end, "bos_token_id": None}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
    # windows of 2 x 2 merged patches in one of two layers; two positions to a second of a clip, as published
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "num_heads": 2}
    vision |= {"patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=image, video_token_id=video)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
    parts = tiny_processor(tokenizer)
    template = (files("trl") / "chat_templates" / "qwen2_5_vl.jinja").read_text(encoding="utf-8")
    processor = Qwen2_5_VLProcessor(parts.image_processor, tokenizer, parts.video_processor, chat_template=template)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
