"""The models that are measured: the embedded one, and the shape of Qwen2-VL-2B-Instruct with random weights.

The second needs no download: the published sizes, weights drawn on the device in the dtype that is asked for, the
embedded model's tokenizer (its ids fit), and an image processor with the real patches that brings every image to
224 x 224 pixels, hence 64 image tokens. Random weights cost what trained ones cost.
"""

from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from benchmarks.anchor_memory import geometry_2b
from benchmarks.engine.options import Options
from clrft.base_model import default_model_path
from methods.generation.static_decode import graph_obstacle
from methods.inputs.vision import batch_images
from methods.model.config import ModelConfig, choose_attention, choose_device
from methods.model.numerics import numerics_of
from methods.model.policy import Policy, load_policy, load_processor
from methods.settings import KAHAN, PLAIN
from scripts.base_model import tokenizer as vocabulary

IMAGE_PIXELS = 224 * 224
SEED = 5


def load(options: Options, stock: bool = False) -> Policy:
    """A policy of its own for one contender; all that are loaded with the same options have the same weights.

    Args:
        options: which model, where.
        stock: the model is as transformers has it, whatever ours is made faster by.
    """
    optimizer = PLAIN if stock and options.optimizer == KAHAN else options.optimizer
    policy = embedded(options, optimizer) if options.model == "tiny" else random_2b(options, optimizer)
    policy.recorded = options.graphs and graph_obstacle(policy.model, policy.device) is None
    if stock:
        as_transformers_has_it(policy.model)
    if options.completion_tokens is not None:
        never_ends(policy)
    return policy


def embedded(options: Options, optimizer: str) -> Policy:
    """The embedded tiny model, held for an optimizer."""
    return load_policy(model_config(options), str(default_model_path()), optimizer=optimizer)


def random_2b(options: Options, optimizer: str) -> Policy:
    """The 2B shape, its weights drawn on the device."""
    config = model_config(options)
    device, numerics = choose_device(config), numerics_of(config, optimizer)
    attention = choose_attention(config, device, numerics.compute)
    processor = processor_2b()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(SEED)
        shape = config_2b(processor.tokenizer, options.layers)
        model: Any = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            shape, dtype=numerics.weights, attn_implementation=attention
        )
    batch_images(model)  # as load_policy does
    ends = {"eos_token_id": processor.tokenizer.eos_token_id, "pad_token_id": processor.tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(do_sample=False, **ends)  # type: ignore[no-untyped-call]
    return Policy(model, processor, config, attention, numerics)


def model_config(options: Options) -> ModelConfig:
    """The model's settings that the options stand for."""
    return ModelConfig(
        device=options.device,
        dtype="auto" if options.dtype == "auto" else options.dtype,
        gradient_checkpointing=options.checkpointing,
        media=options.media,
    )


def config_2b(tokenizer: Any, layers: int | None = None) -> Any:
    """The published sizes of Qwen2-VL-2B-Instruct with the special tokens of a tokenizer.

    Args:
        tokenizer: the embedded model's.
        layers: of the language model and of the vision tower; None = 28 and 32.
    """
    config: Any = geometry_2b()
    ids = {token: vocabulary.special_id(tokenizer, token) for token in vocabulary.SPECIAL_TOKENS}
    config.image_token_id, config.video_token_id = ids[vocabulary.IMAGE_PAD], ids[vocabulary.VIDEO_PAD]
    config.vision_start_token_id = ids[vocabulary.VISION_START]
    config.vision_end_token_id = ids[vocabulary.VISION_END]
    for part in (config, config.text_config):
        part.eos_token_id, part.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    if layers is not None:
        config.text_config.num_hidden_layers = config.vision_config.depth = layers
        config.text_config.layer_types = config.text_config.layer_types[:layers]
    return config


def processor_2b() -> Qwen2VLProcessor:
    """The embedded model's tokenizer and chat template beside an image processor with patches of 14 pixels."""
    tokenizer = load_processor(ModelConfig(), str(default_model_path())).tokenizer
    shared: dict[str, Any] = {
        "size": {"shortest_edge": IMAGE_PIXELS, "longest_edge": IMAGE_PIXELS},
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
    }
    return Qwen2VLProcessor(  # type: ignore[no-untyped-call]
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shared),
        chat_template=vocabulary.CHAT_TEMPLATE,
    )


def as_transformers_has_it(model: torch.nn.Module) -> None:
    """Give modules whose class was replaced by one of ours the class of transformers that it is made from."""
    for module in model.modules():
        module.__class__ = next(kind for kind in type(module).__mro__ if not kind.__module__.startswith("methods."))


def never_ends(policy: Policy) -> None:
    """Let no completion end before its limit: what ends one is a token that no path ever samples.

    Stock TRL, the plain path and ours all read the same two settings, and all suppress the token of clips, so lengths
    are exact and nobody pays for it.
    """
    policy.processor.tokenizer.eos_token = vocabulary.VIDEO_PAD
    policy.model.generation_config.eos_token_id = policy.processor.tokenizer.eos_token_id
