"""What both of TRL's trainers share (a method's loss terms, several processes, a state to go on from), and the SFT one.

transformers pickles its own checkpoints: none is written, and the methods that read them are replaced here. Its order
of work when it goes on (weights, optimizer and schedule, skipped batches, random states before the first new one)
stays.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from trl.trainer.sft_trainer import SFTTrainer

from methods.base import LossContext, Method
from methods.costs.meter import IGNORED, meter_of
from methods.distributed import ranks
from methods.distributed.batch_sharding import SHARE, OwnRows
from methods.distributed.sharding import is_sharded, put, split_of
from methods.distributed.unsharded import whole_tensor
from methods.guard import suspects
from methods.inputs.clip_batches import ClipCollator, rows_have_clips
from methods.model.snapshots import Snapshot
from methods.model.weights import trained_weights
from methods.training.optimizers import KahanAdamW
from methods.training.state import WEIGHTS, TrainingState, put_random
from task_streams.errors import UserError
from task_streams.types import Task

# What torch says of a graph that a hook has spoilt, by words of its own, which comes up in the backward pass.
BACKWARD = {
    "modified by an inplace operation": "a weight or an input was edited in place while its gradient was still needed",
    "backward through the graph a second time": "a loss term holds to a tensor of an update before; keep its detach()",
    "does not require grad": "the loss depends on no weight that is trained",
}
LONGEST = 200  # characters of torch's own words


class HookedTrainer:
    """First base of a trainer, before TRL's own: of a method that learns a task, with the anchor or None."""

    start: TrainingState | None = None  # the state to go on from; None = from the first update
    compensated: bool = False  # weights are moved by ``KahanAdamW``

    def __init__(self: Any, *, method: Method, task: Task, anchor: Snapshot | None, **arguments: Any) -> None:
        self.method = method
        self.task = task
        self.anchor = anchor
        super().__init__(**arguments)

    def go_on(self: Any, scratch: Path) -> None:
        """Train to the end, from ``start`` if there is one; its moments and rates are put back by ``UpdateHooks``.

        Raises:
            UserError: the state is not of the weights that are trained.
        """
        if self.start is None:
            self.train()
            return
        saved, own = self.start.of(WEIGHTS), dict(trained_weights(self.model))
        if saved.keys() != own.keys():
            raise UserError(
                f"{suspects(self.method)}: the training was stopped with {len(saved)} weights trained, and {len(own)} "
                "are trained now; requires_grad must not change after before_task. Remove the folder unfinished of the "
                "run, and the task begins anew."
            )
        for name, weight in own.items():
            put(weight, saved[name])
        scratch.mkdir(parents=True, exist_ok=True)
        # the one file of a checkpoint that train() itself reads
        reached = TrainerState(
            global_step=self.start.step,
            logging_steps=self.args.logging_steps,
            train_batch_size=self.args.train_batch_size,
        )
        reached.save_to_json(str(scratch / TRAINER_STATE_NAME))
        self.train(resume_from_checkpoint=str(scratch))

    def _read_nothing(self, *_: Any) -> None:
        """Stands in for what would read transformers' own checkpoint."""

    _load_from_checkpoint = _load_optimizer_and_scheduler = _load_scaler = _read_nothing

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        if checkpoint is not None:
            put_random(self.start)

    def create_optimizer(self: Any, model: Any = None) -> Any:
        """The trainer's AdamW, or what takes its place: one that compensates, or that of the model's split."""
        own = super().create_optimizer(model)  # type: ignore[misc]
        if self.compensated:
            own = KahanAdamW(own.param_groups)
        self.optimizer = split_of(self.model).trained_by(own, self.accelerator)
        return self.optimizer

    def training_step(self: Any, *arguments: Any, **named: Any) -> Any:
        """One micro-batch; after an update's last the gradients are those of all processes."""
        try:
            loss = super().training_step(*arguments, **named)  # type: ignore[misc]
        except RuntimeError as error:
            reason = next((why for words, why in BACKWARD.items() if words in str(error)), None)
            if reason is None:
                raise
            raise UserError(f"{suspects(self.method)}: {reason} ({' '.join(str(error).split())[:LONGEST]}).") from error
        if self.accelerator.sync_gradients and not is_sharded(self.model):  # whose gradients are summed as they come
            ranks.sum_gradients(self.model.parameters())
        return ranks.all_reduce_sum(loss)

    def extra_loss(self: Any, model: Any, inputs: Mapping[str, Any], share: float) -> Tensor | None:
        """Sum of the method's loss terms on a micro-batch, each logged by its name; None if it has none.

        ``share`` is the part of the micro-batch's rows that this process has: over all processes the terms add up to
        the mean over rows.
        """
        with self.accelerator.autocast():
            found = self.method.loss_terms(LossContext(model, inputs, self.task.index, self.anchor, self._log_step))
            terms = {name: term.to(self.accelerator.device) for name, term in found.items()}
            for name, term in terms.items():
                self._log_step(name, ranks.all_reduce_sum(term.detach() * share).item())
            return torch.stack(list(terms.values())).sum() * share if terms else None

    def _log_step(self: Any, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)

    def _clip_grad_norm(self: Any, model: Any) -> Any:
        """The norm over all processes' parts, as a number of its own."""
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]
        return whole_tensor(norm) if isinstance(norm, Tensor) else norm


class HookedSFTTrainer(HookedTrainer, SFTTrainer):
    """TRL's supervised trainer with a method's extra loss terms."""

    def __init__(self, **arguments: Any) -> None:
        if rows_have_clips([arguments["train_dataset"][0]]):
            arguments["data_collator"] = ClipCollator(arguments["processing_class"])
        super().__init__(**arguments)
        if ranks.world_size() > 1:
            self.data_collator = OwnRows(self.data_collator, ranks.rank(), ranks.world_size())

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
