"""How much a training is: updates, and rows of each."""

from __future__ import annotations

import math

from methods.base import Method
from methods.settings import TrainConfig


def planned_updates(method: Method, train: TrainConfig, examples: int) -> int:
    """Updates that the budget comes to; rollouts leave out an epoch's last examples that fill no batch."""
    if train.epochs is None:
        return train.updates
    batches = examples / train.prompts_per_update
    if method.family == "supervised":
        return math.ceil(train.epochs * math.ceil(batches))
    return math.ceil(train.epochs * math.floor(batches) * int(method.config.updates_per_batch))


def rows_per_update(method: Method, train: TrainConfig) -> int:
    """Completions that one optimizer step trains on."""
    return train.prompts_per_update * int(getattr(method.config, "group_size", 1))
