"""What models say about a step's rollouts beyond the log-probabilities of their tokens: computed when it is asked for.

Hidden states are those from which the tokens were predicted, read where they enter the output head. Nothing here has
gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from methods.base import Whose
from methods.generation.rollout import right_padded
from methods.generation.shared_prefix import plain

TYPE_FIELDS = ("mm_token_type_ids", "token_type_ids")  # one value for every token of prompt and completion


@dataclass(slots=True)
class StepViews:
    """The views of one step, of one process."""

    output: Mapping[str, Any]  # the scored batch in TRL's layout
    tokens: Tensor  # completion tokens, right-padded, [B*G, L]
    model: Any  # the policy
    states: Callable[[Whose, Mapping[str, Any]], Tensor]  # hidden states of the batch's completions
    logps: Callable[[Mapping[str, Any]], Tensor]  # log-probabilities of a batch's completions under the policy
    tokenizer: Any
    _hidden: dict[Whose, Tensor] = field(default_factory=dict)

    @property
    def head(self) -> Tensor:
        """Weights of the policy's output head, [V, H]."""
        return plain(self.model).get_output_embeddings().weight.detach()  # type: ignore[no-any-return]

    def hidden(self, whose: Whose) -> Tensor:
        """The hidden state that predicts each completion token, [B*G, L, H].

        Raises:
            UserError: the model's pass cannot be watched.
        """
        if whose not in self._hidden:
            self._hidden[whose] = self.states(whose, self.output)
        return self._hidden[whose]

    @torch.no_grad()
    def continuation_logps(self, prefixes: Sequence[str], continuations: Sequence[str]) -> Tensor:
        """Mean log-probability of the tokens of a text that follows each row's prompt and a prefix, [B*G]."""
        before, after = (
            self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] for texts in (prefixes, continuations)
        )
        device = self.tokens.device
        rows = [[*first, *second] for first, second in zip(before, after, strict=True)]
        asked = [[0] * len(first) + [1] * len(second) for first, second in zip(before, after, strict=True)]
        ids = right_padded(rows, device)
        batch = {
            **self.output,
            "completion_ids": ids,
            "completion_mask": right_padded([[1] * len(row) for row in rows], device),
        }
        prompt = batch["prompt_ids"].shape[1]
        for name in TYPE_FIELDS:
            if name in batch:
                batch[name] = torch.cat([batch[name][:, :prompt], torch.zeros_like(ids)], dim=1)
        counted = right_padded(asked, device)
        return (self.logps(batch) * counted).sum(dim=1) / counted.sum(dim=1)
