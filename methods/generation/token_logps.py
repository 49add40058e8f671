"""Log-probabilities of tokens from hidden states: logits exist where a token is, and for a bounded number at a time.

With gradients and more than one part, the logits of a part are computed again in the backward pass instead of kept:
at a vocabulary of 150,000 those of 4,000 tokens are 2.4 GB in float32, several times over.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LARGEST = 2**25  # numbers in a table of tokens times vocabulary: 128 MiB in float32


def token_logps(
    head: Any, hidden: Tensor, tokens: Tensor, mask: Tensor, temperature: float, largest: int = LARGEST
) -> tuple[Tensor, Tensor]:
    """Log-probability of every token, and the entropy where it was drawn, [N, L] each; 0 where the mask is.

    Args:
        head: the output head.
        hidden: states that predict the tokens, [N, L, H].
        tokens: [N, L].
        mask: 1 for real tokens, [N, L].
        temperature: the logits are divided by it.
        largest: numbers in a table of tokens times vocabulary.
    """
    real = mask.bool()
    size = max(1, largest // head.out_features)
    parts = list(zip(torch.split(hidden[real], size), torch.split(tokens[real], size), strict=True))
    again = len(parts) > 1 and torch.is_grad_enabled()
    found = [
        checkpoint(_part, head, states, chosen, temperature, use_reentrant=False)
        if again
        else _part(head, states, chosen, temperature)
        for states, chosen in parts
    ]
    logps, entropies = (torch.cat(values) for values in zip(*found, strict=True))
    nothing = logps.new_zeros(tokens.shape)
    return nothing.masked_scatter(real, logps), nothing.masked_scatter(real, entropies)


def _part(head: Any, hidden: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The same of tokens in a row, [n, H] and [n] to [n] each; the entropy has no gradient."""
    logps = (head(hidden).float() / temperature).log_softmax(dim=-1)
    with torch.no_grad():
        entropy = -(logps.exp() * logps).sum(dim=-1)
    return logps.gather(1, tokens[:, None]).squeeze(1), entropy
