"""What a finished task leaves on disk, and how the next one starts from it.

A task folder holds weights (safetensors), the method's state, the next task's anchor if the weights do not tell it, the
optimizer's moments if they are carried, every prediction, every update's figures and the task's accuracies. It appears
whole or not at all.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clrft.config.records import LEAST_APPLIED, MethodState, Training, read_record, read_steps
from clrft.runs.layout import (
    ANCHOR_FILE,
    DRIFT_FILE,
    FINAL_LIST_FILE,
    METRICS_FILE,
    MOMENTS_FILE,
    PREDICTIONS_FILE,
    STAGE_SCHEMA,
    STATE_FILE,
    STATE_TENSORS,
    STEPS_FILE,
    TRAINING_FILE,
    WEIGHTS_FOLDER,
)
from clrft.utils.files import Damaged, digest, sha256_file, write_json_atomic
from eval.evaluate import Prediction
from eval.probe import ProbeAnswer
from eval.task_accuracy import TaskAccuracy
from methods.base import Method
from methods.model.anchor import Anchors
from methods.model.policy import Policy
from methods.training.fit import APPLIED, StepRow
from methods.training.state import in_order, tensors_apart
from task_streams.errors import UserError

LeftTraining = tuple[list[StepRow], float, dict[str, float]]  # figures of every update, seconds, cost


@dataclass(slots=True)
class StageRecord:
    """One stage of a run: stage 0 is before any training, stage i after task i."""

    stage: int  # its index
    name: str  # of its task
    predictions: list[Prediction] = field(default_factory=list)  # of an item that several tasks have one for each
    cells: dict[int, TaskAccuracy] = field(default_factory=dict)  # result of each task that was tested, by its index
    # AP over all classes and images so far (``task_accuracy.pooled_ap``), 0 to 1; None for other measures
    pooled: float | None = None
    probe: dict[str, float] = field(default_factory=dict)  # accuracy on each general-ability probe, 0 to 1
    probe_answers: dict[str, list[ProbeAnswer]] = field(default_factory=dict)  # of the sets that come from files
    # result of the stage's own task when its prompt lists the classes of all tasks, by its index; empty where that was
    # not asked; and the answers behind it, none where the list is the final one anyway
    final_list: dict[int, TaskAccuracy] = field(default_factory=dict)
    final_list_predictions: list[Prediction] = field(default_factory=list)
    # how far the policy moved in this stage (``methods/drift/items.py``), empty where it was not measured; and the
    # rollout groups behind it, one row per prompt
    drift: dict[str, Any] = field(default_factory=dict)
    drift_groups: list[dict[str, Any]] = field(default_factory=list)
    # tokens, model FLOPs and processor time, by activity; empty where they were not counted
    cost: dict[str, dict[str, float]] = field(default_factory=dict)
    steps: list[StepRow] = field(default_factory=list)  # figures of every update
    seconds: dict[str, float] = field(default_factory=dict)  # time spent, by activity
    peak_memory_mb: dict[str, float] = field(default_factory=dict)  # highest of the run so far, by kind (resident, GPU)


def write_record(folder: Path, record: StageRecord) -> None:
    """Write a stage's predictions, steps and accuracies into a folder.

    Counts are null where the result is no share of right answers (AP).
    """
    always: dict[str, Sequence[Mapping[str, Any]]] = {
        PREDICTIONS_FILE: [one.to_json() for one in record.predictions],
        STEPS_FILE: record.steps,
    }
    others: dict[str, Sequence[Mapping[str, Any]]] = {
        FINAL_LIST_FILE: [one.to_json() for one in record.final_list_predictions],
        DRIFT_FILE: record.drift_groups,
        **{f"probe_{name}.jsonl": [one.to_json() for one in answers] for name, answers in record.probe_answers.items()},
    }
    files = always | {name: rows for name, rows in others.items() if rows}
    for name, rows in files.items():
        write_rows(folder / name, rows)
    body = {
        "schema": STAGE_SCHEMA,
        "task": record.stage,
        "name": record.name,
        "accuracy": {str(j): cell.value for j, cell in record.cells.items()},
        "correct": {str(j): cell.correct for j, cell in record.cells.items()},
        "total": {str(j): cell.total for j, cell in record.cells.items()},
        "also": {str(j): dict(cell.also) for j, cell in record.cells.items() if cell.also},
        "pooled": record.pooled,
        "probe": record.probe,
        "final_list": {str(j): cell.value for j, cell in record.final_list.items()},
        "drift": record.drift,
        "cost": record.cost,
        "seconds": record.seconds,
        "peak_memory_mb": record.peak_memory_mb,
        LEAST_APPLIED: min((row[APPLIED] for row in record.steps if APPLIED in row), default=None),
        "files": {name: sha256_file(folder / name) for name in files},
    }
    write_json_atomic(folder / METRICS_FILE, {**body, "digest": digest(body)})


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object per line."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_learned(
    folder: Path,
    policy: Policy,
    method: Method,
    stage: int,
    moments: dict[str, Tensor],
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write what the next task starts from: weights (as ``Policy.save`` takes them), method state, moments."""
    policy.save(folder / WEIGHTS_FOLDER, weights)
    state = method.state_dict()
    tensors = tensors_apart(state)
    values = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    head = {"schema": STAGE_SCHEMA, "method": method.name, "task": stage}
    order = {"names": list(state)} if state else {}
    write_json_atomic(folder / STATE_FILE, {**head, "values": values, "tensors": sorted(tensors), **order})
    if tensors:
        save_file(tensors, folder / STATE_TENSORS)
    if moments:
        save_file(moments, folder / MOMENTS_FILE)


def read_learned(folder: Path, policy: Policy, method: Method, stage: int) -> dict[str, Tensor]:
    """Put policy and method where the stage left them; returns the optimizer's moments.

    Raises:
        UserError: the state is damaged, or of another method or task.
    """
    state = read_record(folder / STATE_FILE, STAGE_SCHEMA, MethodState)
    found = (state.get("method"), state.get("task"))
    if found != (method.name, stage):
        raise UserError(
            f"{folder / STATE_FILE} holds the state of method {found[0]!r} after task {found[1]!r}; expected "
            f"method {method.name!r} after task {stage}."
        )
    try:
        policy.load_weights(folder / WEIGHTS_FOLDER)
        tensors = load_file(folder / STATE_TENSORS) if state["tensors"] else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{folder} does not hold what the next task starts from ({error}); restore it.") from error
    if sorted(tensors) != state["tensors"]:
        raise UserError(f"{folder / STATE_TENSORS} holds {sorted(tensors)}; expected {state['tensors']}.")
    values = {**state["values"], **tensors}
    names = state.get("names") or list(values)
    if sorted(names) != sorted(values):
        raise UserError(f"{folder / STATE_FILE} names {sorted(names)}, but holds {sorted(values)}; restore it.")
    if values:
        method.load_state_dict(in_order(values, names))
    moments_file = folder / MOMENTS_FILE
    return load_file(moments_file) if moments_file.exists() else {}


def write_anchor(folder: Path, anchors: Anchors) -> None:
    """Write what the next task's anchor is made of, where the policy's own weights do not tell."""
    if weights := anchors.unlike_policy():
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / ANCHOR_FILE)


def read_anchor(folder: Path, anchors: Anchors, stage: int) -> None:
    """Put the anchor where the stage left it; one that is missing, damaged or of another policy is refused."""
    if anchors.rule.told_by_policy(stage):
        return
    file = folder / ANCHOR_FILE
    try:
        anchors.restore(load_file(file))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"{file} does not hold the anchor that task {stage + 1} needs ({error}); restore it or start a new run."
        ) from error


def read_training(folder: Path) -> LeftTraining:
    """Figures of every update, seconds and cost, as ``stage.write_trained`` wrote them; refused if ``Damaged``."""
    try:
        training = read_record(folder / TRAINING_FILE, STAGE_SCHEMA, Training)
        found = sha256_file(folder / STEPS_FILE)
    except (UserError, OSError) as error:
        raise Damaged(str(error)) from error
    if training["steps"] != found:
        raise Damaged(f"{folder / STEPS_FILE} was changed.")
    return read_steps(folder / STEPS_FILE), float(training["seconds"]), dict(training.get("cost", {}))


def stage_rng(seed: int, stage: int) -> int:
    """Seed of everything random in one stage: the same whether the run was stopped before it or not."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, 2**31 - 1, (stage + 1,), generator=generator)
    return int(draws[stage])
