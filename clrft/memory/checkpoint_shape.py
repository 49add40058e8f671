"""A cell's model before it is loaded: its sizes and matrices, from its config or from sizes that are published.

Of a checkpoint that is not on this machine the sizes are those of its published config.json; of another one nothing is
known, which is an error. No weights are read, and nothing is downloaded.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText

from clrft.base_model import default_model_path
from clrft.memory.sizes import ModelSizes, sizes_of
from methods.costs.flops import SUPPORTED, ModelShape, shape_of
from methods.model.config import ModelConfig
from methods.model.policy import load_processor, lora_config
from task_streams.errors import UserError, unknown_name

_TOWER = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14, "spatial_merge_size": 2}
_GATED_TOWER = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
}  # fmt: skip
_LAYERS = {"num_hidden_layers": 28, "max_position_embeddings": 32768}
_LONG = {"max_position_embeddings": 128000}
# Sizes in the config.json of the published checkpoints.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-VL-2B-Instruct": {
        "model_type": "qwen2_vl",
        "text_config": {
            **_LAYERS, "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12,
            "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
        },
        "vision_config": {**_TOWER, "hidden_size": 1536},
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2-VL-7B-Instruct": {
        "model_type": "qwen2_vl",
        "text_config": {
            **_LAYERS, "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
        },
        "vision_config": {**_TOWER, "hidden_size": 3584},
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl",
        "text_config": {
            **_LONG, "num_hidden_layers": 36, "hidden_size": 2048, "intermediate_size": 11008,
            "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
        },
        "vision_config": {**_GATED_TOWER, "out_hidden_size": 2048},
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        "text_config": {
            **_LONG, "num_hidden_layers": 28, "hidden_size": 3584, "intermediate_size": 18944,
            "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
        },
        "vision_config": {**_GATED_TOWER, "out_hidden_size": 3584},
        "tie_word_embeddings": False,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model without its weights.

    Attributes:
        sizes: what decides its memory.
        shape: what decides its operations, the adapter that is trained included.
        patch: pixels along each side of a patch.
        trained: weights that are trained.
        adapter: weights of the adapter; 0 without one.
        processor: the checkpoint's, where it is on this machine.
    """

    sizes: ModelSizes
    shape: ModelShape
    patch: int
    trained: int
    adapter: int
    processor: Any

    @property
    def layers(self) -> int:
        """Layers of tower and language model."""
        return self.sizes.tower.layers + self.sizes.text.layers

    @property
    def outer(self) -> int:
        """Weights outside of the layers of tower and language model: embeddings and output head, mostly."""
        return self.sizes.parameters - self.shape.language.weights - self.shape.patches.weights


@cache
def checkpoint_of(config: ModelConfig) -> Checkpoint:
    """The model of some settings.

    Raises:
        UserError: its config is neither on this machine nor known, or it is of a family whose work is not counted.
    """
    path = config.path or str(default_model_path())
    made = weightless(config)
    adapted = hasattr(made, "get_base_model")
    model = made.get_base_model() if adapted else made
    sizes, shape = sizes_of(model, config.lora_targets), shape_of(model)
    if sizes is None or shape is None:
        raise RuntimeError(f"{path}: no sizes of a family that is supported")
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    processor = None if local_config(path) is None else load_processor(config, path)
    patch = model.config.vision_config.patch_size
    return Checkpoint(sizes, shape, patch, trained, trained if adapted else 0, processor)


@cache
def weightless(config: ModelConfig) -> Any:
    """The model of some settings, with the adapter that they ask for, its weights without memory.

    Raises:
        UserError: as ``checkpoint_of``.
    """
    path = config.path or str(default_model_path())
    known = local_config(path)
    if known is None and path not in PUBLISHED:
        raise UserError(
            f"model.path: {path!r} is not on this machine, so its sizes are not known. "
            f"{unknown_name('checkpoint', path, PUBLISHED)}"
        )
    settings: Any = AutoConfig.for_model(**PUBLISHED[path]) if known is None else known
    if settings.model_type not in SUPPORTED:
        raise UserError(
            f"model.path: {path!r} is of type {settings.model_type!r}; expected one of {', '.join(SUPPORTED)}."
        )
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(settings)  # type: ignore[no-untyped-call]
        return get_peft_model(model, lora_config(config)) if config.adapter == "lora" else model


def local_config(path: str) -> Any:
    """The config of a checkpoint on this machine; None if there is none."""
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except OSError:
        return None
