"""Annotations of one image in Pascal VOC's XML.

Read with the standard library's expat. A document type is refused as soon as it starts, in whatever encoding, so no
entity is ever defined, expanded or fetched. Parts of an object (heads, hands) are passed over.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from task_streams.errors import unknown_name
from task_streams.sources.boxes import BoxCollector, is_number
from task_streams.sources.records import Damaged, FileSource


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which objects are taken.

    Attributes:
        classes: names of the classes; a box keeps the position of its class.
        skip_others: leave out objects of other classes; else they are a fault.
        difficult: take those that are marked difficult too.
    """

    classes: tuple[str, ...]
    skip_others: bool
    difficult: bool


def parse_xml(path: Path) -> Element:
    """Root of an annotation.

    Raises:
        Damaged: it cannot be read, is no XML, no annotation, or has a document type.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
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


def add_objects(boxes: BoxCollector, key: str, name: str, annotation: Element, wanted: Wanted) -> None:
    """Put the objects of an annotation into the boxes of its image.

    Raises:
        Damaged: the size of the image is not given, or below one pixel.
    """
    width, height = (_number(annotation.findtext(f"size/{side}")) for side in ("width", "height"))
    if width is None or height is None or min(width, height) < 1:
        raise Damaged("no size with width and height above 0")
    for number, row in enumerate(annotation.iterfind("object"), start=1):
        category = (row.findtext("name") or "").strip()
        corners = [_number(row.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        if category not in wanted.classes and wanted.skip_others:
            boxes.left_out["of other classes"] += 1
        elif category not in wanted.classes:
            unknown = unknown_name("class", category, wanted.classes)
            boxes.fault(f"objects of an {unknown} Rename it, or set other_classes=skip. In", name)
        elif None in corners:
            boxes.fault("objects without the four numbers of a bndbox", f"{name}, object {number}")
        elif (row.findtext("difficult") or "").strip() == "1" and not wanted.difficult:
            boxes.left_out["marked difficult"] += 1
        else:
            x1, y1, x2, y2 = (corner or 0.0 for corner in corners)
            boxes.add_box(key, wanted.classes.index(category), (x1 - 1, y1 - 1, x2, y2), width, height)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if is_number(value) else None


def _refuse_doctype(*declaration: object) -> NoReturn:
    raise Damaged("a document type; refused, it could expand without end")
