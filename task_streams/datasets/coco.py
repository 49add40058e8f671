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
from typing import Any

from task_streams.config import choice_problems
from task_streams.errors import UserError, shown
from task_streams.registry import StreamSpec
from task_streams.scenarios.detection import DetectionCilConfig, detection_cil
from task_streams.sources.boxes import BoxCollector, BoxTable, cached, file_names, is_number, stays_inside
from task_streams.sources.layout import below, existing_root
from task_streams.sources.records import FileSource, Workspace
from task_streams.types import TaskStream

ORDERS = ("names", "ids")
NEEDED = ("images", "annotations", "categories")
# Everything else in the file (polygons above all) is dropped while it is parsed.
KEPT = {*NEEDED, "id", "name", "file_name", "width", "height", "image_id", "category_id", "bbox", "iscrowd"}


@dataclass(frozen=True, kw_only=True)
class CocoCilConfig(DetectionCilConfig):
    """COCO 2017 or a set in its form, new categories in each task."""

    root: str = "data/coco"
    """Path of the folder that holds the folders of images and annotations/."""
    tasks: int = 5
    """Number of tasks, >= 1; tasks x classes_per_task categories must exist."""
    classes_per_task: int = 16
    """New categories in each task, >= 1."""
    order_over: str = "names"
    """What the class order permutes: the names sorted, or in the order of their ids (RaPO's released code)."""
    train_images: str = "train2017"
    """Folder of the training images below root; stands for {images} in the name of the annotations."""
    test_images: str = "val2017"
    """Folder of the test images below root, likewise."""
    annotations: str = "annotations/instances_{images}.json"
    """Annotations of a folder of images, below root."""

    def problems(self) -> list[str]:
        """One sentence for each value that is out of range."""
        found = super().problems() + choice_problems("order_over", self.order_over, ORDERS)
        if "{images}" not in self.annotations:
            found.append(f"annotations is {self.annotations!r}; expected a path with {{images}} in it")
        return found


def coco_cil(config: CocoCilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Class-incremental stream of COCO.

    Raises:
        UserError: the layout is not as expected, annotations or images are damaged, or too few categories.
    """
    folders = (config.train_images, config.test_images)
    files = [config.annotations.replace("{images}", images) for images in folders]
    root = existing_root(config.root, LAYOUT, ORIGIN, [*folders, *files])
    train, test = (read_split(root, images, file, workspace) for images, file in zip(folders, files, strict=True))
    over = train.classes if config.order_over == "ids" else sorted(train.classes)
    return detection_cil("coco_cil", train, test, config, order_seed, workspace, over)


def read_split(root: Path, images: str, annotations: str, workspace: Workspace) -> BoxTable:
    """The boxes of one folder of images; keys are paths below the root.

    Args:
        root: path of the root, resolved.
        images: folder of the images below the root.
        annotations: file below the root.
        workspace: keeps what was parsed.

    Raises:
        UserError: a path leads out of the root, or the annotations are no COCO JSON.
    """
    path = below(root, annotations)
    table = cached(workspace, f"{path} {images}", FileSource(path).stamp(), root, lambda: _parse(root, path, images))
    return replace(table, problems=(*table.problems, *_file_problems(root, images, table.keys)))


def _file_problems(root: Path, images: str, keys: Sequence[str]) -> list[str]:
    """Images of the annotations that are not there; every folder is listed once."""
    problems: list[str] = []
    folders = sorted({key.rpartition("/")[0] for key in keys} | {images})
    there = {f"{folder}/{name}" for folder in folders for name in file_names(root, folder, problems)}
    missing = [key for key in keys if key not in there]
    return problems + ([f"{images}: {len(missing)} images are missing: {shown(missing, 5)}"] if missing else [])


def _parse(root: Path, path: Path, images: str) -> BoxTable:
    data = _json(path)
    split = _Split(images, data)
    return split.collector.table(root, images, split.classes)


def _json(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The tables of an annotation file, with the fields that are needed.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_hook=_slim)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected COCO annotations as JSON; {error}") from error
    tables = {name: data.get(name) for name in NEEDED} if isinstance(data, dict) else {}
    wrong = [name for name in NEEDED if not isinstance(tables.get(name), list)]
    if wrong:
        found = shown(sorted(data), 8) if isinstance(data, dict) else type(data).__name__
        raise UserError(f"{path}: expected COCO annotations, with the lists {', '.join(NEEDED)}; found {found}")
    return {name: [row if isinstance(row, dict) else {} for row in rows or []] for name, rows in tables.items()}


def _slim(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in KEPT}


class _Split:
    """One annotation file on its way into a table: everything is checked, every fault is counted by its kind."""

    def __init__(self, images: str, data: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self.images = images
        self.collector = BoxCollector()
        self.categories = self._categories(data["categories"])
        self.sizes = self._sizes(data["images"])
        self._boxes(data["annotations"])

    def _categories(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        """Position of each category by its id; sets the names in the order of the ids."""
        names: dict[int, str] = {}
        for row in rows:
            number, name = row.get("id"), row.get("name")
            if type(number) is not int or not isinstance(name, str):
                self.collector.fault(
                    "categories without a whole number as id or a name", f"id {number!r}, name {name!r}"
                )
            elif number in names:
                self.collector.fault("categories whose id is taken", f"id {number} ({names[number]}, {name})")
            elif name in names.values():
                self.collector.fault("categories whose name is taken", f"{name} (id {number})")
            else:
                names[number] = name
        self.classes = tuple(name for _, name in sorted(names.items()))
        return {number: position for position, number in enumerate(sorted(names))}

    def _sizes(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, tuple[str, float, float]]:
        """Key, width and height of each image by its id."""
        sizes: dict[int, tuple[str, float, float]] = {}
        for row in rows:
            number, name, width, height = (row.get(field) for field in ("id", "file_name", "width", "height"))
            if type(number) is not int or not isinstance(name, str) or not stays_inside(name):
                self.collector.fault(
                    "images without a whole number as id or a file name below the folder", f"{number!r} {name!r}"
                )
                continue
            key = f"{self.images}/{name}"
            if not is_number(width) or not is_number(height) or min(width, height) < 1:
                self.collector.fault("images without width and height", f"{name} ({width!r} x {height!r})")
            elif number in sizes:
                self.collector.fault("images whose id is taken", f"id {number} ({sizes[number][0]}, {key})")
            elif key in self.collector.boxes:
                self.collector.fault("images that are listed twice", name)
            else:
                sizes[number] = (key, width, height)
                self.collector.add_image(key)
        return sizes

    def _boxes(self, rows: Sequence[Mapping[str, Any]]) -> None:
        taken: set[int] = set()
        for row in rows:
            number, image, category, box = (row.get(field) for field in ("id", "image_id", "category_id", "bbox"))
            name = f"annotation {number!r}"
            if type(number) is not int:
                self.collector.fault("annotations without a whole number as id", name)
            elif number in taken:
                self.collector.fault("annotations whose id is taken", name)
            elif type(image) is not int or image not in self.sizes:
                self.collector.fault("annotations of an image that is not listed", f"{name} (image {image!r})")
            elif type(category) is not int or category not in self.categories:
                self.collector.fault("annotations of a category that is not listed", f"{name} (category {category!r})")
            elif not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
                self.collector.fault("annotations whose bbox is no x, y, width, height", name)
            elif row.get("iscrowd"):
                self.collector.left_out["crowds"] += 1
            else:
                key, width, height = self.sizes[image]
                x, y, across, down = box
                self.collector.add_box(key, self.categories[category], (x, y, x + across, y + down), width, height)
            if type(number) is int:
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
