"""The rollouts of one batch by their prompts: every prompt is encoded, and run through a model, once.

Images and clips are carried past TRL, which would process them again for every rollout, and knows no clips. Prompts are
encoded here; rows of TRL's batch name their prompt by number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from methods.generation.shared_prefix import Prefix
from methods.inputs.encoding import encoded_turns, prompts_in
from methods.inputs.prompts import Prompts

Row = Mapping[str, Any]  # of the dataset: prompt, images, clips, key


@dataclass(slots=True)
class GroupBatch:
    """N rollouts of B prompts.

    Attributes:
        prompts: each once, in the order of their first rollout.
        keys: item key of each prompt, B of them.
        rows: which prompt each rollout has, [N].
        policy: what the prompts left behind in the policy that sampled; None before, and once it was used up.
        learned: log-probabilities and entropies of all rollouts with the policy's gradients, for the loss to use up.
    """

    prompts: Prompts
    keys: tuple[str, ...]
    rows: Tensor
    policy: Prefix | None = None
    learned: tuple[Tensor, Tensor] | None = None

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
        """What a model that shares nothing gets beside the tokens, for some of the rollouts.

        Args:
            rows: the rollouts.
            completion: tokens of a completion behind each prompt.
        """
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

    Args:
        parts: in TRL's layout; ``rollout`` numbers the rollouts of the batch, [n].
    """
    order = torch.argsort(torch.cat([part["rollout"] for part in parts]))
    rows = len(parts[0]["rollout"])

    def dealt(name: str) -> list[Any]:
        values = [part[name] for part in parts]
        if not isinstance(values[0], Tensor) or values[0].dim() == 0 or len(values[0]) != rows:
            return values
        return list(torch.split(torch.cat(values)[order], rows))

    columns = {name: dealt(name) for name in parts[0]}
    return [{name: column[place] for name, column in columns.items()} for place in range(len(parts))]


class Shown:
    """A model that is called with some rollouts after the other, each time with their images or clips.

    Args:
        model: what is called.
        batch: whose rollouts.
        rows: the rollouts, in the order in which they come.
    """

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
