"""A group shares its prompt, so compute it once: what prompts leave behind, for completions to follow.

Prompts (images or clips, and class list) run through the model once; completions then run against their cache
(``completion_logps.py``, ``rollout.py``). Exact: the same attention over the same keys, with gradients.
Models with Qwen2-VL's M-RoPE are supported; ``obstacle`` says why another one is not.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from methods.costs.meter import meter_of
from methods.inputs.media import model_fields
from methods.inputs.prompts import Prompts

SUPPORTED = ("qwen2_vl", "qwen2_5_vl")
SAVED = 512  # prompt tokens that must be saved for another call of the model to pay


@dataclass(frozen=True, slots=True)
class Prefix:
    """What B prompts leave behind in a model; it can be followed any number of times."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values of every layer, [B, heads, P, head size] each
    last: Tensor  # hidden state of each prompt's last token, [B, H]
    mask: Tensor  # 1 for real prompt tokens, [B, P]; padding is on the left, or behind what all prompts begin with
    # M-RoPE position of the first completion token, [B]: behind the prompt's last one, as in a pass over the whole row.
    # (transformers' ``generate`` goes on behind the largest, which is another one where a short text follows a long
    # clip.)
    next_position: Tensor

    def repeated(self, rows: Tensor) -> "Continuation":
        """What follows it row by row, each row after the prompt that ``rows`` names, [N]; differentiable."""
        cache = DynamicCache([(keys[rows], values[rows]) for keys, values in self.layers])
        return Continuation(cache, self.last[rows], self.mask[rows], self.next_position[rows])

    def rows(self) -> list["Prefix"]:
        """Each prompt's own, without its padding; copies."""
        found = []
        for row in range(len(self.mask)):
            one, real = slice(row, row + 1), self.mask[row].bool()
            layers = tuple((keys[one, :, real], values[one, :, real]) for keys, values in self.layers)
            found.append(Prefix(layers, self.last[one].clone(), self.mask[one, real], self.next_position[one].clone()))
        return found

    @property
    def bytes(self) -> int:
        """Memory of its keys and values."""
        return sum(part.numel() * part.element_size() for layer in self.layers for part in layer)

    @classmethod
    def joined(cls, parts: Sequence["Prefix"]) -> "Prefix":
        """Several as one, padded on the left to the longest."""
        longest = max(part.mask.shape[1] for part in parts)
        columns = zip(*(part.layers for part in parts), strict=True)
        layers = tuple(
            (_stacked([keys for keys, _ in layer], longest, 2), _stacked([values for _, values in layer], longest, 2))
            for layer in columns
        )
        last, following = (
            torch.cat(values) for values in zip(*((p.last, p.next_position) for p in parts), strict=True)
        )
        return cls(layers, last, _stacked([part.mask for part in parts], longest, 1), following)


def _stacked(parts: Sequence[Tensor], longest: int, axis: int) -> Tensor:
    """Rows under each other, with zeros before those that are short along an axis."""
    after = parts[0].dim() - 1 - axis
    return torch.cat([pad(part, (0, 0) * after + (longest - part.shape[axis], 0)) for part in parts])


@dataclass(slots=True)
class Continuation:
    """N rows that follow a prefix; its cache grows with every token."""

    cache: DynamicCache  # keys and values of every layer
    last: Tensor  # hidden state of each prompt's last token, [N, H]
    mask: Tensor  # 1 for real prompt tokens, [N, P]
    next_position: Tensor  # M-RoPE position of the first completion token, [N]


def obstacle(model: Any) -> str | None:
    """Why a model's prefix cannot be shared, or None if it can."""
    kind = getattr(model.config, "model_type", "")
    return None if kind in SUPPORTED else f"model type {kind!r} is not one of {', '.join(SUPPORTED)}"


def sees_all(model: Any) -> bool:
    """Whether every layer looks at all tokens before: none has a sliding window."""
    return set(plain(model).model.language_model.config.layer_types) == {"full_attention"}


def plain(model: Any) -> Any:
    """The transformers model inside an adapter's wrapper; the adapter stays in force."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_checkpointed(model: Any) -> bool:
    """Whether the language model's activations are computed again in the backward pass (``checkpointed_states``)."""
    return any(layer.gradient_checkpointing for layer in plain(model).model.language_model.layers)


@contextmanager
def keeping_cache(part: Any) -> Iterator[None]:
    """The language model, or one of its layers, keeps a cache, which checkpointed ones do not."""
    marked = [module for module in (part, *getattr(part, "layers", ())) if module.gradient_checkpointing]
    try:
        for module in marked:
            module.gradient_checkpointing = False
        yield
    finally:
        for module in marked:
            module.gradient_checkpointing = True


def positions_of(backbone: Any, prompts: Prompts) -> Tensor:
    """M-RoPE positions of prompts, [3, B, P]; those of one form are computed once: the model does it row by row."""
    # where a prompt's images and clips are, and their grids, decide its positions
    kinds = torch.where(prompts.mask.bool(), prompts.token_types, -1).tolist()
    media = [one.forms() for one in (prompts.images, prompts.clips) if one is not None]
    forms = [(tuple(kind), tuple(own[row] for own in media)) for row, kind in enumerate(kinds)]
    known: dict[Any, int] = {}
    place = [known.setdefault(form, len(known)) for form in forms]
    rows = [place.index(number) for number in range(len(known))]
    images, clips = (None if one is None else one.select(rows) for one in (prompts.images, prompts.clips))
    fields = {name: value for name, value in model_fields(images, clips).items() if not name.startswith("pixel_values")}
    positions, _ = backbone.get_rope_index(
        prompts.ids[rows], attention_mask=prompts.mask[rows], mm_token_type_ids=prompts.token_types[rows], **fields
    )
    return positions[:, place]  # type: ignore[no-any-return]


def embedded(backbone: Any, prompts: Prompts, images: Tensor | None = None) -> Tensor:
    """Prompts as the first layer gets them, images and clips in their places, [B, P, H].

    ``images``: what the vision tower makes of their images, if that is known, [tokens of images, H].
    """
    embeddings: Tensor = backbone.get_input_embeddings()(prompts.ids)
    for kind, patches, known, features in (
        (1, prompts.images, images, backbone.get_image_features),
        (2, prompts.clips, None, backbone.get_video_features),
    ):
        if patches is not None and len(patches.grids):
            if known is None:
                known = torch.cat(features(patches.values, patches.grids, return_dict=True).pooler_output)
            here = (prompts.token_types == kind)[..., None]
            embeddings = embeddings.masked_scatter(here, known.to(embeddings.dtype))
    return embeddings


def prefill(model: Any, prompts: Prompts, images: Tensor | None = None) -> Prefix:
    """Run prompts through a model once; no gradients where layers are checkpointed.

    Text that all of them begin with, up to the first image or clip, is computed once for all where that pays.
    ``images``: what the vision tower makes of their images, if that is known, [tokens of images, H].
    """
    backbone = plain(model).model
    positions = positions_of(backbone, prompts)
    inputs = embedded(backbone, prompts, images)
    lead = common_lead(prompts)
    with keeping_cache(backbone.language_model):
        if (len(inputs) - 1) * lead >= SAVED:
            outputs, mask = _behind_lead(model, prompts.mask, inputs, positions, lead)
        else:
            meter_of(model).prefilled(prompts.mask)
            mask = prompts.mask
            outputs = backbone(inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=True)
    next_position = positions[:, :, -1].amax(dim=0) + 1
    layers = tuple((layer.keys, layer.values) for layer in outputs.past_key_values.layers)
    return Prefix(layers, outputs.last_hidden_state[:, -1], mask, next_position)


def common_lead(prompts: Prompts) -> int:
    """How many tokens of text all prompts begin with; at least one token of each comes after them."""
    lengths = prompts.mask.sum(dim=1)
    width = prompts.mask.shape[1]
    places = (width - lengths)[:, None] + torch.arange(int(lengths.min()) - 1, device=lengths.device)
    ids, types = prompts.ids.gather(1, places), prompts.token_types.gather(1, places)
    same = (ids == ids[:1]).all(dim=0) & (types == 0).all(dim=0)
    return int(same.cumprod(dim=0).sum())


def _behind_lead(model: Any, mask: Tensor, inputs: Tensor, positions: Tensor, lead: int) -> tuple[Any, Tensor]:
    """Prompts through the model, the ``lead`` tokens they share once; its outputs, and what of the cache is real.

    Prompts are left-padded, [B, P]; ``inputs`` is as the first layer gets them, [B, P, H], ``positions`` M-RoPE, [3, B,
    P].
    """
    backbone, meter = plain(model).model, meter_of(model)
    count, width = mask.shape
    rest = mask.sum(dim=1) - lead  # tokens of each prompt
    longest = int(rest.max())
    start = width - int(rest[0]) - lead
    first = slice(start, start + lead)  # of any row
    begun = backbone(
        inputs_embeds=inputs[:1, first],
        attention_mask=mask[:1, first],
        position_ids=positions[:, :1, first],
        use_cache=True,
    )
    repeated = [
        (layer.keys.expand(count, -1, -1, -1), layer.values.expand(count, -1, -1, -1))
        for layer in begun.past_key_values.layers
    ]
    own = (torch.arange(longest, 0, -1, device=mask.device) <= rest[:, None]).to(mask.dtype)
    meter.prefilled(mask[:1, first])
    meter.behind(own)
    whole = torch.cat([mask[:1, first].expand(count, -1), own], dim=1)
    outputs = backbone(
        inputs_embeds=inputs[:, -longest:],
        attention_mask=whole,
        position_ids=positions[:, :, -longest:],
        past_key_values=DynamicCache(repeated),
        use_cache=True,
    )
    return outputs, whole


def advance(model: Any, rows: Continuation, tokens: Tensor, mask: Tensor, start: Tensor | None = None) -> Tensor:
    """Hidden states of completion tokens that follow a prefix, [N, T] to [N, T, H]; the cache grows by them.

    ``mask``: 1 for real completion tokens in the cache and in ``tokens``, [N, those in the cache + T]. ``start``: place
    of the first of the tokens in each row's completion, [N]; None for the very first.
    """
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    first = rows.next_position if start is None else rows.next_position + start
    backbone = plain(model).model
    with keeping_cache(backbone.language_model):
        outputs = backbone(
            input_ids=tokens,
            attention_mask=torch.cat([rows.mask, mask.to(rows.mask.dtype)], dim=1),
            position_ids=(first[:, None] + steps).expand(3, -1, -1),  # [3, N, T]
            past_key_values=rows.cache,
            use_cache=True,
        )
    return outputs.last_hidden_state  # type: ignore[no-any-return]
