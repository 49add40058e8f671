"""Completions behind prompts that were computed: hidden states and log-probabilities, with or without gradients.

A group's completions run as one row behind their prompt, none of which sees another: so its keys and values are there
once. Where the group is long beside its prompt, most of that row would not be seen; then each completion is a row of
its own, behind a copy.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from methods.generation.shared_prefix import Prefix, advance, keeping_cache, plain, sees_all
from methods.generation.token_logps import token_logps

MOST = 1.5  # times as many scores in a group's one row as in rows of their own, at which copying costs more


def following_logps(
    model: Any, prefix: Prefix, rows: Tensor, completions: Tensor, mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of every completion token, and the entropy where it was drawn, [N, L] each.

    Args:
        model: the model that made the prefix; with or without gradients.
        prefix: of the prompts.
        rows: which of them each completion follows, [N].
        completions: completion tokens, right-padded, [N, L].
        mask: 1 for real completion tokens, [N, L].
        temperature: the logits are divided by it.
    """
    hidden = completion_states(model, prefix, rows, completions, mask)
    return token_logps(plain(model).get_output_embeddings(), hidden, completions, mask, temperature)


def completion_states(model: Any, prefix: Prefix, rows: Tensor, completions: Tensor, mask: Tensor) -> Tensor:
    """The hidden state that predicts each completion token, [N, L, H]; arguments as in ``following_logps``."""
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


def in_one_row(group: int, prompt: int, completion: int, attention: str) -> bool:
    """Whether completions of so many tokens behind a prompt are computed in one row, by an attention of that name.

    It must take any mask, and most of what it goes through must be there to be seen.
    """
    alone, together = prompt + completion, prompt + group * completion
    return group > 1 and together <= MOST * alone and attention == "sdpa"


def _in_one_row(model: Any, prefix: Prefix, order: Tensor, group: int, tokens: Tensor) -> Tensor:
    """Hidden states of completion tokens [B * G, T], those of a prompt side by side in one row, [B * G, T, H]."""
    count, length, device = len(order), tokens.shape[1], tokens.device
    step, owner = (torch.arange(size, device=device) for size in (length, group))
    step, owner = step.repeat(group), owner.repeat_interleave(length)
    own = (owner[:, None] == owner) & (step[:, None] >= step)  # [G * T, G * T]
    prompts = prefix.mask[order].bool()[:, None, None].expand(-1, -1, group * length, -1)
    backbone = plain(model).model
    with keeping_cache(backbone):
        outputs = backbone(
            input_ids=tokens.reshape(count, -1),
            attention_mask={"full_attention": torch.cat([prompts, own.expand(count, 1, -1, -1)], dim=-1)},
            position_ids=(prefix.next_position[order, None] + step).expand(3, -1, -1),
            past_key_values=DynamicCache([(keys[order], values[order]) for keys, values in prefix.layers]),
            use_cache=True,
        )
    return outputs.last_hidden_state.view(count * group, length, -1)  # type: ignore[no-any-return]
