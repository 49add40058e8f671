"""Floating point operations of a Qwen2-VL-like model, from its matrices and the shapes of a call.

A product with a matrix of N weights is 2 N operations for each position, forward. Backward it is 2 N for the gradient
of the matrix, if that is trained, and 2 N for the gradient of what it was applied to, if anything below is trained: a
frozen matrix beneath an adapter costs half. Attention is 4 T S width operations in a layer, for T positions that look
at S, forward, and twice that backward; the half that a causal mask hides is counted, as in arXiv 2204.02311.
Positions are those of the tensors, padding included.
Deliberately absent: norms, activations, softmax and rotations (no matrix products), what is computed again in the
backward pass (checkpointed activations), the optimizer, and that a reference without its adapter skips it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

SUPPORTED = ("qwen2_vl", "qwen2_5_vl")
TRAINED_ADAPTER = "default"  # name of the adapter that is trained, where there are several

_SHARED_INPUT = re.compile(r"((?<=\.)[qkv]_proj.*|\.base_layer|\.lora_[AB]\..*)$")

Grid = Sequence[int]  # patches in time, height and width of an image or clip


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of a call, and of its backward pass."""

    forward: float
    backward: float

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> Work:
        return Work(self.forward * times, self.backward * times)


@dataclass(frozen=True, slots=True)
class Matrices:
    """Some matrices that every position goes through."""

    weights: int  # of all of them together
    gradients: int  # weights of those that are trained, plus weights of those whose input needs a gradient

    def work(self, positions: float) -> Work:
        """Products with so many positions."""
        return Work(2 * self.weights * positions, 2 * self.gradients * positions)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides the operations of a model."""

    patches: Matrices  # matrices that every patch of an image goes through
    merged: Matrices  # those that every token of an image goes through, on its way out of the vision tower
    language: Matrices  # those that every token goes through
    head: Matrices  # the output head
    merge: int  # patches along each side that become one token
    vision_width: int  # heads times their size, of the vision tower
    vision_layers: int  # those in which all patches of an image look at each other
    window_layers: int  # those in which patches look at their window only
    window: int  # tokens along each side of a window; 0 without windows
    language_width: int  # heads times their size, of the language model
    language_layers: int  # its layers

    def vision_work(self, grids: Sequence[Grid]) -> Work:
        """The vision tower on some images; steps of a clip's time do not look at each other."""
        patches = sum(time * height * width for time, height, width in grids)
        pairs = sum(time * (height * width) ** 2 for time, height, width in grids) * self.vision_layers
        for time, height, width in grids if self.window else ():
            # squared lengths of the windows that each side is cut into, summed
            sides = (height // self.merge, width // self.merge)
            inside = prod(side // self.window * self.window**2 + (side % self.window) ** 2 for side in sides)
            pairs += time * inside * self.merge**4 * self.window_layers
        forward = 4 * pairs * self.vision_width
        attention = Work(forward, 2 * forward if self.patches.gradients else 0)
        return self.patches.work(patches) + self.merged.work(patches // self.merge**2) + attention

    def language_work(self, rows: float, tokens: float, context: float) -> Work:
        """The language model on ``tokens`` positions of each row, which look at ``context`` positions."""
        forward = 4 * rows * tokens * context * self.language_width * self.language_layers
        attention = Work(forward, 2 * forward if self.language.gradients else 0)
        return self.language.work(rows * tokens) + attention


def shape_of(model: Any) -> ModelShape | None:
    """The shape of a transformers model, also one on the meta device; None for a family that is not known."""
    if getattr(getattr(model, "config", None), "model_type", "") not in SUPPORTED:
        return None
    vision, text = model.config.vision_config, model.config.get_text_config()
    tower, language = model.model.visual, model.model.language_model
    width = vision.embed_dim if hasattr(vision, "embed_dim") else vision.hidden_size
    whole = getattr(vision, "fullatt_block_indexes", range(vision.depth))
    side = getattr(vision, "window_size", 0) // vision.patch_size // vision.spatial_merge_size
    layers = list(applied(tower))
    blocks = [pair for pair in layers if not pair[0].startswith("merger.")]
    merger = [pair for pair in layers if pair[0].startswith("merger.")]
    sees = is_trained(tower)
    embeds = sees or language.embed_tokens.weight.requires_grad
    heads = text.num_attention_heads
    return ModelShape(
        patches=matrices(blocks, reached=False),
        merged=matrices(merger, any(layer.weight.requires_grad for _, layer in blocks)),
        language=matrices(applied(language), embeds),
        head=matrices(applied(model.get_output_embeddings()), embeds or is_trained(language)),
        merge=vision.spatial_merge_size,
        vision_width=width,
        vision_layers=len(whole),
        window_layers=vision.depth - len(whole),
        window=side if len(whole) < vision.depth else 0,
        language_width=heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        language_layers=text.num_hidden_layers,
    )


def matrices(layers: Iterable[tuple[str, Any]], reached: bool) -> Matrices:
    """Some layers' matrices, in the order in which they are applied; ``reached``: what comes in needs a gradient."""
    weights = gradients = 0
    trained_at: set[str] = set()  # inputs of trained matrices
    for name, layer in layers:
        size = int(getattr(layer.weight, "ds_numel", layer.weight.numel()))  # all of it, where ZeRO-3 has a part too
        # the queries', keys' and values' matrices, and an adapter's, share an input
        trained, own = layer.weight.requires_grad, _SHARED_INPUT.sub("", name)
        needed = reached or bool(trained_at - {own}) or (trained and ".lora_B." in name)
        weights += size
        gradients += size * (int(trained) + int(needed))
        trained_at |= {own} if trained else set()
    return Matrices(weights, gradients)


def is_trained(module: nn.Module) -> bool:
    """Whether any weight of a module is trained."""
    return any(weight.requires_grad for weight in module.parameters())


def applied(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and layer of every matrix that is applied, in their order; of several adapters the one that is trained."""
    from torch import nn

    for name, layer in module.named_modules():
        other = ".lora_" in name and not name.endswith(TRAINED_ADAPTER)
        if isinstance(layer, nn.Linear | nn.Conv3d) and not other:
            yield name, layer
