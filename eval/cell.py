"""What the predictions of a stage come to: a cell of the accuracy matrix for each task, one number for all so far.

Source of both for boxes of new classes: RaPO (arXiv 2605.09640), whose A_t is the AP over the test set of all classes
so far, and whose released code takes a task's AP over every image with one of its classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from eval.average_precision import average_precision, average_precision_50
from eval.evaluate import Prediction, counts
from eval.matrix import ACCURACY, BOX_AP, POOLED_BOX_AP
from task_streams.types import Task, TaskStream


@dataclass(frozen=True, slots=True)
class Cell:
    """Result of one task at one stage.

    Attributes:
        value: accuracy, or box AP for detection; 0 to 1.
        correct: right answers; None where the value is no share of right answers.
        total: test items; None likewise.
        also: other results of the same predictions by name, 0 to 1, e.g. AP at IoU 0.50 alone.
    """

    value: float
    correct: int | None = None
    total: int | None = None
    also: Mapping[str, float] = field(default_factory=dict)


def measure_of(stream: TaskStream) -> str:
    """What a stream is measured by: ``accuracy``; ``box AP`` of each domain; or, of new classes, ``pooled box AP``."""
    if stream.tasks[0].kind != "detection":
        return ACCURACY
    return POOLED_BOX_AP if stream.scenario == "cil" else BOX_AP


def cell_of(task: Task, predictions: Sequence[Prediction]) -> Cell:
    """The cell R[i,j] of a task's predictions: box AP over the task's own classes for detection, else accuracy.

    Raises:
        ValueError: there are no predictions.
    """
    if task.kind == "detection":
        value = average_precision(predictions, task.classes)
        return Cell(value, also={"average_precision_50": average_precision_50(predictions, task.classes)})
    correct, total = counts(predictions)
    if total == 0:
        raise ValueError(f"task {task.name}: the accuracy of no predictions is undefined")
    return Cell(correct / total, correct, total)


def pooled_ap(predictions: Iterable[Prediction], seen: Sequence[str]) -> float:
    """A_i: box AP over all classes so far and every image with one of them, 0 to 1.

    Args:
        predictions: of all tasks so far at one stage; of an image that several tasks have, one counts.
        seen: classes so far, which the prompts have listed.

    Raises:
        ValueError: none of the classes is in any of the images.
    """
    images = {prediction.key: prediction for prediction in predictions}
    return average_precision([images[key] for key in sorted(images)], seen)
