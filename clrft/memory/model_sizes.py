"""A model's sizes by its checkpoint's config.json alone: parameters, layers, matrices, and what an adapter adds.

No weights are read, nothing is downloaded, and neither torch nor transformers is needed; a test compares with the real
models. Known families are those of ``methods/costs/flops.py``; of another one nothing is said.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from clrft.base_model import default_model_path
from clrft.utils.files import read_json
from methods.costs.flops import SUPPORTED, ModelShape, matrices
from methods.model.config import ModelConfig
from task_streams.errors import UserError, unknown_name

ALL_LINEAR = "all-linear"
GATED = "qwen2_5_vl"  # its tower has gated layers and the text's kind of norm
# What transformers' config classes stand for where a config.json leaves it out.
TEXT_DEFAULTS: dict[str, Any] = {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "intermediate_size": 29568, "vocab_size": 152064,
}  # fmt: skip
TOWER_DEFAULTS: dict[str, Any] = {
    "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "hidden_size": 3584, "intermediate_size": 3420, "num_heads": 16,
    "in_channels": 3, "temporal_patch_size": 2, "patch_size": 14, "spatial_merge_size": 2, "out_hidden_size": 3584,
    "window_size": 112, "fullatt_block_indexes": (7, 15, 23, 31),
}  # fmt: skip


def _published(family: str, width: int, inner: int, layers: int, heads: int, keys: int, vocabulary: int) -> Any:
    tower = {"hidden_size": 1280, "out_hidden_size": width} if family == GATED else {"hidden_size": width}
    text = {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": keys, "vocab_size": vocabulary,
    }  # fmt: skip
    tied = vocabulary == 151936  # the small ones
    return {"model_type": family, "text_config": text, "vision_config": tower, "tie_word_embeddings": tied}


# The config.json of published checkpoints, as far as sizes go.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-VL-2B-Instruct": _published("qwen2_vl", 1536, 8960, 28, 12, 2, 151936),
    "Qwen/Qwen2-VL-7B-Instruct": _published("qwen2_vl", 3584, 18944, 28, 28, 4, 152064),
    "Qwen/Qwen2.5-VL-3B-Instruct": _published("qwen2_5_vl", 2048, 11008, 36, 16, 2, 151936),
    "Qwen/Qwen2.5-VL-7B-Instruct": _published("qwen2_5_vl", 3584, 18944, 28, 28, 4, 152064),
}


@dataclass(frozen=True, slots=True)
class TextSizes:
    """The language model."""

    width: int  # numbers in a hidden state
    layers: int
    heads: int  # of the queries
    key_heads: int  # of keys and values
    head_size: int
    inner: int  # width within the gated part of a layer
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
    """The vision tower."""

    width: int  # numbers in a patch's hidden state
    layers: int
    heads: int
    inner: int  # width within a layer's second half
    gated: bool  # that half is gated
    values: int  # numbers in a patch as the processor makes it
    merge: int  # patches along each side that become one token
    patch: int  # pixels along each side of a patch


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """A model: what decides its memory and its operations.

    Sides are the inputs plus outputs of all matrices that get an adapter; times the adapter's rank they are the number
    of its weights (arXiv 2106.09685).
    """

    family: str  # the model type
    parameters: int  # without adapters, tied ones once
    text_sides: int  # of the language model
    tower_sides: int  # of the vision tower
    trained: int  # weights that are trained
    adapter: int  # those of them in an adapter; 0 without one
    text: TextSizes
    tower: TowerSizes
    shape: ModelShape  # what decides its operations, the adapter that is trained included

    @property
    def layers(self) -> int:
        """Layers of tower and language model."""
        return self.tower.layers + self.text.layers

    @property
    def outer(self) -> int:
        """Weights outside of the layers of tower and language model: embeddings and output head, mostly."""
        return self.parameters - self.shape.language.weights - self.shape.patches.weights


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix that is applied, by the name of its module."""

    name: str
    inputs: int
    outputs: int


@cache
def model_sizes(config: ModelConfig, published: bool = False) -> ModelSizes | None:
    """The sizes of the model of some settings, with the adapter that they ask for; None for an unknown family.

    Args:
        config: the settings.
        published: take the published sizes of a checkpoint that is not on this machine.

    Raises:
        OSError: the folder, or the hub id's copy on this machine, has no config.json.
    """
    path = config.path or str(default_model_path())
    known = local_config(path) or (PUBLISHED.get(path) if published else None)
    if known is None:
        raise FileNotFoundError(f"{path}: no config.json on this machine")
    family = str(known.get("model_type"))
    if family not in SUPPORTED:
        return None
    own = known.get("text_config") or known  # hub configs are flat
    vision = {**TOWER_DEFAULTS, **known.get("vision_config", {})}
    text, tower = text_sizes({**TEXT_DEFAULTS, **own}), tower_sizes(vision, family == GATED)
    text_layers, tower_layers = list(text_linears(text)), list(tower_linears(tower, vision))
    head = Linear("lm_head", text.width, text.vocabulary)
    products = sum(one.inputs * one.outputs for one in (*text_layers, *tower_layers)) + tower.values * tower.width
    biases = sum(one.outputs for one in tower_layers) + text.layers * (text.queries + 2 * text.keys)
    norms = (2 * tower.layers + 1) * tower.width * (1 if tower.gated else 2) + (2 * text.layers + 1) * text.width
    tied = known.get("tie_word_embeddings") or own.get("tie_word_embeddings")
    parameters = products + biases + norms + text.width * text.vocabulary * (1 if tied else 2)
    # PEFT gives an adapter to all matrices but the output head, or to those whose whole name fits an expression.
    every = config.lora_targets == ALL_LINEAR
    adapted = {
        one
        for one in (*text_layers, *tower_layers, head)
        if (one is not head if every else re.fullmatch(config.lora_targets, one.name))
    }
    text_sides, tower_sides = (
        sum(one.inputs + one.outputs for one in layers if one in adapted)
        for layers in ((*text_layers, head), tower_layers)
    )
    full = config.adapter != "lora"
    adapter = 0 if full else config.lora_rank * (text_sides + tower_sides)

    def applied(layers: Sequence[Linear]) -> Iterator[tuple[str, Any]]:
        """Matrices in the order in which they are applied, with those of an adapter."""
        for one in layers:
            yield one.name, weight(one.inputs * one.outputs, full)
            if not full and one in adapted:
                yield f"{one.name}.lora_A.default", weight(one.inputs * config.lora_rank, True)
                yield f"{one.name}.lora_B.default", weight(one.outputs * config.lora_rank, True)

    blocks, merger = tower_layers[:-2], tower_layers[-2:]
    patches = ("patch_embed.proj", weight(tower.values * tower.width, full))
    whole = len(vision["fullatt_block_indexes"]) if tower.gated else tower.layers
    sees, reads = full or tower_sides > 0, full or not adapted.isdisjoint(text_layers)
    shape = ModelShape(
        patches=matrices([patches, *applied(blocks)], reached=False),
        merged=matrices(applied(merger), reached=full or not adapted.isdisjoint(blocks)),
        language=matrices(applied(text_layers), reached=sees),
        head=matrices(applied([head]), reached=sees or reads),
        merge=tower.merge,
        vision_width=tower.width,
        vision_layers=whole,
        window_layers=tower.layers - whole,
        window=vision["window_size"] // tower.patch // tower.merge if whole < tower.layers else 0,
        language_width=text.queries,
        language_layers=text.layers,
    )
    trained = adapter or parameters
    return ModelSizes(family, parameters, text_sides, tower_sides, trained, adapter, text, tower, shape)


def known_sizes(config: ModelConfig) -> ModelSizes:
    """The sizes of a model that is on this machine or published.

    Raises:
        UserError: it is neither, or of a family whose work is not counted.
    """
    path = config.path or str(default_model_path())
    try:
        sizes = model_sizes(config, published=True)
    except OSError as error:
        raise UserError(
            f"model.path: {path!r} is not on this machine, so its sizes are not known. "
            f"{unknown_name('checkpoint', path, PUBLISHED)}"
        ) from error
    if sizes is None:
        raise UserError(f"model.path: {path!r} is of another type than {', '.join(SUPPORTED)}.")
    return sizes


def local_config(path: str) -> dict[str, Any] | None:
    """The config.json of a checkpoint on this machine, a folder or a hub id; None if there is none."""
    file: Any = Path(path) / "config.json"
    if not file.is_file():
        try:
            file = try_to_load_from_cache(path, "config.json")
        except HFValidationError:  # no hub id either
            return None
    return read_json(Path(file)) if isinstance(file, str | Path) else None


def text_sizes(config: dict[str, Any]) -> TextSizes:
    """The language model's, from its part of the config."""
    heads = config["num_attention_heads"]
    return TextSizes(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        key_heads=config["num_key_value_heads"] or heads,
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
        inner=config["intermediate_size"],
        vocabulary=config["vocab_size"],
    )


def tower_sizes(config: dict[str, Any], gated: bool) -> TowerSizes:
    """The vision tower's, from its part of the config."""
    width = config["hidden_size"] if gated else config["embed_dim"]  # Qwen2-VL's hidden size is that of the text
    return TowerSizes(
        width=width,
        layers=config["depth"],
        heads=config["num_heads"],
        inner=config["intermediate_size"] if gated else int(width * config["mlp_ratio"]),
        gated=gated,
        values=config["in_channels"] * config["temporal_patch_size"] * config["patch_size"] ** 2,
        merge=config["spatial_merge_size"],
        patch=config["patch_size"],
    )


def text_linears(text: TextSizes) -> Iterator[Linear]:
    """The language model's matrices, in the order in which they are applied."""
    for layer in range(text.layers):
        at = f"model.language_model.layers.{layer}"
        for name, size in (("q", text.queries), ("k", text.keys), ("v", text.keys)):
            yield Linear(f"{at}.self_attn.{name}_proj", text.width, size)
        yield Linear(f"{at}.self_attn.o_proj", text.queries, text.width)
        yield Linear(f"{at}.mlp.gate_proj", text.width, text.inner)
        yield Linear(f"{at}.mlp.up_proj", text.width, text.inner)
        yield Linear(f"{at}.mlp.down_proj", text.inner, text.width)


def tower_linears(tower: TowerSizes, vision: dict[str, Any]) -> Iterator[Linear]:
    """The same of the vision tower, all with a bias; the last two are those of the merger."""
    inward, outward = (("gate_proj", "up_proj"), "down_proj") if tower.gated else (("fc1",), "fc2")
    for layer in range(tower.layers):
        at = f"model.visual.blocks.{layer}"
        yield Linear(f"{at}.attn.qkv", tower.width, 3 * tower.width)
        yield Linear(f"{at}.attn.proj", tower.width, tower.width)
        for name in inward:
            yield Linear(f"{at}.mlp.{name}", tower.width, tower.inner)
        yield Linear(f"{at}.mlp.{outward}", tower.inner, tower.width)
    merged = tower.width * tower.merge**2
    yield Linear("model.visual.merger.mlp.0", merged, merged)
    yield Linear("model.visual.merger.mlp.2", merged, vision["out_hidden_size" if tower.gated else "hidden_size"])


def weight(numbers: int, trained: bool) -> Any:
    """A layer with a weight of a size, as ``matrices`` looks at one."""
    return SimpleNamespace(weight=SimpleNamespace(numel=lambda: numbers, requires_grad=trained))
