"""First-order features of completions: how each would move the policy, seen at the input of its output head.

``phi = mean_t W^T (e(y_t) - p_t)``, the gradient of a completion's mean log-probability by the last hidden states,
from one pass without gradients (arXiv 2512.15687; its weights over tokens are taken as equal).
"""

from __future__ import annotations

from collections.abc import Iterator

from methods.base import Rollouts
from methods.lazy import Tensor, no_grad, torch


@no_grad
def gradient_features(rollouts: Rollouts) -> Tensor:
    """One feature for every completion, [B*G, H], in float32; row by row, for the logits of all would be large."""
    return torch.stack([gradients.mean(dim=0) for gradients, _ in token_gradients(rollouts)])


def token_gradients(rollouts: Rollouts) -> Iterator[tuple[Tensor, Tensor]]:
    """Of one completion after the other: ``W^T (e(y_t) - p_t)`` and the hidden states of its tokens, [T, H] each."""
    views = rollouts.views
    if views is None:
        raise RuntimeError("no views: gradient features are undefined")
    head = views.head.float()
    for hidden, tokens, mask in zip(views.hidden("policy").float(), views.tokens, rollouts.mask.bool(), strict=True):
        states = hidden[mask]
        yield head[tokens[mask]] - (states @ head.T).softmax(dim=-1) @ head, states
