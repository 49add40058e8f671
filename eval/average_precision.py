"""Box AP by pycocotools, as COCO's protocol has it: what detection is measured by.

A vision-language model gives no confidence with its boxes, so each has confidence 1 and they rank in the order in which
they are listed: images in the order of their predictions, boxes as the answer lists them. Such an AP is lower than that
of a detector which can rank its boxes, and depends on that order a little; it compares with others of its kind only.

Boxes of all sizes count, the first 100 per image and category. IoU is taken in thousandths of width and height; it is
the same in pixels, but for the rounding. Deliberately absent: crowds and difficult objects (left out by the streams),
and AP by size.
"""

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.detection import parse_boxes
from eval.evaluate import Prediction
from task_streams.labels import normalise_label
from task_streams.types import Box

if TYPE_CHECKING:
    from pycocotools.coco import COCO

CONFIDENCE = 1.0
COCO_THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
MOST_BOXES = 100  # per image and category


def average_precision(predictions: Sequence[Prediction], categories: Sequence[str]) -> float:
    """AP, 0 to 1: mean over IoU 0.50 to 0.95 in steps of 0.05 and over the categories that are in these images.

    Args:
        predictions: of one stage, one per image; ``label`` and ``answer`` are boxes as JSON.
        categories: those to take the mean over, e.g. a task's own; boxes of others are passed over.

    Raises:
        ValueError: none of the categories is in any of the images, or a label is no list of boxes.
    """
    return _mean_precision(predictions, categories, COCO_THRESHOLDS)


def average_precision_50(predictions: Sequence[Prediction], categories: Sequence[str]) -> float:
    """AP at IoU 0.50 alone, 0 to 1; otherwise as ``average_precision``."""
    return _mean_precision(predictions, categories, (0.5,))


def _mean_precision(predictions: Sequence[Prediction], categories: Sequence[str], thresholds: Sequence[float]) -> float:
    names = {normalise_label(name): number for number, name in enumerate(categories, start=1)}
    right = [_rows(_label_boxes(p), image, names) for image, p in enumerate(predictions, start=1)]
    found = [_rows(parse_boxes(p.answer or "[]") or [], image, names) for image, p in enumerate(predictions, start=1)]
    if not any(right):
        raise ValueError(
            f"the AP over {', '.join(categories) or 'no categories'} is undefined: "
            f"none of them is in any of the {len(predictions)} images"
        )
    images = range(1, len(predictions) + 1)
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(StringIO()):  # pycocotools prints at every step
        judge = COCOeval(_dataset(right, images, names), _dataset(found, images, names), "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [MOST_BOXES]
        judge.params.iouThrs = np.array(thresholds)
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]  # [T, R, K, 1, 1]; -1 for a category without ground truth
    return float(precision[precision > -1].mean())


def _label_boxes(prediction: Prediction) -> list[Box]:
    boxes = parse_boxes(prediction.label)
    if boxes is None:
        raise ValueError(f"{prediction.key}: its label is no list of boxes but {prediction.label[:80]!r}")
    return boxes


def _rows(boxes: Sequence[Box], image: int, names: dict[str, int]) -> list[dict[str, Any]]:
    """Boxes of one image as COCO annotations, those of other categories left out."""
    rows = []
    for box in boxes:
        if (number := names.get(normalise_label(box.category))) is not None:
            x1, y1, x2, y2 = box.corners
            shape = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            rows.append({"image_id": image, "category_id": number, "score": CONFIDENCE, **shape})
    return rows


def _dataset(rows: Sequence[Sequence[dict[str, Any]]], images: range, names: dict[str, int]) -> "COCO":
    from pycocotools.coco import COCO

    coco = COCO()
    annotations = [row for of_image in rows for row in of_image]
    coco.dataset = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": number} for number in names.values()],
        "annotations": [{"id": i, **row} for i, row in enumerate(annotations, start=1)],  # 0 means unmatched
    }
    coco.createIndex()
    return coco
