"""COCO's own judge, as its own users call it: a results list with scores through ``loadRes``, and ``summarize``."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

WIDTH, HEIGHT = 500, 250  # pixels: a thousandth is half a pixel across and a quarter down
Rows = Sequence[tuple[str, tuple[int, int, int, int]]]  # boxes of an image: class, corners in thousandths


def coco_stats(right: Sequence[Rows], found: Sequence[Rows], names: Sequence[str]) -> list[float]:
    """The twelve figures of ``COCOeval`` for images in their order: AP, AP at 0.50, …; boxes of other classes cut."""
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(1, len(right) + 1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        "annotations": [{"id": i, "iscrowd": 0, **row} for i, row in enumerate(_pixels(right, names), start=1)],
    }
    results = COCO()  # none, which ``loadRes`` does not take
    results.dataset = {**coco.dataset, "annotations": []}
    answers = [{"score": 1.0, **row} for row in _pixels(found, names)]
    with redirect_stdout(StringIO()):
        coco.createIndex()
        results.createIndex()
        judge = COCOeval(coco, coco.loadRes(answers) if answers else results, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats]


def _pixels(images: Sequence[Rows], names: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for image, boxes in enumerate(images, start=1):
        for name, (x1, y1, x2, y2) in boxes:
            if name in names:
                bbox = [x1 * WIDTH / 1000, y1 * HEIGHT / 1000, (x2 - x1) * WIDTH / 1000, (y2 - y1) * HEIGHT / 1000]
                place = {"image_id": image, "category_id": names.index(name) + 1}
                rows.append({**place, "bbox": bbox, "area": bbox[2] * bbox[3]})
    return rows
