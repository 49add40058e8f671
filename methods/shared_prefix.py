"""A group shares its prompt, so compute it once: log-probabilities of completions against a repeated prefix.

The unique prompts (images or clips, and class list) run through the model once; their cache is repeated for the
completions of each prompt, which then run against it. Exact: the same attention over the same keys, with gradients.
Models with Qwen2-VL's M-RoPE are supported; ``obstacle`` says why another one is not.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.media import Patches, image_patches, model_fields
from methods.meter import meter_of

SUPPORTED = ("qwen2_vl", "qwen2_5_vl")


@dataclass(frozen=True, slots=True)
class Prompts:
    """A batch of N rows whose prompts repeat.

    Attributes:
        ids: left-padded prompt tokens, [N, P].
        mask: 1 for real prompt tokens, [N, P].
        token_types: 1 for image tokens, 2 for those of clips, 0 for text, [N, P].
        images: of all rows, None if there are none.
        clips: of all rows, None if there are none.
        source: index of the prompt that each row has; equal numbers mean equal prompts, [N].
    """

    ids: Tensor
    mask: Tensor
    token_types: Tensor
    images: Patches | None
    clips: Patches | None
    source: Tensor

    def unique(self) -> tuple["Prompts", Tensor]:
        """Each prompt once, in order of first appearance by index, and the row of it that every row has, [N]."""
        values, inverse = torch.unique(self.source, return_inverse=True)
        rows = torch.arange(len(self.source), device=self.source.device)
        first = rows.new_full((len(values),), len(rows)).scatter_reduce(0, inverse, rows, "amin")
        return self.select(first), inverse

    def select(self, rows: Tensor) -> "Prompts":
        """Some of the rows, with their images and clips."""
        images, clips = (
            None if patches is None else patches.select(rows.tolist()) for patches in (self.images, self.clips)
        )
        return Prompts(self.ids[rows], self.mask[rows], self.token_types[rows], images, clips, self.source[rows])

    @property
    def fields(self) -> dict[str, Tensor]:
        """Images and clips as a model's arguments."""
        return model_fields(self.images, self.clips)


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the prompts leave behind.

    Attributes:
        cache: keys and values of every layer.
        last: hidden state of each prompt's last token, [B, H].
        mask: 1 for real prompt tokens, [B, P].
        next_position: M-RoPE position of the first completion token, [B].
    """

    cache: Any
    last: Tensor
    mask: Tensor
    next_position: Tensor

    def copied(self) -> "Prefix":
        """The same with a cache of its own: what runs against a prefix makes its cache grow. No gradients."""
        return Prefix(copy.deepcopy(self.cache), self.last, self.mask, self.next_position)

    def repeated(self, rows: Tensor) -> "Prefix":
        """The prefix of every row, [B] to [N]; differentiable."""
        self.cache.batch_select_indices(rows)
        return Prefix(self.cache, self.last[rows], self.mask[rows], self.next_position[rows])


def obstacle(model: Any) -> str | None:
    """Why a model's prefix cannot be shared, or None if it can."""
    kind = getattr(model.config, "model_type", "")
    if kind not in SUPPORTED:
        return f"model type {kind!r} is not one of {', '.join(SUPPORTED)}"
    if getattr(model, "is_gradient_checkpointing", False):
        return "gradient checkpointing keeps no cache"
    return None


def plain(model: Any) -> Any:
    """The transformers model inside an adapter's wrapper; the adapter stays in force."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prefill(model: Any, prompts: Prompts) -> Prefix:
    """Run prompts through the model once."""
    backbone = plain(model).model
    fields = prompts.fields
    positions, _ = backbone.get_rope_index(
        prompts.ids,
        attention_mask=prompts.mask,
        mm_token_type_ids=prompts.token_types,
        **{name: value for name, value in fields.items() if not name.startswith("pixel_values")},
    )  # [3, B, P]
    outputs = backbone(
        input_ids=prompts.ids,
        attention_mask=prompts.mask,
        position_ids=positions,
        mm_token_type_ids=prompts.token_types,
        use_cache=True,
        **fields,
    )
    next_position = positions[:, :, -1].amax(dim=0) + 1
    return Prefix(outputs.past_key_values, outputs.last_hidden_state[:, -1], prompts.mask, next_position)


def advance(model: Any, prefix: Prefix, tokens: Tensor, mask: Tensor, start: int = 0) -> Tensor:
    """Hidden states of completion tokens that follow a prefix, [N, T] to [N, T, H]; the cache grows by them.

    Args:
        model: the model that made the prefix.
        prefix: of every row.
        tokens: [N, T].
        mask: 1 for real completion tokens up to the last of ``tokens``, [N, start + T].
        start: completion tokens that are in the cache already.
    """
    steps = torch.arange(start, start + tokens.shape[1], device=tokens.device)
    positions = (prefix.next_position[:, None] + steps).expand(3, -1, -1)  # [3, N, T]
    outputs = plain(model).model(
        input_ids=tokens,
        attention_mask=torch.cat([prefix.mask, mask.to(prefix.mask.dtype)], dim=1),
        position_ids=positions,
        past_key_values=prefix.cache,
        use_cache=True,
    )
    return outputs.last_hidden_state  # type: ignore[no-any-return]


def completion_states(model: Any, prefix: Prefix, completions: Tensor, mask: Tensor) -> Tensor:
    """The hidden state that predicts each completion token, [N, L, H]; the prefix is used up.

    Args:
        model: the model that made the prefix.
        prefix: of every row.
        completions: completion tokens, right-padded, [N, L].
        mask: 1 for real completion tokens, [N, L].
    """
    hidden = prefix.last[:, None]  # [N, 1, H] predicts the first token
    if completions.shape[1] == 1:
        return hidden
    rest = advance(model, prefix, completions[:, :-1], mask[:, :-1])
    return torch.cat([hidden, rest], dim=1)


def completion_logps(
    model: Any, prompts: Prompts, completions: Tensor, mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of every completion token, and the entropy where it was drawn, [N, L] each.

    Args:
        model: any of actor, anchor, reference; with or without gradients.
        prompts: of N rows.
        completions: completion tokens, right-padded, [N, L].
        mask: 1 for real completion tokens, [N, L].
        temperature: the logits are divided by it.
    """
    unique, rows = prompts.unique()
    meter_of(model).spared(prompts.mask, unique.mask)
    hidden = completion_states(model, prefill(model, unique).repeated(rows), completions, mask)
    logits = plain(model).get_output_embeddings()(hidden).float() / temperature
    logps = logits.log_softmax(dim=-1)
    entropy = -(logps.exp() * logps).sum(dim=-1)
    real = mask.bool()
    chosen = logps.gather(2, completions.unsqueeze(2)).squeeze(2)
    return chosen.masked_fill(~real, 0.0), entropy.detach().masked_fill(~real, 0.0)


def sources(keys: Sequence[str]) -> list[int]:
    """For every row the first row with the same key: rows of one example share their prompt."""
    first: dict[str, int] = {}
    return [first.setdefault(key, row) for row, key in enumerate(keys)]


def prompts_of(batch: Mapping[str, Any], length: int, source: Tensor, clips: Patches | None) -> Prompts:
    """The prompts of a batch in TRL's layout, whose first ``length`` columns are the prompt's; TRL knows no clips."""
    return Prompts(
        ids=batch["input_ids"][:, :length],
        mask=batch["attention_mask"][:, :length],
        token_types=batch["mm_token_type_ids"][:, :length],
        images=image_patches(batch, batch.get("num_images")),
        clips=clips,
        source=source,
    )
