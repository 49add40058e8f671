"""What both of TRL's trainers share (a method's loss terms, several processes, a state to go on from), and the SFT one.

transformers pickles its own checkpoints; the methods that write and read them are replaced here. Its order of work when
it goes on (weights, optimizer and schedule, skipped batches, random states before the first new one) stays.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from trl.trainer.sft_trainer import SFTTrainer

from methods.base import LossContext, Method
from methods.costs.meter import IGNORED, meter_of
from methods.distributed import ranks
from methods.distributed.batch_sharding import SHARE, OwnRows
from methods.distributed.sharding import is_sharded, put, split_of, whole_tensor
from methods.inputs.clip_batches import ClipCollator, rows_have_clips
from methods.model.snapshots import Snapshot
from methods.model.weights import trained_weights
from methods.training.optimizers import KahanAdamW
from methods.training.state import MOMENTS, WEIGHTS, Keeping, TrainingState, put_moments, put_random, training_state


class KeepStates(TrainerCallback):
    """Decides after which updates a state is made: every so many, or as soon afterwards as going on from it is exact.

    It would not be inside the updates of one batch of rollouts, nor right after a change of the targets: the next
    batch has been read by then, with the targets of before. Comes after the callback that calls ``after_step``.
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


class HookedTrainer:
    """First base of a trainer, before TRL's own."""

    method: Method  # whose loss terms are added, and whose state is part of the training's
    task_index: int  # of the task that is learned, from 1
    anchor: Snapshot | None  # snapshot that loss terms may look at, or None
    keeping: Keeping | None = None  # what to do with states; None = none is made
    rows: Sequence[Mapping[str, float]] = ()  # figures of the updates so far
    start: TrainingState | None = None  # the state to go on from; None = from the first update
    compensated: bool = False  # weights are moved by ``KahanAdamW``

    def go_on(self: Any, scratch: Path) -> None:
        """Train to the end, from ``start`` if there is one."""
        if self.start is None:
            self.train()
            return
        scratch.mkdir(parents=True, exist_ok=True)
        # the one file of a checkpoint that train() itself reads; all else comes by the methods below
        reached = TrainerState(
            global_step=self.start.step,
            logging_steps=self.args.logging_steps,
            train_batch_size=self.args.train_batch_size,
        )
        reached.save_to_json(str(scratch / TRAINER_STATE_NAME))
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
        return ranks.all_reduce_sum(loss)

    def extra_loss(self: Any, model: Any, inputs: Mapping[str, Any], share: float) -> Tensor | None:
        """Sum of the method's loss terms on a micro-batch, each logged by its name; None if it has none.

        ``share`` is the part of the micro-batch's rows that this process has: over all processes the terms add up to
        the mean over rows.
        """
        with self.accelerator.autocast():
            terms = self.method.loss_terms(LossContext(model, inputs, self.task_index, self.anchor, self._log_step))
            for name, term in terms.items():
                self._log_step(name, ranks.all_reduce_sum(term.detach() * share).item())
            return torch.stack(list(terms.values())).sum() * share if terms else None

    def _log_step(self: Any, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)

    def _clip_grad_norm(self: Any, model: Any) -> Any:
        """The norm over all processes' parts, as a number of its own."""
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]
        return whole_tensor(norm) if isinstance(norm, Tensor) else norm

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        """Called after the figures of an update are logged that ``KeepStates`` chose; the last one's is not kept."""
        if self.keeping is None or self.state.global_step >= self.state.max_steps:
            return
        model = self.accelerator.unwrap_model(model)
        if ranks.is_rank0() or is_sharded(model):  # of a split model all put the state together
            step = self.state.global_step
            state = training_state(step, model, self.optimizer, self.lr_scheduler, self.method, self.rows)
            if ranks.is_rank0():
                self.keeping.keep(state)

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        saved = self.start.of(WEIGHTS)
        own = dict(trained_weights(self.accelerator.unwrap_model(model or self.model)))
        if saved.keys() != own.keys():
            raise ValueError(f"the state has other weights: {sorted(saved.keys() ^ own.keys())[:3]}")
        for name, weight in own.items():
            put(weight, saved[name])

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        model, values = self.accelerator.unwrap_model(self.model), self.start.values
        put_moments(self.start.of(MOMENTS).items(), model, self.optimizer)
        for group, rate in zip(self.optimizer.param_groups, values["rates"], strict=True):
            group["lr"] = rate
        self.lr_scheduler.load_state_dict({**values["schedule"], "lr_lambdas": [None] * len(values["rates"])})

    def _load_scaler(self: Any, checkpoint: str | None) -> None:
        """bfloat16 needs none."""

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        if checkpoint is not None:
            put_random(self.start)


class HookedSFTTrainer(HookedTrainer, SFTTrainer):
    """TRL's supervised trainer with a method's extra loss terms."""

    def __init__(self, *, method: Method, task_index: int, anchor: Snapshot | None = None, **arguments: Any) -> None:
        if rows_have_clips([arguments["train_dataset"][0]]):
            arguments["data_collator"] = ClipCollator(arguments["processing_class"])
        super().__init__(**arguments)
        if ranks.world_size() > 1:
            self.data_collator = OwnRows(self.data_collator, ranks.rank(), ranks.world_size())
        self.method = method
        self.task_index = task_index
        self.anchor = anchor

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs:
            raise ValueError("outputs are not returned during training")
        share = float(inputs.pop(SHARE, 1.0))
        known = dict(inputs)  # TRL adds to its own
        meter_of(model).add("tokens_trained", (inputs["labels"][:, 1:] != IGNORED).sum())
        with ranks.gathering(self.accelerator):
            loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)  # type: ignore[no-untyped-call]
        terms = self.extra_loss(model, known, share)
        if terms is None:
            return loss
        # with a count of items Trainer leaves the division by the accumulation steps to the loss
        return loss + (terms / self.current_gradient_accumulation_steps if num_items_in_batch is not None else terms)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
        """Tokens that an update learns, those of all processes: the loss of each is divided by them."""
        own = super()._get_num_items_in_batch(batch_samples, device)
        if own is None and ranks.world_size() > 1:
            raise RuntimeError("the tokens of an update cannot be counted, so processes cannot share them")
        return own if own is None else ranks.all_reduce_sum(torch.as_tensor(own, device=device))
