"""The passes of one update over its rollouts, each prompt computed once per model.

The policy's prompts are computed before its rollouts are sampled, which follow them; so do the completions when their
log-probabilities are asked for. Where each batch is learned from once, that is done with gradients: drift and loss are
of one pass. What prompts leave behind in frozen models is kept for the task (``frozen_prefixes.py``).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.costs.meter import meter_of
from methods.generation.checkpointed import checkpointed_logps
from methods.generation.completion_logps import completion_states, following_logps
from methods.generation.frozen_prefixes import FrozenPrefixes
from methods.generation.group_batch import GroupBatch
from methods.generation.rollout import Sampling, sample_after
from methods.generation.shared_prefix import Prefix, is_checkpointed, prefill
from methods.generation.static_decode import StaticSteps, sample_static


@dataclass(slots=True)
class GroupPasses:
    """How the passes of a training's updates are made.

    Attributes:
        temperature: of sampling; logits are divided by it.
        frozen: what the task's prompts leave behind in frozen models.
        once: each batch of rollouts is learned from in one go, so that one pass with gradients serves all.
        size: rollouts in a pass without gradients.
        steps: recorded steps to decode with; None: the cache grows.
    """

    temperature: float
    frozen: FrozenPrefixes
    once: bool
    size: int
    steps: StaticSteps | None = None

    def begin(self, model: Any, batch: GroupBatch) -> None:
        """Compute the prompts of a new batch, which its rollouts follow."""
        with torch.set_grad_enabled(self.once and not is_checkpointed(model)):
            batch.policy = prefill(model, batch.prompts)

    def sample(self, model: Any, batch: GroupBatch, sampling: Sampling) -> list[list[int]]:
        """A completion of every rollout of a batch that was begun, as token lists."""
        meter_of(model).asked(batch.prompts.mask[batch.rows])
        prefix = self.sampled(batch).detached()
        if self.steps is None:
            return sample_after(model, prefix.repeated(batch.rows), sampling)
        return sample_static(self.steps, model, prefix, batch.rows, sampling)

    def scored(self, model: Any, batch: GroupBatch, completions: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities of all completions under the policy that sampled them, [N, L]; no gradients to be seen."""
        if not self.once:
            return self._without_gradients(model, self.sampled(batch), batch, completions, mask)
        if batch.learned is None:
            with torch.enable_grad():
                batch.learned = self._with_gradients(model, batch, batch.rows, completions, mask)
        return batch.learned[0].detach()

    def anew(self, model: Any, batch: GroupBatch, completions: Tensor, mask: Tensor) -> Tensor:
        """As ``scored``, of other completions of the same prompts; nothing is kept for the loss."""
        return self._without_gradients(model, self.sampled(batch), batch, completions, mask)

    def frozen_scored(self, name: str, model: Any, batch: GroupBatch, completions: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities of all completions under a frozen model, in force now, [N, L]."""
        prefix = self.frozen.of(name, model, batch.keys, batch.prompts)
        return self._without_gradients(model, prefix, batch, completions, mask)

    def learned(
        self, model: Any, batch: GroupBatch, rollouts: Tensor, completions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of some rollouts with gradients, [n, L] each; what was kept is used up."""
        if batch.learned is not None:
            logps, entropies = batch.learned
            meter_of(model).asked(batch.prompts.mask[batch.rows[rollouts]])  # a pass of its own, if it were not shared
            batch.release()
            return logps[rollouts], entropies[rollouts]
        found = self._with_gradients(model, batch, batch.rows[rollouts], completions, mask)
        if self.once:
            batch.release()
        return found

    def _with_gradients(
        self, model: Any, batch: GroupBatch, rows: Tensor, completions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of completions of some of the prompts; by what the policy has computed of them where that has gradients."""
        if batch.policy is not None and batch.policy.last.requires_grad:
            return self._following(model, batch.policy, rows, completions, mask)
        used, places = torch.unique(rows, return_inverse=True)
        prompts = batch.prompts.select(used)
        if not is_checkpointed(model):
            return self._following(model, prefill(model, prompts), places, completions, mask)
        meter_of(model).asked(prompts.mask[places])
        return checkpointed_logps(model, prompts, places, completions, mask, self.temperature)

    @torch.no_grad()
    def states(self, model: Any, prefix: Prefix, batch: GroupBatch, completions: Tensor, mask: Tensor) -> Tensor:
        """The hidden state that predicts each completion token, [N, L, H]."""
        parts = []
        for part in torch.split(torch.arange(len(batch.rows), device=mask.device), self.size):
            rows = batch.rows[part]
            meter_of(model).asked(prefix.mask[rows])
            parts.append(completion_states(model, prefix, rows, completions[part], mask[part]))
        return torch.cat(parts)

    def sampled(self, batch: GroupBatch) -> Prefix:
        """What a batch's prompts left behind in the policy that sampled."""
        if batch.policy is None:
            raise RuntimeError("the policy's prompts were used up by the loss")
        return batch.policy

    @torch.no_grad()
    def _without_gradients(
        self, model: Any, prefix: Prefix, batch: GroupBatch, completions: Tensor, mask: Tensor
    ) -> Tensor:
        parts = torch.split(torch.arange(len(batch.rows), device=mask.device), self.size)
        return torch.cat([self._following(model, prefix, batch.rows[p], completions[p], mask[p])[0] for p in parts])

    def _following(
        self, model: Any, prefix: Prefix, rows: Tensor, completions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        meter_of(model).asked(prefix.mask[rows])
        return following_logps(model, prefix, rows, completions, mask, self.temperature)
