"""One cell of the accuracy matrix, from the predictions of one task at one stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eval.average_precision import average_precision, average_precision_50
from eval.evaluate import Prediction, counts
from task_streams.types import Task


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


def cell_of(task: Task, predictions: Sequence[Prediction]) -> Cell:
    """The cell of a task's predictions: box AP over the task's own classes for detection, else accuracy.

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
