"""Pascal VOC, and any set in its XML form: new classes, or a new domain, in each task.

Layout: ``VOCdevkit/VOC2007/{Annotations/<id>.xml,JPEGImages/<id>.jpg,ImageSets/Main/<set>.txt}``, likewise VOC2012,
from host.robots.ox.ac.uk/pascal/VOC. The test annotations of VOC2012 are not public: test on VOC2007/test, or on
VOC2012/val after training on VOC2012/train. Corners are pixels from 1, the far ones inclusive. Objects marked difficult
are left out unless asked for: VOC's own evaluation does not count them. The XML is read with the standard library's
expat; a document type is refused as soon as it starts, in whatever encoding, so no entity is ever defined, expanded or
fetched. Deliberately absent: segmentation, parts of persons, actions.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from task_streams.config import Count, listed_twice
from task_streams.errors import UserError, shown, unknown_name
from task_streams.labels import shown_form
from task_streams.registry import StreamSpec
from task_streams.scenarios.detection import (
    DetectionCilConfig,
    DetectionConfig,
    DetectionDilConfig,
    detection_cil,
    detection_dil,
)
from task_streams.sources.boxes import BoxCollector, BoxTable, as_flag, cached, file_names, is_number, stays_inside
from task_streams.sources.images import SUFFIXES
from task_streams.sources.layout import below, entries, existing_root, lines
from task_streams.sources.records import Damaged, FileSource, Workspace
from task_streams.types import TaskStream

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VocConfig(DetectionConfig):
    """What both streams of VOC-layout sets can be asked for."""

    root: str
    """Path of the folder with the sets, or of the one that holds VOCdevkit/."""
    classes: tuple[str, ...] = CLASSES
    """Names of the classes, as the XML has them."""
    other_classes: Literal["error", "skip"] = "error"
    """An object of a class that is not in classes: error, or skip (leave it out and record how many)."""
    difficult: bool = False
    """Whether objects that are marked difficult are kept."""

    def problems(self) -> list[str]:
        return super().problems() + listed_twice("class", self.classes)


@dataclass(frozen=True, kw_only=True)
class VocCilConfig(VocConfig, DetectionCilConfig):
    """Pascal VOC, new classes in each task."""

    tasks: Count = 2
    classes_per_task: Count = 10
    train: tuple[str, ...] = ("VOC2007/trainval",)
    """Sets to train on, <year's folder>/<image set>."""
    test: tuple[str, ...] = ("VOC2007/test",)
    """Sets to test on, likewise; no image may be in both."""

    def problems(self) -> list[str]:
        found = super().problems()
        for name, sets in (("train", self.train), ("test", self.test)):
            found += [] if sets else [f"{name} is empty; expected one or more of <folder>/<image set>"]
            wrong = [value for value in sets if not stays_inside(value) or value.count("/") != 1]
            found += [f"{name}: {one!r}; expected <folder>/<image set>, e.g. VOC2007/trainval" for one in wrong]
        return found


@dataclass(frozen=True, kw_only=True)
class VocDilConfig(VocConfig, DetectionDilConfig):
    """A series of VOC-layout sets, a new one in each task, all with the same classes."""

    domains: tuple[str, ...] = ()
    """The domains as name=folder, e.g. clipart=clipart1k; folders are VOC-layout sets below root."""
    train_set: str = "train"
    """Image set to train on in each domain."""
    test_set: str = "test"
    """Image set to test on in each domain; no image may be in both."""

    def problems(self) -> list[str]:
        parts = [value.partition("=") for value in self.domains]
        wrong = ["".join(part) for part in parts if not part[0] or not stays_inside(part[2])]
        return [
            *super().problems(),
            *(f"domains: {value!r}; expected name=folder, the folder below root" for value in wrong),
            *listed_twice("domain", (part[0] for part in parts)),
        ]


def voc_stream(config: VocCilConfig | VocDilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Stream of VOC sets: new classes in each task, or a new set (domain) in each."""
    base = existing_root(config.root, LAYOUT, ORIGIN)
    base = base / "VOCdevkit" if (base / "VOCdevkit").is_dir() else base
    if isinstance(config, VocCilConfig):
        train, test = _splits(base, config.train, config.test, config, workspace)
        return detection_cil("voc_cil", train, test, config, order_seed, workspace)
    domains = {}
    for value in config.domains:
        name, _, folder = value.partition("=")
        sets = ((f"{folder}/{config.train_set}",), (f"{folder}/{config.test_set}",))
        domains[name] = _splits(base, *sets, config, workspace)
    return detection_dil("voc_dil", domains, config, order_seed, workspace)


def _splits(
    base: Path, train: Sequence[str], test: Sequence[str], config: VocConfig, workspace: Workspace
) -> tuple[BoxTable, BoxTable]:
    """Boxes of training and test sets; an image in both is a problem."""
    first, second = (read_sets(base, sets, config, workspace) for sets in (train, test))
    if both := sorted(set(first.keys) & set(second.keys)):
        problem = f"{len(both)} images are in both {', '.join(train)} and {', '.join(test)}: {shown(both, 5)}"
        return first, replace(second, problems=(*second.problems, problem))
    return first, second


def read_sets(base: Path, sets: Sequence[str], config: VocConfig, workspace: Workspace) -> BoxTable:
    """The boxes of image sets, each ``<folder>/<image set>``; keys are paths below ``base``.

    Raises:
        UserError: a folder or a list of a set is missing.
    """
    items, problems = _items(base, sets)
    stamps = (f"{key} {name} {FileSource(xml).stamp() if xml else ''}" for name, xml, key in items)
    stamp = sha256("\n".join(stamps).encode()).hexdigest()

    def parse() -> BoxTable:
        boxes = BoxCollector()
        for name, xml, key in items:
            if key is None:
                boxes.faults["listed images that are missing in JPEGImages"].append(name)
            elif xml is None:
                boxes.faults["listed images without a file in Annotations"].append(name)
            elif key in boxes.boxes:
                boxes.faults["images that are listed twice"].append(name)
            else:
                try:
                    _add_objects(boxes, key, name, parse_xml(xml), config)
                except Damaged as fault:
                    boxes.faults["annotations that cannot be read"].append(f"{name}.xml ({fault})")
        return boxes.table(base, ", ".join(sets), config.classes)

    wanted = f"{list(config.classes)} {config.other_classes} {config.difficult}"
    table = cached(workspace, f"{base} {list(sets)} {wanted}", stamp, base, parse)
    return replace(table, problems=(*problems, *table.problems))


def _items(base: Path, sets: Sequence[str]) -> tuple[list[tuple[str, Path | None, str | None]], list[str]]:
    """Name, annotations and key (path below the base) of each image that the sets list, None for what is missing.

    Then links that lead out of the root.
    """
    missing: list[str] = []
    problems: list[str] = []
    items: list[tuple[str, Path | None, str | None]] = []
    for path in map(PurePosixPath, sets):
        folder = below(base, str(path.parent))
        file = folder / "ImageSets" / "Main" / f"{path.name}.txt"
        if lacking := [name for name in PARTS if not (folder / name).is_dir()]:
            found = shown([e.name for e in entries(folder)], 8) if folder.is_dir() else "no such folder"
            missing.append(f"{folder}: expected {', '.join(PARTS)}; missing {', '.join(lacking)}, found {found}")
            continue
        if not file.is_file():
            known = [e.name.removesuffix(".txt") for e in entries(file.parent) if "_" not in e.name]
            missing.append(f"{file.parent}: {unknown_name('image set', path.name, known)}")
            continue
        pictures = sorted(file_names(base, f"{path.parent}/JPEGImages", problems), reverse=True)
        images = {PurePosixPath(name).stem: name for name in pictures if name.lower().endswith(SUFFIXES)}
        texts = file_names(base, f"{path.parent}/Annotations", problems)
        for _, name in lines(file):
            key = f"{path.parent}/JPEGImages/{images[name]}" if name in images else None
            xml = folder / "Annotations" / f"{name}.xml" if f"{name}.xml" in texts else None
            items.append((f"{path.parent}/{name}", xml, key))
    if missing:
        raise UserError(*dict.fromkeys(missing))
    return items, list(dict.fromkeys(problems))


def parse_xml(path: Path) -> Element:
    """Root of an annotation.

    Raises:
        Damaged: it cannot be read, is no XML, no annotation, or has a document type.
    """

    def refuse(*declaration: object) -> NoReturn:
        raise Damaged("a document type; refused, it could expand without end")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(FileSource(path).read(), True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the latter two of an encoding that is unknown
        raise Damaged(str(error)) from error
    root = builder.close()
    if root.tag != "annotation":
        raise Damaged(f"expected <annotation>, found <{root.tag}>")
    return root


def _add_objects(boxes: BoxCollector, key: str, name: str, annotation: Element, config: VocConfig) -> None:
    """Put the objects of an annotation into the boxes of its image."""
    width, height = _numbers(annotation, "size/width", "size/height")
    if width is None or height is None or min(width, height) < 1:
        raise Damaged("no size with width and height above 0")
    boxes.add_image(key, width, height)
    for number, row in enumerate(annotation.iterfind("object"), start=1):
        category = shown_form((row.findtext("name") or "").strip())
        x1, y1, x2, y2 = _numbers(row, "bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
        if category not in config.classes and config.other_classes == "skip":
            boxes.left_out["of other classes", -1] += 1
        elif category not in config.classes:
            unknown = unknown_name("class", category, config.classes)
            boxes.faults[f"objects of an {unknown} Rename it, or set other_classes=skip. In"].append(name)
        elif x1 is None or y1 is None or x2 is None or y2 is None:
            boxes.faults["objects without the four numbers of a bndbox"].append(f"{name}, object {number}")
        elif (difficult := as_flag(row.findtext("difficult"))) is None:
            found = f"{name}, object {number} ({row.findtext('difficult')!r})"
            boxes.faults["objects whose difficult is neither 0 nor 1"].append(found)
        elif difficult and not config.difficult:
            boxes.left_out["marked difficult", config.classes.index(category)] += 1
        else:
            boxes.add_box(key, config.classes.index(category), (x1 - 1, y1 - 1, x2, y2))


def _numbers(element: Element, *paths: str) -> list[float | None]:
    """Numbers in the elements of some paths; None for what is no number or not there."""
    found: list[float | None] = []
    for path in paths:
        value = None
        with suppress(ValueError):
            value = float(element.findtext(path) or "")
        found.append(value if is_number(value) else None)
    return found


PARTS = ("Annotations", "JPEGImages", "ImageSets/Main")
LAYOUT = "VOC2007/{Annotations/<id>.xml,JPEGImages/<id>.jpg,ImageSets/Main/<set>.txt}, itself or below VOCdevkit/"
ORIGIN = "the Pascal VOC challenges 2007 and 2012 (http://host.robots.ox.ac.uk/pascal/VOC)"
LICENCE = "images under Flickr's terms; annotations as the challenge gives them"
CITATION = "Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010"
CIL = StreamSpec(
    VocCilConfig, voc_stream, "Pascal VOC 2007/2012: boxes of 20 classes, new ones in each task", LICENCE, CITATION
)
DIL = StreamSpec(
    VocDilConfig, voc_stream, "a series of sets in VOC's layout, a new domain in each task", LICENCE, CITATION
)
