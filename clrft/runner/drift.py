"""How far a stage's training moved the policy: which policies it is compared with, and where they come from.

Every method that trains is measured alike, on held-out items of the task that it has just learned, with the prompts
that it is tested with. Joint training has no task before it and is compared with the base alone.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from clrft.base_model import default_model_path
from clrft.runner.checkpoint import StageRecord, stage_rng
from clrft.runner.cost_timer import counted
from clrft.runner.prepare import current_base
from clrft.runner.state import Run
from clrft.runs.base_identity import check_same_base
from clrft.runs.layout import WEIGHTS_FOLDER, stage_folder
from methods.drift.compared_policies import base_of, held, saved
from methods.drift.items import Other, drawn_items, group_rows, summary
from methods.drift.measure import Asked, measure
from methods.drift.rollouts import Party
from methods.model.snapshots import FullSnapshot
from methods.training.determinism import deterministic

Opened = Callable[[], AbstractContextManager[Party]]
ITEM_SEED = 42  # of the draw of items: the same in every class order, method and training seed


def measure_drift(state: Run, stage: int, record: StageRecord) -> None:
    """Compare the policy, as a stage's training left it, with the policies before it; figures go to the record.

    What is asked are held-out items of the stage's task, under the classes seen so far.
    """
    config = state.config
    if config.evaluate.drift_prompts == 0 or stage == 0 or state.method.family == "frozen":
        return
    start = time.perf_counter()
    others = policies_before(state, stage)
    task = state.tasks[stage]
    asked = Asked(
        items=drawn_items(task.test, config.evaluate.drift_prompts, ITEM_SEED),
        labels=task.seen,
        kind=task.kind,
        style=task.style,
        max_new_tokens=config.train.max_completion_tokens,
        seed=stage_rng(config.seed, stage),
        share=config.train.share_prefix,
    )
    prompts = len(asked.items) * (1 + len(others))
    state.reporter.begin(config.cell, f"task {stage}/{len(state.stream)} drift", prompts)
    with deterministic(config.train.deterministic), counted(state, record, "drift"):
        probe = measure(state.policy, others, asked, lambda done: state.reporter.advance(config.cell, done))
    missing = "joint training has no task before it" if state.method.joint else "before task 1 there is only the base"
    record.drift = summary(probe, {"prev": missing})
    record.drift_groups = group_rows(probe)
    record.seconds["drift"] = time.perf_counter() - start


def policies_before(state: Run, stage: int) -> dict[Other, Opened]:
    """The policies that a stage's is compared with: the previous task's, unless there is none, and the base.

    The previous one is the anchor where that is it, else it is read from the weights on disk; the base is the reference
    of the KL term where there is one, else it is loaded.
    """
    if isinstance(state.reference, FullSnapshot):
        base = partial(held, state.policy, state.reference, "base")
    else:
        if not state.policy.has_adapter:  # it is read again, after hours maybe
            check_same_base(
                state.folder, state.base.facts(), current_base(state.config, state.reporter, state.base.commit)
            )
        base = partial(base_of, state.policy, state.config.model.path or str(default_model_path()))
    if state.method.joint or stage == 1:
        return {"base": base}
    if state.anchor is not None and state.anchors is not None and state.anchors.rule.kind == "previous":
        return {"prev": partial(held, state.policy, state.anchor, "prev"), "base": base}
    weights = stage_folder(state.folder, stage - 1) / WEIGHTS_FOLDER
    return {"prev": partial(saved, state.policy, weights, "prev"), "base": base}
