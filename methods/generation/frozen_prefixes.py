"""What a task's prompts leave behind in the models that do not learn: computed once for the task, not once an update.

Anchor and reference stay as they are while a task is learned, and few-shot tasks ask about each example many times.
Prompts are computed in the order of the dataset, in parts of a fixed size, before they are used: so a training that is
gone on with from a state has the same bits. What does not fit into the limit is computed when it is asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from methods.costs.meter import meter_of
from methods.generation.shared_prefix import Prefix, prefill
from methods.inputs.prompts import Prompts

Parts = Callable[[], Iterator[tuple[tuple[str, ...], Prompts]]]


class FrozenPrefixes:
    """Prefixes of a task's prompts in some frozen models.

    Args:
        parts: the task's prompts and their keys, in parts; asked for once for each model.
        limit: bytes that are kept of all models together.

    Attributes:
        again: the task's training is gone on with, so that what is computed ahead was counted before.
    """

    again = False

    def __init__(self, parts: Parts, limit: int) -> None:
        self.parts = parts
        self.room = limit
        self.kept: dict[str, dict[str, Prefix]] = {}

    @torch.no_grad()
    def of(self, name: str, model: Any, keys: Sequence[str], prompts: Prompts) -> Prefix:
        """The prefix of some prompts in a frozen model.

        Args:
            name: of the model.
            model: in force now.
            keys: of the prompts.
            prompts: in the same order, none of them twice.
        """
        if name not in self.kept:
            with meter_of(model).paused() if self.again else nullcontext():
                self.kept[name] = self._computed(model)
        kept = self.kept[name]
        missing = [place for place, key in enumerate(keys) if key not in kept]
        if len(missing) == len(keys):
            return prefill(model, prompts)
        rest: dict[str, Prefix] = {}
        if missing:
            computed = prefill(model, prompts.select(torch.tensor(missing, device=prompts.ids.device)))
            rest = dict(zip([keys[place] for place in missing], computed.rows(), strict=True))
        return Prefix.joined([kept[key] if key in kept else rest[key] for key in keys])

    def _computed(self, model: Any) -> dict[str, Prefix]:
        kept: dict[str, Prefix] = {}
        for keys, prompts in self.parts():
            rows = prefill(model, prompts).rows()
            size = sum(row.bytes for row in rows)
            if size > self.room:
                break
            self.room -= size
            kept |= zip(keys, rows, strict=True)
        return kept


def no_parts() -> Iterator[tuple[tuple[str, ...], Prompts]]:
    """Nothing is computed ahead."""
    return iter(())


def in_parts(length: int, size: int, encode: Callable[[range], tuple[tuple[str, ...], Prompts]]) -> Parts:
    """A dataset's rows, ``size`` at a time."""
    return lambda: (encode(range(start, min(start + size, length))) for start in range(0, length, size))
