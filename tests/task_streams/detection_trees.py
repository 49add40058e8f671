"""Small trees in the layouts of COCO and Pascal VOC, with real images of 200 x 100 pixels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH, HEIGHT = 200, 100

# Boxes of an image in pixels: class, x, y, width, height.
Boxes = Sequence[tuple[str, float, float, float, float]]

COCO_IDS = {"dog": 18, "cat": 17, "zebra": 24, "apple": 53}


def write_image(path: Path, number: int) -> None:
    """An image of a colour of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (number % 256, number // 256, 9)).save(path)


def whole(name: str, x: float = 20, y: float = 10, width: float = 40, height: float = 20) -> Boxes:
    """One box; of thousandths 100, 100, 300, 300 by default."""
    return [(name, x, y, width, height)]


def write_coco(root: Path, splits: Mapping[str, Sequence[Boxes]], ids: Mapping[str, int] = COCO_IDS) -> None:
    """A COCO tree: image i of a split is <split>/<i in 6 digits>.png; annotations count over the split."""
    for place, (split, images) in enumerate(splits.items()):
        data = coco_json(images, ids)
        for number in range(len(images)):
            write_image(root / split / f"{number:06d}.png", 1000 * place + number)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))


def coco_json(images: Sequence[Boxes], ids: Mapping[str, int] = COCO_IDS) -> dict[str, Any]:
    """The annotations of images."""
    listed = [{"id": i, "file_name": f"{i:06d}.png", "width": WIDTH, "height": HEIGHT} for i in range(len(images))]
    rows = [(image, box) for image, boxes in enumerate(images) for box in boxes]
    return {
        "info": {},
        "images": listed,
        "annotations": [
            {"id": i, "image_id": image, "category_id": ids[box[0]], "bbox": list(box[1:]), "iscrowd": 0}
            for i, (image, box) in enumerate(rows)
        ],
        "categories": [{"id": number, "name": name, "supercategory": "thing"} for name, number in ids.items()],
    }


def write_voc(folder: Path, splits: Mapping[str, Mapping[str, Boxes]], first: int = 0) -> None:
    """A VOC-layout set: image ids and boxes of each image set; colours count from ``first``."""
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "Annotations").mkdir()
    for split, images in splits.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in images))
        for name, boxes in images.items():
            write_image(folder / "JPEGImages" / f"{name}.png", first)
            (folder / "Annotations" / f"{name}.xml").write_text(voc_xml(boxes))
            first += 1


def voc_xml(boxes: Boxes, difficult: bool = False) -> str:
    """An annotation; corners count from 1, the far ones inclusive."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>"
        for name, x, y, width, height in boxes
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"
