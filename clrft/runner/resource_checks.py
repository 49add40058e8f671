"""Whether a run fits into memory and on the disk, said before any work: what it needs, what is there, what to change.

Memory is estimated by ``clrft/memory/phases.py`` for the longest prompts that were looked at. Bytes on disk are counted
from the model's tensors: weights of every task that stays, states of the training that is going on, moments where they
are carried. Predictions and figures are small beside them and covered by the margin.
Deliberately absent: other processes that grow later, other cells of a sweep beside this one, and CPU memory for a run
on a GPU.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from clrft.config.run_config import RunConfig
from clrft.memory.available_memory import available_bytes, capacity_bytes
from clrft.memory.estimate import decided, estimate, memory_hints, with_optimizer
from clrft.memory.model_sizes import model_sizes
from clrft.memory.phases import Longest, Sharing, gib
from clrft.runner.partial_checkpoint import KEPT
from clrft.runner.state import Run
from methods.distributed import ranks
from methods.model.config import choose_device
from methods.model.numerics import keeps_all
from methods.model.weights import trained_weights
from methods.settings import AUTO, KAHAN
from task_streams.errors import UserError

MARGIN = 1.1  # of what a run leaves on disk: file headers, tokenizer, predictions, what a method keeps
MOMENTS = 2  # of AdamW, in the type of the weights
GRIDS = ("image_grid_thw", "video_grid_thw")  # patches of each image or clip: in time, height and width


def affordable(config: RunConfig, longest: Longest) -> str:
    """The optimizer that ``train.optimizer`` stands for on this device, with prompts as long as those looked at."""
    sizes, device = model_sizes(config.model), choose_device(config.model)
    if config.train.optimizer != AUTO or keeps_all(config.model) or sizes is None:  # nothing tells the family's memory
        return decided(config, lambda _: 0, None).train.optimizer
    sharing = Sharing(ranks.world_size(), split=bool(ranks.weights_split()))
    capacity = capacity_bytes(device)
    return decided(config, lambda one: estimate(one, longest, device, sharing).peak.total, capacity).train.optimizer


def check_memory(state: Run, longest: Longest, available: int | None = None) -> dict[str, Any]:
    """Refuse a run that its device has no memory for; what was found, for the manifest.

    Args:
        state: the run, its model loaded and nothing else.
        longest: of its prompts.
        available: bytes that are there for it, its model's included; None: as the machine tells.

    Returns:
        The estimate, what it is for and what is there; empty for a model of a family that is not known.

    Raises:
        UserError: the largest parts, what is there, and settings that need less.
    """
    policy = state.policy
    config = with_optimizer(state.config, policy.numerics.optimizer)
    if model_sizes(config.model) is None:
        return {}
    found = estimate(config, longest, policy.device)
    if available is None:
        held = sum(weight.numel() * weight.element_size() for weight in policy.model.parameters())
        available = held + available_bytes(policy.device)
    if config.run.check_memory:
        problems = []
        for activity, peak in found.items():
            if peak.total <= available:
                continue
            phase = f" ({peak.phase})" if peak.phase != activity else ""
            changes = memory_hints(config, longest, activity, available, partial(estimate, device=policy.device))
            ways = f"Set one or more of {'; '.join(changes)}. Or" if changes else "No setting alone needs less;"
            problems.append(
                f"memory: {activity}{phase} needs about {gib(peak.total)} GiB at its peak, and {gib(available)} GiB "
                f"are there. The largest parts: {peak.largest} GiB. {ways} set run.check_memory=false to run "
                "without this check."
            )
        if problems:
            raise UserError(*problems)
    facts = {"prompt_tokens": longest.tokens, "completion_tokens": config.train.max_completion_tokens}
    return {**found.to_json(), "longest": facts, "available_bytes": available}


def longest_among(batches: Sequence[Mapping[str, torch.Tensor]], processor: Any) -> Longest:
    """The longest of what prompts have, each encoded alone."""
    grids = [[grid for name in GRIDS if name in batch for grid in batch[name].tolist()] for batch in batches]
    side = getattr(processor.image_processor, "patch_size", 0)
    area = max((height * width for prompt in grids for _, height, width in prompt), default=0)
    return Longest(
        tokens=max(batch["input_ids"].shape[1] for batch in batches),
        patches=max(sum(time * height * width for time, height, width in prompt) for prompt in grids),
        images=max(sum(time for time, _, _ in prompt) for prompt in grids),
        pixels=area * side**2 if area else 0,
    )


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
