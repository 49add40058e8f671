"""Shared prompts with gradient checkpointing: layer by layer, prompts and the completions behind them in one call.

transformers drops the cache where layers are checkpointed, since a layer that is run again would write to it again.
Here a checkpoint holds both: a prompt's keys and values live inside one layer's call alone, and come again when it is
run again. Between layers only hidden states are kept, of each prompt once.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask

from methods.costs.meter import meter_of
from methods.generation.shared_prefix import embedded, layers_of, plain, positions_of, without_checkpoints
from methods.generation.token_logps import token_logps
from methods.inputs.prompts import Prompts

Rotation = tuple[Tensor, Tensor]  # cosines and sines of every position


def checkpointed_logps(
    model: Any, prompts: Prompts, rows: Tensor, completions: Tensor, mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of every completion token, and the entropy where it was drawn, [N, L] each, with gradients.

    Args:
        model: whose layers are checkpointed.
        prompts: B of them, none twice.
        rows: which prompt each completion follows, [N].
        completions: completion tokens, right-padded, [N, L].
        mask: 1 for real completion tokens, [N, L].
        temperature: the logits are divided by it.
    """
    hidden = checkpointed_states(model, prompts, rows, completions, mask)
    return token_logps(plain(model).get_output_embeddings(), hidden, completions, mask, temperature)


def checkpointed_states(model: Any, prompts: Prompts, rows: Tensor, completions: Tensor, mask: Tensor) -> Tensor:
    """The hidden state that predicts each completion token, [N, L, H]; arguments as in ``checkpointed_logps``."""
    backbone = plain(model).model
    positions = positions_of(backbone, prompts)  # [3, B, P]
    before = Stream.of(backbone, embedded(backbone, prompts), prompts.mask, positions, None)
    length = completions.shape[1]
    fed = max(1, length - 1)  # the last token predicts none, but layers want one
    steps = torch.arange(fed, device=mask.device)
    following = (positions[:, :, -1].amax(dim=0)[rows, None] + 1 + steps).expand(3, -1, -1)  # [3, N, L - 1]
    tokens = backbone.get_input_embeddings()(completions[:, :fed])
    seen = torch.cat([prompts.mask[rows], mask[:, :fed].to(prompts.mask.dtype)], dim=1)
    after = Stream.of(backbone, tokens, seen, following, prompts.mask.shape[1])
    prompt, behind = before.hidden, after.hidden
    for layer in layers_of(backbone):
        prompt, behind = checkpoint(_layer, layer, prompt, behind, rows, before, after, use_reentrant=False)
    last, hidden = backbone.language_model.norm(prompt[:, -1]), backbone.language_model.norm(behind)
    _count(model, prompts, seen, behind)
    return torch.cat([last[rows, None], hidden], dim=1)[:, :length]


class Stream:
    """Tokens on their way through the layers: what each layer is told beside their hidden states.

    Attributes:
        hidden: as the first layer gets them, [N, T, H].
        mask: as attention takes it.
        rotation: of their positions.
    """

    def __init__(self, hidden: Tensor, mask: Any, rotation: Rotation) -> None:
        self.hidden = hidden
        self.mask = mask
        self.rotation = rotation

    @classmethod
    def of(cls, backbone: Any, hidden: Tensor, mask: Tensor, positions: Tensor, behind: int | None) -> "Stream":
        """Tokens behind so many of a prompt, or a prompt's own; the mask is of all that they see."""
        language = backbone.language_model
        cache = None
        if behind is not None:  # a cache of that length, of which only the length is looked at
            nothing = hidden.new_zeros(1, 1, 1, 1).expand(len(hidden), 1, behind, 1)
            cache = DynamicCache([(nothing, nothing)] * len(layers_of(backbone)))
        seen = create_causal_mask(
            config=language.config, inputs_embeds=hidden, attention_mask=mask, past_key_values=cache
        )
        return cls(hidden, seen, language.rotary_emb(hidden, positions))


class Caught:
    """Stands in for a cache while one layer runs: gives the keys and values before, and keeps those that are new."""

    def __init__(self, before: tuple[Tensor, Tensor] | None = None) -> None:
        self.before = before
        self.new: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As ``Cache.update``."""
        self.new = (keys, values)
        if self.before is None:
            return keys, values
        return torch.cat([self.before[0], keys], dim=2), torch.cat([self.before[1], values], dim=2)


def _layer(
    layer: Any, prompt: Tensor, behind: Tensor, rows: Tensor, before: Stream, after: Stream
) -> tuple[Tensor, Tensor]:
    """One layer over the prompts, and over what follows them."""
    with without_checkpoints([layer]):
        caught = Caught()
        prompt = _run(layer, prompt, before, caught)
        if caught.new is None:
            raise RuntimeError("a layer has kept no keys and values")
        keys, values = caught.new
        return prompt, _run(layer, behind, after, Caught((keys[rows], values[rows])))


def _run(layer: Any, hidden: Tensor, stream: Stream, cache: Caught) -> Tensor:
    return layer(  # type: ignore[no-any-return]
        hidden,
        attention_mask=stream.mask,
        position_embeddings=stream.rotation,
        past_key_values=cache,
        use_cache=True,
    )


def _count(model: Any, prompts: Prompts, seen: Tensor, behind: Tensor) -> None:
    """Tell the meter, which watches calls of the whole model."""
    meter = meter_of(model)
    (count, length), (rows, written, _) = prompts.ids.shape, behind.shape
    meter.passed(count, length, length, prompts.mask, behind)
    meter.passed(rows, written, seen.shape[1], None, behind)
    meter.prefilled(prompts.mask)
