"""A mixin for trainers of transformers: hands out its state between updates, and goes on from one.

The trainer's own checkpoints are pickled; the methods that write and read them are replaced here. Its order of work
when it goes on (weights, optimizer and schedule, skipped batches, random states before the first new one) stays.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from methods.base import Method
from methods.training_state import TrainingState, put_optimizer, put_random, put_weights, training_state

TRAINER_STATE = "trainer_state.json"  # the name that transformers looks for


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a training's state is kept while it goes on.

    Attributes:
        every: updates between two states.
        keep: called with each state; must not take long.
    """

    every: int
    keep: Callable[[TrainingState], None]


class ResumableTrainer:
    """First base of a trainer, before transformers' own.

    Attributes:
        method: whose state is part of the training's.
        keeping: what to do with states; None = none is made.
        rows: figures of the updates so far.
        start: the state to go on from; None = from the first update.
    """

    method: Method
    keeping: Keeping | None = None
    rows: Sequence[Mapping[str, float]] = ()
    start: TrainingState | None = None

    def go_on(self: Any, scratch: Path) -> None:
        """Train to the end, from ``start`` if there is one."""
        if self.start is None:
            self.train()
            return
        scratch.mkdir(parents=True, exist_ok=True)
        known = {name: getattr(self.args, name) for name in ("train_batch_size", "logging_steps", "save_steps")}
        (scratch / TRAINER_STATE).write_text(json.dumps({**known, "global_step": self.start.step}))
        self.train(resume_from_checkpoint=str(scratch))

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        """Called every ``save_steps`` updates, after their figures are logged; the last update's is not kept."""
        if self.keeping is None or self.state.global_step >= self.state.max_steps:
            return
        model = self.accelerator.unwrap_model(model)
        self.keeping.keep(
            training_state(self.state.global_step, model, self.optimizer, self.lr_scheduler, self.method, self.rows)
        )

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        put_weights(self.start, self.accelerator.unwrap_model(model or self.model))

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        if checkpoint is not None:
            put_optimizer(self.start, self.accelerator.unwrap_model(self.model), self.optimizer, self.lr_scheduler)

    def _load_scaler(self: Any, checkpoint: str | None) -> None:
        """bfloat16 needs none."""

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        if checkpoint is not None:
            put_random(self.start)
