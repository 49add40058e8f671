"""What decides a model's memory: parameters and the sizes of its layers, read from a model, also one without weights.

Known families are those of ``methods/costs/flops.py``; of another one nothing is said rather than something wrong.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from methods.costs.flops import SUPPORTED

ALL_LINEAR = "all-linear"
GATED = "qwen2_5_vl"  # its tower has gated layers and the text's kind of norm


@dataclass(frozen=True, slots=True)
class TextSizes:
    """The language model.

    Attributes:
        width: numbers in a hidden state.
        layers: how many.
        heads: of the queries.
        key_heads: heads of keys and values.
        head_size: numbers in a head.
        inner: width within the gated part of a layer.
        vocabulary: tokens that a logit is computed for.
    """

    width: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    inner: int
    vocabulary: int

    @property
    def queries(self) -> int:
        """Numbers in a position's queries."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Numbers in a position's keys; as many in its values."""
        return self.key_heads * self.head_size


@dataclass(frozen=True, slots=True)
class TowerSizes:
    """The vision tower.

    Attributes:
        width: numbers in a patch's hidden state.
        layers: how many.
        heads: of queries, keys and values.
        inner: width within a layer's second half.
        gated: that half is gated.
        values: numbers in a patch as the processor makes it.
        merge: patches along each side that become one token.
    """

    width: int
    layers: int
    heads: int
    inner: int
    gated: bool
    values: int
    merge: int


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """A model.

    Attributes:
        parameters: without adapters, tied ones once.
        text_sides: inputs plus outputs of all matrices of the language model that get an adapter; times the adapter's
            rank that is the number of its weights (arXiv 2106.09685).
        tower_sides: the same of the vision tower.
        text: the language model.
        tower: the vision tower.
    """

    parameters: int
    text_sides: int
    tower_sides: int
    text: TextSizes
    tower: TowerSizes


def sizes_of(model: Any, targets: str = ALL_LINEAR) -> ModelSizes | None:
    """The sizes of a transformers model, inside an adapter's wrapper or not; None for a family that is not known.

    Args:
        model: also one on the meta device.
        targets: modules that an adapter goes to, as ``model.lora_targets`` says it.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(model.config, "model_type", "") not in SUPPORTED:
        return None
    sides = {name: layer.in_features + layer.out_features for name, layer in adapted(model, targets)}
    tower = sum(count for name, count in sides.items() if ".visual." in name)
    return ModelSizes(
        parameters=sum(w.numel() for name, w in model.named_parameters() if ".lora_" not in name),
        text_sides=sum(sides.values()) - tower,
        tower_sides=tower,
        text=text_sizes(model.config.get_text_config()),
        tower=tower_sizes(model.config.vision_config, model.config.model_type == GATED),
    )


def sizes_of_checkpoint(path: str, targets: str = ALL_LINEAR) -> ModelSizes | None:
    """The same from a checkpoint's config alone: no weights are read, and nothing is downloaded.

    Raises:
        OSError: the folder, or the hub id's copy on this machine, has no config.
    """
    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if config.model_type not in SUPPORTED:
        return None
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
        return sizes_of(model, targets)


def text_sizes(config: Any) -> TextSizes:
    """The language model's, from its config."""
    return TextSizes(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
    )


def tower_sizes(config: Any, gated: bool) -> TowerSizes:
    """The vision tower's, from its config."""
    width = config.hidden_size if gated else config.embed_dim  # Qwen2-VL's hidden size is that of the text
    return TowerSizes(
        width=width,
        layers=config.depth,
        heads=config.num_heads,
        inner=config.intermediate_size if gated else int(width * config.mlp_ratio),
        gated=gated,
        values=config.in_channels * config.temporal_patch_size * config.patch_size**2,
        merge=config.spatial_merge_size,
    )


def adapted(model: Any, targets: str) -> Iterator[tuple[str, nn.Linear]]:
    """Matrices that PEFT gives an adapter: all but the output head, or those whose whole name fits an expression."""
    head = model.get_output_embeddings()
    for path, layer in model.named_modules():
        name = path.removesuffix(".base_layer")
        if not isinstance(layer, nn.Linear) or ".lora_" in name:
            continue
        if layer is not head if targets == ALL_LINEAR else re.fullmatch(targets, name):
            yield name, layer
