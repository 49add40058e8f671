"""Whether the disk has room for what a run will leave there, looked at before any work.

Counted from the model's tensors: weights of every task that stays, states of the training that is going on, moments
where they are carried. Predictions and figures are small beside them and covered by the margin.
"""

import shutil

from clrft.runner.partial_checkpoint import KEPT
from clrft.runner.state import Run
from methods.model.weights import trained_weights
from methods.settings import KAHAN
from task_streams.errors import UserError

MARGIN = 1.1  # file headers, tokenizer, predictions, what a method keeps
MOMENTS = 2  # of AdamW, in the type of the weights


def check_space(state: Run, done: int | None) -> None:
    """Refuse a run, its folder made, that the disk has no room for; ``done``: its last finished stage, if any."""
    if state.method.family == "frozen":
        return
    left = sum(stage > (done or 0) for stage in state.stages)
    needed = needed_bytes(state, left) if left else 0
    free = shutil.disk_usage(state.folder).free
    if needed > free:
        raise UserError(
            f"run.output: {free / 1e9:.3g} GB are free at {state.folder}, and the {left} tasks to come need about "
            f"{needed / 1e9:.3g} GB; make room, choose another run.output, or set run.keep_weights=last or "
            "run.checkpoint_every=0."
        )


def needed_bytes(state: Run, left: int) -> int:
    """Bytes that the tasks to come leave on disk at most at the same time."""
    trained = sum(weight.numel() * weight.element_size() for _, weight in trained_weights(state.policy.model))
    every = sum(weight.numel() * weight.element_size() for weight in state.policy.model.parameters())
    saved = trained if state.policy.has_adapter else every
    compensation = trained if state.policy.numerics.optimizer == KAHAN else 0
    moments = MOMENTS * trained + compensation
    stage = saved + (moments if state.config.train.carry_optimizer else compensation)
    stages = left if state.config.run.keep_weights == "all" else min(left, 2)  # the one before goes after this one came
    kept = KEPT + 1 if state.config.run.checkpoint_every else 0  # one more while it is written
    return int(MARGIN * (stages * stage + kept * (trained + moments)))
