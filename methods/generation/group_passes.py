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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from methods.costs.meter import meter_of
from methods.generation.completion_logps import checkpointed_logps, completion_logps, completion_states
from methods.generation.rollout import Sampling, sample_after
from methods.generation.shared_prefix import Prefix, is_checkpointed, prefill
from methods.generation.static_decode import StaticSteps, sample_static
from methods.inputs.encoding import encoded_turns, prompts_in
from methods.inputs.prompts import Prompts

Row = Mapping[str, Any]  # of the dataset: prompt, images, clips, key
Parts = Callable[[], Iterator[tuple[tuple[str, ...], Prompts]]]


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

    def ids(self) -> list[list[int]]:
        """Prompt tokens of every rollout, without padding."""
        lists = [ids[mask.bool()].tolist() for ids, mask in zip(self.prompts.ids, self.prompts.mask, strict=True)]
        return [list(lists[place]) for place in self.rows.tolist()]

    def repeated(self, rows: Tensor, completion: int = 0) -> dict[str, Tensor]:
        """What a model that shares nothing gets beside the tokens, for rollouts with so many completion tokens."""
        prompts = self.prompts.select(self.rows[rows])
        return {"mm_token_type_ids": pad(prompts.token_types, (0, completion)), **prompts.fields}

    def release(self) -> None:
        """Let go of what the policy has computed."""
        self.policy = self.learned = None


def encoded(rows: Sequence[Row], processor: Any, model_config: Any, device: torch.device) -> Prompts:
    """Rows of the dataset as prompts, in their order."""
    media = [list(row.get("clips") or row.get("images") or ()) for row in rows]
    turns = [(row["prompt"], shown) for row, shown in zip(rows, media, strict=True)]
    batch = encoded_turns(processor, turns).to(device)
    return prompts_in(
        batch,
        [len(row.get("images") or ()) for row in rows],
        [len(row.get("clips") or ()) for row in rows],
        model_config,
    )


def regrouped(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Micro-batches of the same rollouts in the order in which they were sampled: a part has few prompts, not all.

    ``parts`` are in TRL's layout; ``rollout`` numbers the rollouts of the batch, [n].
    """
    order = torch.argsort(torch.cat([part["rollout"] for part in parts]))
    rows = len(parts[0]["rollout"])

    def column_of(name: str) -> list[Any]:
        values = [part[name] for part in parts]
        if not isinstance(values[0], Tensor) or values[0].dim() == 0 or len(values[0]) != rows:
            return values
        return list(torch.split(torch.cat(values)[order], rows))

    columns = {name: column_of(name) for name in parts[0]}
    return [{name: column[place] for name, column in columns.items()} for place in range(len(parts))]


class Shown:
    """A model that is called with some rollouts of a batch after the other, each time with their images or clips."""

    def __init__(self, model: Any, batch: GroupBatch, rows: Tensor) -> None:
        self.model = model
        self.batch = batch
        self.rows = rows
        self.done = 0

    def __call__(self, **inputs: Any) -> Any:
        count, width = inputs["input_ids"].shape
        now = slice(self.done, self.done + count)
        self.done = now.stop
        fields = self.batch.repeated(self.rows[now], width - self.batch.prompts.ids.shape[1])
        return self.model(**{**inputs, **fields})


class FrozenPrefixes:
    """Prefixes of a task's prompts in some frozen models.

    Args:
        parts: the task's prompts and their keys, in parts; asked for once for each model.
        limit: bytes that are kept of all models together.
    """

    again = False  # the task's training is gone on with, so that what is computed ahead was counted before

    def __init__(self, parts: Parts, limit: int) -> None:
        self.parts = parts
        self.room = limit
        self.kept: dict[str, dict[str, Prefix]] = {}

    @torch.no_grad()
    def of(self, name: str, model: Any, keys: Sequence[str], prompts: Prompts) -> Prefix:
        """The prefix of some prompts, none twice, and their keys in a frozen model of that name, in force now."""
        if name not in self.kept:
            ahead: dict[str, Prefix] = {}
            with meter_of(model).paused() if self.again else nullcontext():
                for part, encoded_part in self.parts():
                    rows = prefill(model, encoded_part).rows()
                    size = sum(row.bytes for row in rows)
                    if size > self.room:
                        break
                    self.room -= size
                    ahead |= zip(part, rows, strict=True)
            self.kept[name] = ahead
        kept = self.kept[name]
        missing = [place for place, key in enumerate(keys) if key not in kept]
        if len(missing) == len(keys):
            return prefill(model, prompts)
        rest: dict[str, Prefix] = {}
        if missing:
            computed = prefill(model, prompts.select(torch.tensor(missing, device=prompts.ids.device)))
            rest = dict(zip([keys[place] for place in missing], computed.rows(), strict=True))
        return Prefix.joined([kept[key] if key in kept else rest[key] for key in keys])


def no_parts() -> Iterator[tuple[tuple[str, ...], Prompts]]:
    """Nothing is computed ahead."""
    return iter(())


def in_parts(length: int, size: int, encode: Callable[[range], tuple[tuple[str, ...], Prompts]]) -> Parts:
    """A dataset's rows, ``size`` at a time."""
    return lambda: (encode(range(start, min(start + size, length))) for start in range(0, length, size))


@dataclass(slots=True)
class GroupPasses:
    """How the passes of a training's updates are made."""

    temperature: float  # of sampling; logits are divided by it
    frozen: FrozenPrefixes
    once: bool  # each batch of rollouts is learned from in one go, so that one pass with gradients serves all
    size: int  # rollouts in a pass without gradients
    steps: StaticSteps | None = None  # recorded steps to decode with; None: the cache grows

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
        """Log-probabilities of all completions under the policy that sampled them, [N, L], detached.

        With ``once`` they are computed with gradients all the same, and the graph is kept in ``batch.learned`` until
        ``learned`` hands it to the loss.
        """
        if not self.once:
            return self._no_grad_logps(model, self.sampled(batch), batch, completions, mask)
        if batch.learned is None:
            with torch.enable_grad():
                batch.learned = self._grad_logps(model, batch, batch.rows, completions, mask)
        return batch.learned[0].detach()

    def anew(self, model: Any, batch: GroupBatch, completions: Tensor, mask: Tensor) -> Tensor:
        """As ``scored``, of other completions of the same prompts; nothing is kept for the loss."""
        return self._no_grad_logps(model, self.sampled(batch), batch, completions, mask)

    def frozen_scored(self, name: str, model: Any, batch: GroupBatch, completions: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities of all completions under a frozen model, in force now, [N, L]."""
        prefix = self.frozen.of(name, model, batch.keys, batch.prompts)
        return self._no_grad_logps(model, prefix, batch, completions, mask)

    def learned(
        self, model: Any, batch: GroupBatch, rollouts: Tensor, completions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of some rollouts with gradients, [n, L] each; a kept graph is used up."""
        if batch.learned is not None:
            logps, entropies = batch.learned
            meter_of(model).asked(batch.prompts.mask[batch.rows[rollouts]])  # a pass of its own, if it were not shared
            batch.release()
            return logps[rollouts], entropies[rollouts]
        found = self._grad_logps(model, batch, batch.rows[rollouts], completions, mask)
        if self.once:
            batch.release()
        return found

    def _grad_logps(
        self, model: Any, batch: GroupBatch, rows: Tensor, completions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """With gradients; from what the policy has computed of the prompts, where that has gradients."""
        if batch.policy is not None and batch.policy.last.requires_grad:
            return self._logps(model, batch.policy, rows, completions, mask)
        used, places = torch.unique(rows, return_inverse=True)
        prompts = batch.prompts.select(used)
        if not is_checkpointed(model):
            return self._logps(model, prefill(model, prompts), places, completions, mask)
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
    def _no_grad_logps(
        self, model: Any, prefix: Prefix, batch: GroupBatch, completions: Tensor, mask: Tensor
    ) -> Tensor:
        parts = torch.split(torch.arange(len(batch.rows), device=mask.device), self.size)
        return torch.cat([self._logps(model, prefix, batch.rows[p], completions[p], mask[p])[0] for p in parts])

    def _logps(
        self, model: Any, prefix: Prefix, rows: Tensor, completions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        meter_of(model).asked(prefix.mask[rows])
        return completion_logps(model, prefix, rows, completions, mask, self.temperature)
