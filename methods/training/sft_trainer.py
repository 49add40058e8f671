"""TRL's supervised trainer with a method's hooks: the smaller half of the seam (``grpo_trainer.py``)."""

from typing import Any

import torch
from trl.trainer.sft_trainer import SFTTrainer

from methods.base import LossContext, Method
from methods.costs.meter import IGNORED, meter_of
from methods.distributed import ranks
from methods.distributed.batch_sharding import SHARE, OwnRows
from methods.inputs.clip_batches import ClipCollator, rows_have_clips
from methods.model.snapshots import Snapshot
from methods.training.loss_terms import extra_loss
from methods.training.resumable import ResumableTrainer


class HookedSFTTrainer(ResumableTrainer, SFTTrainer):
    """TRL's supervised trainer with a method's extra loss terms."""

    def __init__(self, *, method: Method, task_index: int, anchor: Snapshot | None = None, **arguments: Any) -> None:
        if rows_have_clips([arguments["train_dataset"][0]]):
            arguments["data_collator"] = ClipCollator(arguments["processing_class"])
        super().__init__(**arguments)
        if ranks.count() > 1:
            self.data_collator = OwnRows(self.data_collator, ranks.place(), ranks.count())
        self.method = method
        self.task_index = task_index
        self.anchor = anchor

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs:
            raise ValueError("outputs are not returned during training")
        share = float(inputs.pop(SHARE, 1.0))
        context = LossContext(model, dict(inputs), self.task_index, self.anchor, self._log_step)
        meter_of(model).trained((inputs["labels"][:, 1:] != IGNORED).sum())
        with ranks.gathering(self.accelerator):
            loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)  # type: ignore[no-untyped-call]
        with self.accelerator.autocast():
            terms = extra_loss(self.method, context, share)
        if terms is None:
            return loss
        # with a count of items Trainer leaves the division by the accumulation steps to the loss
        return loss + (terms / self.current_gradient_accumulation_steps if num_items_in_batch is not None else terms)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
        """Tokens that an update learns, those of all processes: the loss of each is divided by them."""
        own = super()._get_num_items_in_batch(batch_samples, device)
        if own is None and ranks.count() > 1:
            raise RuntimeError("the tokens of an update cannot be counted, so processes cannot share them")
        return own if own is None else ranks.summed(torch.as_tensor(own, device=device))

    def _log_step(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)
