"""The passes of one update over its rollouts: every prompt is encoded, and run through each model, once.

Images and clips are carried past TRL, which would process them again for every rollout, and knows no clips; rows of
TRL's batch name their prompt by number. The policy's prompts are computed before its rollouts are sampled; sampling and
log-probabilities go on from them. Where each batch is learned from once, the policy's log-probabilities are computed
with gradients the first time they are asked for, and that graph is kept for the loss: one pass serves drift and loss.

What a task's prompts leave behind in frozen models is computed once for the task, not once an update: anchor and
reference stay as they are meanwhile, and few-shot tasks ask about each example many times. These prompts are computed
ahead, in the order of the dataset and in parts of a fixed size, so that a training that goes on from a state has the
same bits. What does not fit into the limit is computed when it is asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from methods.costs.meter import meter_of
from methods.generation.completion_logps import checkpointed_states, completion_states, token_logps
from methods.generation.rollout import Sampling, sample_after
from methods.generation.shared_prefix import Prefix, is_checkpointed, prefill
from methods.generation.static_decode import StaticSteps, sample_static
from methods.inputs.encoding import encoded_turns, prompts_in
from methods.inputs.prompts import Prompts

Row = Mapping[str, Any]  # of the dataset: prompt, images, clips, key


@dataclass(slots=True)
class GroupBatch:
    """N rollouts of B prompts."""

    prompts: Prompts  # each once, in the order of their first rollout
    keys: tuple[str, ...]  # item key of each prompt, B of them
    rows: Tensor  # which prompt each rollout has, [N]
    policy: Prefix | None = None  # what the prompts left in the policy that sampled; None before, and once used up
    learned: tuple[Tensor, Tensor] | None = None  # logps and entropies of all rollouts with their graph, for the loss

    @classmethod
    def of(cls, rows: Sequence[Row], processor: Any, model_config: Any, device: torch.device) -> "GroupBatch":
        """The batch of some rows of the dataset; those with the same key share their prompt."""
        first: dict[str, Row] = {}
        for row in rows:
            first.setdefault(row["key"], row)
        keys = tuple(first)
        places = torch.tensor([keys.index(row["key"]) for row in rows], device=device)
        return cls(encoded(list(first.values()), processor, model_config, device), keys, places)

    def part(self, rollouts: slice) -> "GroupBatch":
        """Some adjacent rollouts with their prompts, as a batch of its own; itself where that is all of them."""
        rows = self.rows[rollouts]
        if len(rows) == len(self.rows):
            return self
        used, places = torch.unique(rows, return_inverse=True)
        return GroupBatch(self.prompts.select(used), tuple(self.keys[place] for place in used.tolist()), places)

    def repeated(self, rows: Tensor, completion: int = 0) -> dict[str, Tensor]:
        """What a model that shares nothing gets beside the tokens, for rollouts with so many completion tokens."""
        prompts = self.prompts.select(self.rows[rows])
        return {"mm_token_type_ids": pad(prompts.token_types, (0, completion)), **prompts.fields}


def encoded(rows: Sequence[Row], processor: Any, model_config: Any, device: torch.device) -> Prompts:
    """Rows of the dataset as prompts, in their order."""
    media = [list(row.get("clips") or row.get("images") or ()) for row in rows]
    turns = [(row["prompt"], shown) for row, shown in zip(rows, media, strict=True)]
    images, clips = ([len(row.get(kind) or ()) for row in rows] for kind in ("images", "clips"))
    return prompts_in(encoded_turns(processor, turns).to(device), images, clips, model_config)


def regrouped(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Micro-batches of the same rollouts in the order in which they were sampled: a part has few prompts, not all.

    ``parts`` are in TRL's layout; ``rollout`` numbers the rollouts of the batch, [n].
    """
    order = torch.argsort(torch.cat([part["rollout"] for part in parts]))
    rows = len(parts[0]["rollout"])
    columns: dict[str, list[Any]] = {}
    for name, first in parts[0].items():
        columns[name] = [part[name] for part in parts]
        if isinstance(first, Tensor) and first.dim() > 0 and len(first) == rows:
            columns[name] = list(torch.split(torch.cat(columns[name])[order], rows))
    return [{name: column[place] for name, column in columns.items()} for place in range(len(parts))]


def showing(model: Any, batch: GroupBatch, rows: Tensor) -> Callable[..., Any]:
    """A model that is called with some rollouts of a batch after the other, each time with their images or clips."""
    left = rows

    def call(**inputs: Any) -> Any:
        nonlocal left
        count, width = inputs["input_ids"].shape
        fields = batch.repeated(left[:count], width - batch.prompts.ids.shape[1])
        left = left[count:]
        return model(**{**inputs, **fields})

    return call


@dataclass(slots=True)
class FrozenPrefixes:
    """Prefixes of a task's prompts in some frozen models."""

    parts: Callable[[], Iterable[tuple[tuple[str, ...], Prompts]]]  # the prompts and their keys; asked for once a model
    room: int  # bytes that are left for what is kept, of all models together
    again: bool = False  # the task's training is gone on with, so that what is computed ahead was counted before
    kept: dict[str, dict[str, Prefix]] = field(default_factory=dict)  # of each model by item key

    @torch.no_grad()
    def of(self, name: str, model: Any, keys: Sequence[str], prompts: Prompts) -> Prefix:
        """The prefix of some prompts, none twice, and their keys in a frozen model of that name, in force now."""
        if name not in self.kept:
            ahead = self.kept[name] = {}
            with meter_of(model).paused() if self.again else nullcontext():
                for part, encoded_part in self.parts():
                    rows = prefill(model, encoded_part).rows()
                    size = sum(row.bytes for row in rows)
                    if size > self.room:
                        break
                    self.room -= size
                    ahead |= zip(part, rows, strict=True)
        kept = self.kept[name]
        missing = [place for place, key in enumerate(keys) if key not in kept]
        if len(missing) == len(keys):
            return prefill(model, prompts)
        rest: dict[str, Prefix] = {}
        if missing:
            computed = prefill(model, prompts.select(torch.tensor(missing, device=prompts.ids.device)))
            rest = dict(zip([keys[place] for place in missing], computed.rows(), strict=True))
        return Prefix.joined([kept[key] if key in kept else rest[key] for key in keys])


@dataclass(slots=True)
class GroupPasses:
    """How the passes of a training's updates are made."""

    temperature: float  # of sampling; logits are divided by it
    frozen: FrozenPrefixes
    once: bool  # each batch of rollouts is learned from in one go, so that one pass with gradients serves all
    size: int  # rollouts in a pass without gradients
    steps: StaticSteps | None = None  # recorded steps to decode with; None: the cache grows

    def begin(self, model: Any, batch: GroupBatch) -> Prefix:
        """Compute the prompts of a new batch, which its rollouts follow."""
        with torch.set_grad_enabled(self.once and not is_checkpointed(model)):
            batch.policy = prefill(model, batch.prompts)
        return batch.policy

    @torch.no_grad()
    def sample(self, model: Any, batch: GroupBatch, sampling: Sampling) -> list[list[int]]:
        """A completion of every rollout of a new batch, as token lists."""
        prefix = self.begin(model, batch)
        meter_of(model).asked(batch.prompts.mask[batch.rows])
        if self.steps is None:
            return sample_after(model, prefix.repeated(batch.rows), sampling)
        return sample_static(self.steps, model, prefix, batch.rows, sampling)

    @torch.no_grad()
    def told(
        self, whose: str, model: Any, batch: GroupBatch, completions: Tensor, mask: Tensor, states: bool = False
    ) -> Tensor:
        """Log-probabilities of all completions, [N, L], by the ``policy`` that sampled or a frozen model, in force now.

        Nothing is kept for the loss. With ``states`` the hidden states that predict their tokens, [N, L, H].
        """
        prefix = batch.policy if whose == "policy" else self.frozen.of(whose, model, batch.keys, batch.prompts)
        if prefix is None:
            raise RuntimeError("the policy's prompts were used up by the loss")
        found = []
        for part in torch.split(torch.arange(len(batch.rows), device=mask.device), self.size):
            rows, tokens, real = batch.rows[part], completions[part], mask[part]
            meter_of(model).asked(prefix.mask[rows])
            hidden = completion_states(model, prefix, rows, tokens, real)
            found.append(hidden if states else token_logps(model, hidden, tokens, real, self.temperature)[0])
        return torch.cat(found)

    def scored(self, model: Any, batch: GroupBatch, completions: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities of all completions under the policy that sampled them, [N, L], detached.

        With ``once`` they are computed with gradients all the same, and the graph is kept in ``batch.learned`` until
        ``learned`` hands it to the loss.
        """
        if not self.once:
            return self.told("policy", model, batch, completions, mask)
        if batch.learned is None:
            with torch.enable_grad():
                batch.learned = self._with_gradients(model, batch, batch.rows, completions, mask)
        return batch.learned[0].detach()

    def learned(
        self, model: Any, batch: GroupBatch, rollouts: Tensor, completions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of some rollouts with gradients, [n, L] each; a kept graph is used up."""
        if batch.learned is None:
            logps, entropies = self._with_gradients(model, batch, batch.rows[rollouts], completions, mask)
        else:
            meter_of(model).asked(batch.prompts.mask[batch.rows[rollouts]])  # a pass of its own, if it were not shared
            logps, entropies = (values[rollouts] for values in batch.learned)
        if self.once:
            batch.policy = batch.learned = None
        return logps, entropies

    def _with_gradients(
        self, model: Any, batch: GroupBatch, rows: Tensor, completions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From what the policy has computed of the prompts, where that has gradients; else from the prompts."""
        prefix = batch.policy
        if prefix is None or not prefix.last.requires_grad:
            used, rows = torch.unique(rows, return_inverse=True)
            prompts = batch.prompts.select(used)
            if is_checkpointed(model):
                meter_of(model).asked(prompts.mask[rows])
                hidden = checkpointed_states(model, prompts, rows, completions, mask)
                return token_logps(model, hidden, completions, mask, self.temperature)
            prefix = prefill(model, prompts)
        meter_of(model).asked(prefix.mask[rows])
        hidden = completion_states(model, prefix, rows, completions, mask)
        return token_logps(model, hidden, completions, mask, self.temperature)
