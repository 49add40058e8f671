"""Hidden states and log-probabilities of completions behind prompts that are computed once, with or without gradients.

A group's completions run as one row behind their prompt, none of which sees another, so that its keys and values are
there once. Where the group is long beside its prompt, most of that row would not be seen; then each completion is a row
of its own, behind a copy.

With gradient checkpointing transformers drops the cache, since a layer that is run again would write to it again. There
prompts and completions go through the model layer by layer, both in one checkpoint: a prompt's keys and values live
inside one layer's call alone, and come again when it is run again; between layers only hidden states are kept.

Logits exist only where a token is, and for a bounded number of tokens at a time: at a vocabulary of 150,000 those of
4,000 tokens are 2.4 GB in float32, several times over. With gradients, those of each part are computed again in the
backward pass instead of kept.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask

from methods.costs.meter import meter_of
from methods.costs.pass_sizes import LARGEST, in_one_row
from methods.generation.shared_prefix import Prefix, advance, embedded, keeping_cache, plain, positions_of, sees_all
from methods.inputs.prompts import Prompts


def completion_states(model: Any, prefix: Prefix, rows: Tensor, completions: Tensor, mask: Tensor) -> Tensor:
    """The hidden state that predicts each completion token, [N, L, H]; with or without gradients.

    Args:
        model: the model that made the prefix.
        prefix: of the prompts.
        rows: which of them each completion follows, [N].
        completions: completion tokens, right-padded, [N, L].
        mask: 1 for real completion tokens, [N, L].
    """
    hidden = prefix.last[rows, None]  # [N, 1, H] predicts the first token
    if completions.shape[1] == 1:
        return hidden
    order, group = laid_out(rows)
    fed = completions[:, :-1]
    attention = plain(model).model.language_model.config._attn_implementation
    if in_one_row(group, prefix.mask.shape[1], fed.shape[1], attention) and sees_all(model):
        rest = _in_one_row(model, prefix, order, group, fed)
    else:
        rest = advance(model, prefix.repeated(rows), fed, mask[:, :-1])
    return torch.cat([hidden, rest], dim=1)


def laid_out(rows: Tensor) -> tuple[Tensor, int]:
    """Prompts in an order in which each is followed by as many rows, and how many: rows [N] name their prompts.

    Where runs of rows of one prompt differ in length, every row has its prompt for itself.
    """
    order, counts = torch.unique_consecutive(rows, return_counts=True)
    group = len(rows) // len(order)
    return (order, group) if bool((counts == group).all()) else (rows, 1)


def _in_one_row(model: Any, prefix: Prefix, order: Tensor, group: int, tokens: Tensor) -> Tensor:
    """Hidden states of completion tokens [B * G, T], those of a prompt side by side in one row, [B * G, T, H]."""
    count, length, device = len(order), tokens.shape[1], tokens.device
    step, owner = (torch.arange(size, device=device) for size in (length, group))
    step, owner = step.repeat(group), owner.repeat_interleave(length)
    own = (owner[:, None] == owner) & (step[:, None] >= step)  # [G * T, G * T]
    prompts = prefix.mask[order].bool()[:, None, None].expand(-1, -1, group * length, -1)
    backbone = plain(model).model
    with keeping_cache(backbone.language_model):
        outputs = backbone(
            input_ids=tokens.reshape(count, -1),
            attention_mask={"full_attention": torch.cat([prompts, own.expand(count, 1, -1, -1)], dim=-1)},
            position_ids=(prefix.next_position[order, None] + step).expand(3, -1, -1),
            past_key_values=DynamicCache([(keys[order], values[order]) for keys, values in prefix.layers]),
            use_cache=True,
        )
    return outputs.last_hidden_state.view(count * group, length, -1)  # type: ignore[no-any-return]


def checkpointed_states(model: Any, prompts: Prompts, rows: Tensor, completions: Tensor, mask: Tensor) -> Tensor:
    """As ``completion_states``, of B prompts (none twice) by a model whose layers are checkpointed; with gradients."""
    backbone = plain(model).model
    language = backbone.language_model
    prompt, positions = embedded(backbone, prompts), positions_of(backbone, prompts)  # [B, P, H], [3, B, P]
    before = layer_arguments(language, prompt, prompts.mask, positions)
    length = completions.shape[1]
    fed = max(1, length - 1)  # the last token predicts none, but layers want one
    steps = torch.arange(fed, device=mask.device)
    after_prompt = (positions[:, :, -1].amax(dim=0)[rows, None] + 1 + steps).expand(3, -1, -1)  # [3, N, L - 1]
    behind = backbone.get_input_embeddings()(completions[:, :fed])
    seen = torch.cat([prompts.mask[rows], mask[:, :fed].to(prompts.mask.dtype)], dim=1)
    after = layer_arguments(language, behind, seen, after_prompt, prompts.mask.shape[1])
    for layer in language.layers:
        prompt, behind = checkpoint(_layer, layer, prompt, behind, rows, before, after, use_reentrant=False)
    last, hidden = language.norm(prompt[:, -1]), language.norm(behind)
    meter = meter_of(model)  # watches calls of the whole model, and this was none
    (count, width), written = prompts.ids.shape, behind.shape[1]
    meter.passed(count, width, width, prompts.mask, behind)
    meter.passed(len(behind), written, seen.shape[1], None, behind)
    meter.prefilled(prompts.mask)
    return torch.cat([last[rows, None], hidden], dim=1)[:, :length]


def layer_arguments(
    language: Any, hidden: Tensor, mask: Tensor, positions: Tensor, behind: int | None = None
) -> dict[str, Any]:
    """What each layer is given beside hidden states [N, T, H] of tokens behind so many of a prompt, or a prompt's own.

    ``mask`` is of all that they see, ``positions`` M-RoPE, [3, N, T].
    """
    cache = None
    if behind is not None:  # a cache of that length, of which only the length is looked at
        nothing = hidden.new_zeros(1, 1, 1, 1).expand(len(hidden), 1, behind, 1)
        cache = DynamicCache([(nothing, nothing)] * len(language.layers))
    seen = create_causal_mask(config=language.config, inputs_embeds=hidden, attention_mask=mask, past_key_values=cache)
    return {"attention_mask": seen, "position_embeddings": language.rotary_emb(hidden, positions)}


@dataclass(slots=True)
class CacheOfOneLayer:
    """Stands in for a cache while one layer runs: gives the keys and values before, and keeps those that are new."""

    before: tuple[Tensor, ...] = ()
    new: tuple[Tensor, ...] = ()

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, ...]:
        self.new = (keys, values)
        if not self.before:
            return self.new
        return tuple(torch.cat(pair, dim=2) for pair in zip(self.before, self.new, strict=True))


def _layer(
    layer: Any, prompt: Tensor, behind: Tensor, rows: Tensor, before: dict[str, Any], after: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """One layer over the prompts, and over what follows them."""
    cache = CacheOfOneLayer()
    with keeping_cache(layer):
        prompt = layer(prompt, past_key_values=cache, use_cache=True, **before)
        keys, values = cache.new
        cache.before = (keys[rows], values[rows])
        behind = layer(behind, past_key_values=cache, use_cache=True, **after)
    return prompt, behind


def token_logps(
    model: Any, hidden: Tensor, tokens: Tensor, mask: Tensor, temperature: float, largest: int = LARGEST
) -> tuple[Tensor, Tensor]:
    """Log-probability of every token [N, L], and the entropy where it was drawn, [N, L] each; 0 where the mask is.

    ``hidden`` has the states that predict the tokens, [N, L, H], the logits are divided by ``temperature``; a table of
    tokens times vocabulary has at most ``largest`` numbers.
    """
    real, head = mask.bool(), plain(model).get_output_embeddings()
    size = max(1, largest // head.out_features)
    parts = list(zip(torch.split(hidden[real], size), torch.split(tokens[real], size), strict=True))
    again = len(parts) > 1 and torch.is_grad_enabled()
    table = partial(checkpoint, _table_part, use_reentrant=False) if again else _table_part
    found = [table(head, states, chosen, temperature) for states, chosen in parts]
    logps, entropies = (torch.cat(values) for values in zip(*found, strict=True))
    nothing = logps.new_zeros(tokens.shape)
    return nothing.masked_scatter(real, logps), nothing.masked_scatter(real, entropies)


def _table_part(head: Any, hidden: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The same of tokens in a row, [n, H] and [n] to [n] each; the entropy has no gradient."""
    logps = (head(hidden).float() / temperature).log_softmax(dim=-1)
    with torch.no_grad():
        entropy = -(logps.exp() * logps).sum(dim=-1)
    return logps.gather(1, tokens[:, None]).squeeze(1), entropy
