"""COCO 2017, and any set in its JSON form: 80 categories, new ones in each task.

Layout: ``root/{train2017,val2017}/*.jpg`` and ``root/annotations/instances_{train2017,val2017}.json`` (images,
annotations with absolute x, y, width, height, categories with ids from 1 to 90 with gaps), from cocodataset.org; the
names can be set. Crowd annotations are left out. The annotations are parsed once (450 MB for COCO) and then kept
as arrays in the workspace's cache. Deliberately absent: segmentation, keypoints, captions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from task_streams.config import Count
from task_streams.errors import UserError, shown
from task_streams.labels import shown_form
from task_streams.registry import StreamSpec
from task_streams.scenarios.detection import DetectionCilConfig, detection_cil
from task_streams.sources.boxes import BoxCollector, BoxTable, as_flag, cached, file_names, is_number, stays_inside
from task_streams.sources.layout import below, existing_root, read_text
from task_streams.sources.records import FileSource, Workspace
from task_streams.types import TaskStream

NEEDED = ("images", "annotations", "categories")
# Everything else in the file (polygons above all) is dropped while it is parsed.
KEPT = {*NEEDED, "id", "name", "file_name", "width", "height", "image_id", "category_id", "bbox", "iscrowd"}

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class CocoCilConfig(DetectionCilConfig):
    """COCO 2017 or a set in its form, new categories in each task."""

    root: str = "data/coco"
    """Path of the folder that holds the folders of images and annotations/."""
    tasks: Count = 5
    """Number of tasks, >= 1; tasks x classes_per_task categories must exist."""
    classes_per_task: Count = 16
    """New categories in each task, >= 1."""
    order_over: Literal["names", "ids"] = "names"
    """What the class order permutes: the names sorted, or in the order of their ids (RaPO's released code)."""
    train_images: str = "train2017"
    """Folder of the training images below root; stands for {images} in the name of the annotations."""
    test_images: str = "val2017"
    """Folder of the test images below root, likewise."""
    annotations: Annotated[str, Field(pattern=r"\{images\}", title="a path with {images} in it")] = (
        "annotations/instances_{images}.json"
    )
    """Annotations of a folder of images, below root."""


def coco_cil(config: CocoCilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Class-incremental stream of COCO."""
    folders = (config.train_images, config.test_images)
    files = [config.annotations.replace("{images}", images) for images in folders]
    root = existing_root(config.root, LAYOUT, ORIGIN, [*folders, *files])
    train, test = (read_split(root, images, file, workspace) for images, file in zip(folders, files, strict=True))
    return detection_cil("coco_cil", train, test, config, order_seed, workspace, config.order_over == "names")


def read_split(root: Path, images: str, annotations: str, workspace: Workspace) -> BoxTable:
    """The boxes of one folder of images; keys are paths below the resolved root. Missing images are a problem.

    Raises:
        UserError: a path leads out of the root, or the annotations are no COCO JSON.
    """
    path = below(root, annotations)

    def parse() -> BoxTable:
        """Everything is checked, every fault is counted by its kind."""
        try:
            text = read_text(path)
            data = json.loads(text, object_hook=lambda row: {name: row[name] for name in row if name in KEPT})
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: expected COCO annotations as JSON; {error}") from error
        lists = [data.get(name) for name in NEEDED] if isinstance(data, dict) else [None]
        if not all(isinstance(rows, list) for rows in lists):
            found = shown(sorted(data), 8) if isinstance(data, dict) else type(data).__name__
            raise UserError(f"{path}: expected COCO annotations, with the lists {', '.join(NEEDED)}; found {found}")
        listed, annotated, categories = ([row if isinstance(row, dict) else {} for row in rows or []] for rows in lists)
        boxes = BoxCollector()
        names = _category_names(categories, boxes)
        keys = _add_images(listed, images, boxes)
        _add_boxes(annotated, sorted(names), keys, boxes)
        return boxes.table(root, images, [names[number] for number in sorted(names)])

    table = cached(workspace, f"{path} {images}", FileSource(path).stamp(), root, parse)
    problems = list(table.problems)
    folders = sorted({key.rpartition("/")[0] for key in table.keys} | {images})
    there = {f"{folder}/{name}" for folder in folders for name in file_names(root, folder, problems)}
    if missing := [key for key in table.keys if key not in there]:
        problems.append(f"{images}: {len(missing)} images are missing: {shown(missing, 5)}")
    return replace(table, problems=tuple(problems))


def _category_names(rows: Rows, boxes: BoxCollector) -> dict[int, str]:
    """Name of each category by its id."""
    names: dict[int, str] = {}
    for row in rows:
        number, name = row.get("id"), row.get("name")
        if type(number) is not int or not isinstance(name, str):
            boxes.faults["categories without a whole number as id or a name"].append(f"id {number!r}, name {name!r}")
        elif number in names:
            boxes.faults["categories whose id is taken"].append(f"id {number} ({names[number]}, {name})")
        elif shown_form(name) in names.values():
            boxes.faults["categories whose name is taken"].append(f"{name} (id {number})")
        else:
            names[number] = shown_form(name)
    return names


def _add_images(rows: Rows, images: str, boxes: BoxCollector) -> dict[int, str]:
    """Put the images in; key of each by its id."""
    keys: dict[int, str] = {}
    for row in rows:
        number, name, width, height = (row.get(field) for field in ("id", "file_name", "width", "height"))
        key = f"{images}/{name}"
        if type(number) is not int or not isinstance(name, str) or not stays_inside(name):
            fault = "images without a whole number as id or a file name below the folder"
            boxes.faults[fault].append(f"{number!r} {name!r}")
        elif not is_number(width) or not is_number(height) or min(width, height) < 1:
            boxes.faults["images without width and height"].append(f"{name} ({width!r} x {height!r})")
        elif number in keys:
            boxes.faults["images whose id is taken"].append(f"id {number} ({keys[number]}, {key})")
        elif key in boxes.boxes:
            boxes.faults["images that are listed twice"].append(name)
        else:
            keys[number] = key
            boxes.add_image(key, width, height)
    return keys


def _add_boxes(rows: Rows, categories: Sequence[int], keys: Mapping[int, str], boxes: BoxCollector) -> None:
    """Put the annotations into their images; ``categories``: all ids, in the order of the classes."""
    position = {number: place for place, number in enumerate(categories)}
    taken: set[int] = set()
    for row in rows:
        number, image, category, box = (row.get(field) for field in ("id", "image_id", "category_id", "bbox"))
        name = f"annotation {number!r}"
        if type(number) is not int:
            boxes.faults["annotations without a whole number as id"].append(name)
            continue
        if number in taken:
            boxes.faults["annotations whose id is taken"].append(name)
        elif type(image) is not int or image not in keys:
            boxes.faults["annotations of an image that is not listed"].append(f"{name} (image {image!r})")
        elif type(category) is not int or category not in position:
            boxes.faults["annotations of a category that is not listed"].append(f"{name} (category {category!r})")
        elif not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            boxes.faults["annotations whose bbox is no x, y, width, height"].append(name)
        elif (crowd := as_flag(row.get("iscrowd"))) is None:
            boxes.faults["annotations whose iscrowd is neither 0 nor 1"].append(f"{name} ({row['iscrowd']!r})")
        elif crowd:
            boxes.left_out["crowds", position[category]] += 1
        else:
            x, y, across, down = box
            boxes.add_box(keys[image], position[category], (x, y, x + across, y + down))
        taken.add(number)


ORIGIN = "COCO 2017 (2017 Train/Val images and annotations, https://cocodataset.org/#download)"
LAYOUT = "{train2017,val2017}/<image> and annotations/instances_{train2017,val2017}.json"
CIL = StreamSpec(
    CocoCilConfig,
    coco_cil,
    "COCO 2017 or a set in its form: boxes of 80 categories, new ones in each task",
    "annotations CC BY 4.0; images under their own Flickr licences",
    "Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
)
