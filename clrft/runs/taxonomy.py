"""One run's answers by kind, read from its predictions: what ``eval.taxonomy`` makes of every cell of its matrix.

Deliberately absent: class orders and methods (``clrft.analysis.taxonomy``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clrft.runs.layout import PREDICTIONS_FILE, stage_folder
from clrft.runs.read import read_predictions
from eval.evaluate import Prediction
from eval.judgement import Failure
from eval.matrix import AccuracyMatrix
from eval.metrics import Value, undefined
from eval.taxonomy import KINDS, Change, IntArray, change, change_metrics, confusion, outcomes, undivided
from task_streams.errors import UserError

Classes = Sequence[Sequence[str]]  # of each task


@dataclass(frozen=True, slots=True)
class RunKinds:
    """What the answers of one run were."""

    cells: Mapping[tuple[int, int], Mapping[Failure, int]]  # answers of every outcome by (stage, task); 0 is the base
    # answers after the last stage by task of the right and of the chosen class, [T, T+2]; None where the class of an
    # answer does not tell its task, and why it does not
    confusion: IntArray | None
    undivided: str | None
    changes: Mapping[int, Change]  # what became of each task j < T from stage j to T, by j; empty for joint training
    metrics: Mapping[str, Value]  # of ``eval.taxonomy.KINDS``


def run_kinds(folder: Path, matrix: AccuracyMatrix, classes: Classes) -> RunKinds:
    """Read a run's predictions, one stage at a time.

    Args:
        folder: the run's.
        matrix: its accuracies, with which the predictions must agree.
        classes: classes that each task teaches (``task_classes``).

    Raises:
        UserError: a file is missing or damaged, or is not what the matrix says.
    """
    size, counted = len(matrix), matrix.measure == "accuracy"
    reason = undivided(classes, matrix.measure)
    cells: dict[tuple[int, int], Mapping[Failure, int]] = {}
    learned: dict[int, list[Prediction]] = {}
    final: dict[int, list[Prediction]] = {}
    stages = [int(i) + 1 for i in np.flatnonzero(~np.isnan(matrix.value).all(axis=1))]  # after which tasks were tested
    if (stage_folder(folder, 0) / PREDICTIONS_FILE).is_file():
        stages.insert(0, 0)
    for stage in stages:
        tasks: dict[int, list[Prediction]] = {}
        for prediction in read_predictions(folder, stage):
            tasks.setdefault(prediction.task, []).append(prediction)
        for task, predictions in tasks.items():
            cells[stage, task] = outcomes(predictions)
        if stage in tasks:
            learned[stage] = tasks[stage]
        final = tasks
    problems = cell_problems(cells, matrix)
    if problems:
        raise UserError(*(f"{folder}: {problem}" for problem in problems))
    names = {name for part in classes for name in part} if counted else set[str]()
    old = [j for j in range(1, size) if j in learned and j in final]
    changes = {j: change(learned[j], final[j], names) for j in old}
    no_counts = dict.fromkeys(KINDS, undefined("box AP is no share of right answers"))
    metrics = change_metrics(changes, size, reason) if counted else no_counts
    chosen = [prediction for predictions in final.values() for prediction in predictions]
    return RunKinds(cells, confusion(chosen, classes) if reason is None else None, reason, changes, metrics)


def task_classes(manifest: Mapping[str, Any], size: int) -> Classes:
    """Classes that each of a run's tasks teaches, as its manifest says; one that does not say is refused."""
    tasks = manifest.get("tasks")
    found = [task.get("classes") if isinstance(task, dict) else None for task in tasks or ()]
    if len(found) != size or not all(isinstance(names, list) for names in found):
        raise UserError(f"manifest.json names the classes of {len(found)} tasks; expected those of {size}.")
    return [tuple(map(str, names)) for names in found if names is not None]


def cell_problems(cells: Mapping[tuple[int, int], Mapping[Failure, int]], matrix: AccuracyMatrix) -> list[str]:
    """Sentences where predictions are not those that the matrix was made of; AP cannot be told from counts."""
    tested = {(i + 1, j + 1) for i, j in zip(*np.nonzero(~np.isnan(matrix.value)), strict=True)}
    found = {cell for cell in cells if cell[0] > 0}
    problems = [f"predictions of task {j} after task {i} are missing." for i, j in sorted(tested - found)]
    problems += [f"predictions of task {j} after task {i} are not in the matrix." for i, j in sorted(found - tested)]
    for stage, task in sorted(tested & found):
        right, total = matrix.correct[stage - 1, task - 1], matrix.total[stage - 1, task - 1]
        counts = cells[stage, task]
        told = counts["none"], sum(counts.values())
        if not np.isnan(total) and told != (right, total):
            problems.append(
                f"predictions of task {task} after task {stage}: {told[0]} of {told[1]} are right; the matrix says "
                f"{right:.0f} of {total:.0f}."
            )
    return problems
