"""The accuracy of one task after one stage: an entry R[i,j] of the accuracy matrix; of detection it is box AP.

Box AP is computed by pycocotools, as COCO's protocol has it. For boxes of new classes there is also one number over all
tasks so far. Source of both: RaPO (arXiv 2605.09640), whose A_t is the AP over the test set of all classes so far, and
whose released code takes a task's AP over every image with one of its classes.

A vision-language model gives no confidence with its boxes, so each has confidence 1 and they rank in the order in which
they are listed: images in the order of their predictions, boxes as the answer lists them. Such an AP is lower than that
of a detector which can rank its boxes, and depends on that order a little; it compares with others of its kind only.

Boxes of all sizes count, the first 100 per image and category. IoU is taken in thousandths of width and height; it is
the same in pixels, but for the rounding. Deliberately absent: crowds and difficult objects (left out by the streams),
and AP by size.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.detection import parse_boxes
from eval.evaluate import Prediction
from eval.matrix import ACCURACY, BOX_AP, POOLED_BOX_AP
from task_streams.labels import normalise_label
from task_streams.types import Box, Task, TaskStream

if TYPE_CHECKING:
    from pycocotools.coco import COCO

CONFIDENCE = 1.0
COCO_THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
MOST_BOXES = 100  # per image and category


@dataclass(frozen=True, slots=True)
class TaskAccuracy:
    """Accuracy of one task after one stage."""

    value: float  # accuracy, or box AP for detection; 0 to 1
    correct: int | None = None  # right answers; None where the value is no share of right answers
    total: int | None = None  # test items; None likewise
    # other results of the same predictions by name, 0 to 1, e.g. AP at IoU 0.50 alone
    also: Mapping[str, float] = field(default_factory=dict)


def measure_of(stream: TaskStream) -> str:
    """What a stream is measured by: ``accuracy``; ``box AP`` of each domain; or, of new classes, ``pooled box AP``."""
    if stream.tasks[0].kind != "detection":
        return ACCURACY
    return POOLED_BOX_AP if stream.scenario == "cil" else BOX_AP


def task_accuracy(task: Task, predictions: Sequence[Prediction]) -> TaskAccuracy:
    """R[i,j] of a task's predictions: box AP over the task's own classes for detection, else accuracy.

    Raises:
        ValueError: there are no predictions.
    """
    if task.kind == "detection":
        at_half = average_precision(predictions, task.classes, (0.5,))
        return TaskAccuracy(average_precision(predictions, task.classes), also={"average_precision_50": at_half})
    if not predictions:
        raise ValueError(f"task {task.name}: the accuracy of no predictions is undefined")
    correct = sum(prediction.correct for prediction in predictions)
    return TaskAccuracy(correct / len(predictions), correct, len(predictions))


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


def average_precision(
    predictions: Sequence[Prediction], categories: Sequence[str], thresholds: Sequence[float] = COCO_THRESHOLDS
) -> float:
    """AP, 0 to 1: mean over thresholds of IoU and over the categories that are in these images.

    Args:
        predictions: of one stage, one per image; ``label`` and ``answer`` are boxes as JSON.
        categories: those to take the mean over, e.g. a task's own; boxes of others are passed over.
        thresholds: least IoU that counts; COCO's are 0.50 to 0.95 in steps of 0.05.

    Raises:
        ValueError: none of the categories is in any of the images, or a label is no list of boxes.
    """
    from pycocotools.cocoeval import COCOeval

    right, found = [], []
    for prediction in predictions:
        boxes = parse_boxes(prediction.label)
        if boxes is None:
            raise ValueError(f"{prediction.key}: its label is no list of boxes but {prediction.label[:80]!r}")
        right.append(boxes)
        found.append(parse_boxes(prediction.answer or "[]") or [])
    with redirect_stdout(StringIO()):  # pycocotools prints at every step
        truth, answers = (_dataset(images, categories) for images in (right, found))
        if not truth.anns:
            raise ValueError(
                f"the AP over {', '.join(categories) or 'no categories'} is undefined: "
                f"none of them is in any of the {len(predictions)} images"
            )
        judge = COCOeval(truth, answers, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [MOST_BOXES]
        judge.params.iouThrs = np.array(thresholds)
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]  # [T, R, K, 1, 1]; -1 for a category without ground truth
    return float(precision[precision > -1].mean())


def _dataset(images: Sequence[Sequence[Box]], categories: Sequence[str]) -> "COCO":
    """The boxes of each image as COCO's annotations, those of other categories left out."""
    from pycocotools.coco import COCO

    names = {normalise_label(name): number for number, name in enumerate(categories, start=1)}
    annotations: list[dict[str, Any]] = []
    for image, boxes in enumerate(images, start=1):
        for box in boxes:
            if (number := names.get(normalise_label(box.category))) is not None:
                x1, y1, x2, y2 = box.corners
                shape = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                place = {"id": len(annotations) + 1, "image_id": image, "category_id": number}  # id 0 means unmatched
                annotations.append({**place, "score": CONFIDENCE, **shape})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(1, len(images) + 1)],
        "categories": [{"id": number} for number in names.values()],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
