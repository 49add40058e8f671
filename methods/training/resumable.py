"""A mixin for trainers of transformers: hands out its state between updates, and goes on from one.

The trainer's own checkpoints are pickled; the methods that write and read them are replaced here. Its order of work
when it goes on (weights, optimizer and schedule, skipped batches, random states before the first new one) stays.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from methods.base import Method
from methods.distributed import ranks
from methods.distributed.sharding import is_sharded, split_of, whole_tensor
from methods.training.optimizers import KahanAdamW
from methods.training.state import TrainingState, put_optimizer, put_random, put_weights, training_state

TRAINER_STATE = "trainer_state.json"  # the name that transformers looks for


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a training's state is kept while it goes on; of several processes it is one, and the first keeps it.

    Attributes:
        every: updates between two states.
        keep: called with each state; must not take long.
    """

    every: int
    keep: Callable[[TrainingState], None]


class KeepStates(TrainerCallback):
    """Decides after which updates a state is made: every so many, or as soon afterwards as going on from it is exact.

    It would not be inside the updates of one batch of rollouts, nor right after a change of the targets: the next
    batch has been read by then, with the targets of before. Comes after the callback that calls ``after_step``.

    Args:
        every: updates between two states.
        batch: updates on each batch of rollouts.
        targets: completions by item key that a method may change; None if it has none.
    """

    def __init__(self, every: int, batch: int, targets: Mapping[str, Sequence[str]] | None) -> None:
        self.every = every
        self.batch = batch
        self.targets = targets
        self.known = self._texts()
        self.due = False

    def _texts(self) -> dict[str, tuple[str, ...]]:
        return {key: tuple(texts) for key, texts in (self.targets or {}).items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.due |= state.global_step % self.every == 0
        before, self.known = self.known, self._texts()
        if self.due and state.global_step % self.batch == 0 and before == self.known:
            self.due = False
            control.should_save = True


class ResumableTrainer:
    """First base of a trainer, before transformers' own.

    Attributes:
        method: whose state is part of the training's.
        keeping: what to do with states; None = none is made.
        rows: figures of the updates so far.
        start: the state to go on from; None = from the first update.
        compensated: weights are moved by ``KahanAdamW``.
    """

    method: Method
    keeping: Keeping | None = None
    rows: Sequence[Mapping[str, float]] = ()
    start: TrainingState | None = None
    compensated: bool = False

    def go_on(self: Any, scratch: Path) -> None:
        """Train to the end, from ``start`` if there is one."""
        if self.start is None:
            self.train()
            return
        scratch.mkdir(parents=True, exist_ok=True)
        known = {name: getattr(self.args, name) for name in ("train_batch_size", "logging_steps")}
        (scratch / TRAINER_STATE).write_text(json.dumps({**known, "global_step": self.start.step}))
        self.train(resume_from_checkpoint=str(scratch))

    def create_optimizer(self: Any, model: Any = None) -> Any:
        """The trainer's AdamW, or what takes its place: one that compensates, or that of the model's split."""
        own = super().create_optimizer(model)  # type: ignore[misc]
        if self.compensated:
            own = KahanAdamW(own.param_groups)
        self.optimizer = split_of(self.model).trained_by(own, self.accelerator)
        return self.optimizer

    def training_step(self: Any, *arguments: Any, **named: Any) -> Any:
        """One micro-batch; after an update's last the gradients are those of all processes."""
        loss = super().training_step(*arguments, **named)  # type: ignore[misc]
        if self.accelerator.sync_gradients and not is_sharded(self.model):  # whose gradients are summed as they come
            ranks.sum_gradients(self.model.parameters())
        return ranks.summed(loss)

    def _clip_grad_norm(self: Any, model: Any) -> Any:
        """The norm over all processes' parts, as a number of its own."""
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]
        return whole_tensor(norm) if isinstance(norm, Tensor) else norm

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        """Called after the figures of an update are logged that ``KeepStates`` chose; the last one's is not kept."""
        if self.keeping is None or self.state.global_step >= self.state.max_steps:
            return
        model = self.accelerator.unwrap_model(model)
        if ranks.is_first() or is_sharded(model):  # of a split model all put the state together
            step = self.state.global_step
            state = training_state(step, model, self.optimizer, self.lr_scheduler, self.method, self.rows)
            if ranks.is_first():
                self.keeping.keep(state)

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
