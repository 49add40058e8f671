"""Generated data folders as people have them, each item of which knows what is right about it.

``make`` writes a folder in one of the ``LAYOUTS`` and lets some ``PROPERTIES`` befall it: Unicode forms, tags, sizes,
orientations, flags, mixed forms, special files. Every picture shows which item it is, or where its box lies, so that a
stream can be held against the truth. Deliberately absent: what the commands make of it (``benchmarks/fuzz_truth.py``).
"""

import io
import json
import os
import random
import socket
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

Expected = Literal["passes", "refused", "either"]
Split = Literal["train", "test"]

SIZE = (60, 40)  # of a picture as it is meant to be seen
TRAIN, TEST = 4, 2  # items of each class
NAMES = ("ant", "bee", "cow", "dog")


@dataclass
class Item:
    """One image with what is right about it.

    Attributes:
        number: its own in the folder; the colour of its picture, and its file's name.
        label: its class, or the answer to its question, as people read it.
        written: the same as the data have it.
        box: of its object, x1, y1, x2, y2 as shares of the image as it is seen.
        look: how its file is made, one of ``LOOKS``.
        declared: width and height as annotations tell them, and the frame that their boxes are in.
        lost: it cannot be used, so that it must be named.
        more: other columns or keys of its row.
    """

    number: int
    label: str
    split: Split
    written: Any = None
    box: tuple[float, float, float, float] = (0.2, 0.3, 0.6, 0.8)
    look: str = "plain"
    declared: Literal["upright", "raw", "other"] = "upright"
    lost: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return f"{self.number:03d}"

    @property
    def file(self) -> str:
        return f"{self.stem}.{'jpg' if self.look in ('turned', 'mirrored') else 'png'}"


@dataclass
class Folder:
    """A folder to be written, and what must become of it.

    Attributes:
        layout: one of ``LAYOUTS``.
        stream: settings of the stream.
        encoding, line_end: of text files.
        form: of files of questions.
        befallen: names of the properties.
        expects: without a model, and with one.
    """

    layout: str
    items: list[Item]
    stream: dict[str, Any]
    encoding: str = "utf-8"
    line_end: str = "\n"
    form: str = "list"
    names: list[str] | None = None  # class_names of a table, by number
    blank_line: bool = False
    befallen: list[str] = field(default_factory=list)
    expects: Expected = "passes"
    with_model: Expected = "passes"

    def expect(self, one: Expected, with_model: Expected | None = None) -> None:
        """One more property's demand; a refusal outweighs all others."""
        self.expects = stronger(self.expects, one)
        self.with_model = stronger(self.with_model, with_model or one)


def stronger(one: Expected, other: Expected) -> Expected:
    """What two demands on one folder come to."""
    return min(one, other, key=("refused", "either", "passes").index)


# --- Pictures -------------------------------------------------------------------------------------------------------


def colour(number: int) -> tuple[int, int, int]:
    """Colour of an item's picture, one of 256 that a lossy format keeps apart."""
    return (number % 16 * 16 + 8, number // 16 * 16 + 8, 200)


def number_of(image: Image.Image) -> int:
    """The item whose picture it is."""
    red, green, _ = image.convert("RGB").getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
    return int(red // 16 + green // 16 * 16)


def picture(item: Item, detection: bool) -> Image.Image:
    """What is to be seen: a colour of its own, or a bright box on dark ground."""
    size = {"thin": (400, 1), "dot": (1, 1), "wide": (2000, 6)}.get(item.look, SIZE)
    image = Image.new("RGB", size, (item.number, 2 * item.number, 8) if detection else colour(item.number))
    if detection:
        x1, y1, x2, y2 = (round(share * side) for share, side in zip(item.box, (*size, *size), strict=True))
        image.paste((240, 240, 240), (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))
    return image


def image_bytes(item: Item, detection: bool) -> bytes:
    """The file of an item."""
    file = io.BytesIO()
    image = picture(item, detection)
    if item.look in ("turned", "mirrored"):  # stored otherwise than seen, with a note on how to put it right
        number, back = (6, Image.Transpose.ROTATE_90) if item.look == "turned" else (2, Image.Transpose.FLIP_LEFT_RIGHT)
        exif = Image.Exif()
        exif[0x0112] = number
        image.transpose(back).save(file, "JPEG", quality=95, exif=exif)
    elif item.look in ("grey12", "grey16"):
        high = 4095 if item.look == "grey12" else 65535
        grey = Image.new("I;16", SIZE)
        grey.putdata([high if (i % SIZE[0]) * 2 > SIZE[0] else high // 2 for i in range(SIZE[0] * SIZE[1])])
        grey.save(file, "PNG")
    elif item.look == "palette":
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(file, "PNG")
    elif item.look == "alpha":
        image.convert("RGBA").save(file, "PNG")
    else:
        image.save(file, "PNG")
    data = file.getvalue()
    return {"cut": data[: len(data) // 2], "empty": b"", "text": b"<html>404</html>"}.get(item.look, data)


def write_image(item: Item, path: Path, detection: bool = False) -> None:
    """An item's file, or what stands in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match item.look:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as one:  # a path may have 107 characters
                here = Path.cwd()
                os.chdir(path.parent)
                one.bind(path.name)
                os.chdir(here)
        case "folder":
            path.mkdir()
        case "nowhere":
            path.symlink_to("nothing-here.png")
        case "circle":
            path.symlink_to(path.name)
        case "outward":
            path.symlink_to("/etc/hostname")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case _:
            path.write_bytes(image_bytes(item, detection))


GOOD_LOOKS = ("turned", "mirrored", "grey12", "grey16", "palette", "alpha")
BAD_LOOKS = ("cut", "empty", "text", "fifo", "socket", "folder", "nowhere", "circle", "outward", "sparse")

# --- Layouts --------------------------------------------------------------------------------------------------------


def text_file(folder: Folder, path: Path, text: str) -> None:
    """A text in the folder's encoding and with its line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.replace("\n", folder.line_end).encode(folder.encoding))


def write_class_folders(folder: Folder, root: Path) -> None:
    """``<split>/<class>/<image>``."""
    for item in folder.items:
        write_image(item, root / item.split / str(item.written) / item.file)


def write_domain_folders(folder: Folder, root: Path) -> None:
    """``<domain>/<split>/<class>/<image>``."""
    for item in folder.items:
        write_image(item, root / item.more["domain"] / item.split / str(item.written) / item.file)


def write_tables(folder: Folder, root: Path) -> None:
    """A parquet file of images and labels for each split, and maybe a file with the names of the classes."""
    root.mkdir(parents=True)
    for split in ("train", "test"):
        rows = [item for item in folder.items if item.split == split]
        images = [{"bytes": image_bytes(item, False), "path": item.file} for item in rows]
        labels = [item.written for item in rows]
        if any(isinstance(label, str) for label in labels):  # a column is of one type
            labels = [None if label is None else str(label) for label in labels]
        pq.write_table(pa.table({"image": images, "label": labels}), root / f"{split}.parquet")
    if folder.names is not None:
        names = [*folder.names[:2], "", *folder.names[2:]] if folder.blank_line else folder.names
        text_file(folder, root / "names.txt", "".join(f"{name}\n" for name in names))


def write_imagefolder(folder: Folder, root: Path) -> None:
    """Class folders below splits, as the datasets library reads them."""
    write_class_folders(folder, root)


def frame(item: Item) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """Declared size of an item's image, and its box in pixels of that frame."""
    (width, height), (x1, y1, x2, y2) = SIZE, item.box
    if item.declared == "raw" and item.look == "turned":  # a point x, y of the upright image lies at y, 1 - x
        width, height, x1, y1, x2, y2 = height, width, y1, 1 - x2, y2, 1 - x1
    if item.declared == "other":
        width, height = 3 * width + 7, height + 5
    return (width, height), (x1 * width, y1 * height, x2 * width, y2 * height)


def write_coco(folder: Folder, root: Path) -> None:
    """COCO's JSON with a box an image."""
    names = list(dict.fromkeys(str(item.written) for item in folder.items))
    for split in ("train", "test"):
        images, annotations = [], []
        (root / split).mkdir(parents=True)
        for item in (one for one in folder.items if one.split == split):
            write_image(item, root / split / item.file, detection=True)
            (width, height), (x1, y1, x2, y2) = frame(item)
            box = item.more.pop("bbox", [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)])
            images.append({"id": item.number, "file_name": item.file, "width": width, "height": height})
            category = names.index(str(item.written)) + 1
            row = {"id": item.number, "image_id": item.number, "category_id": category, "bbox": box, "iscrowd": 0}
            annotations.append(row | item.more)
        categories = [{"id": place, "name": name} for place, name in enumerate(names, start=1)]
        data = {"images": images, "annotations": annotations, "categories": categories}
        text_file(folder, root / "annotations" / f"{split}.json", json.dumps(data, ensure_ascii=False))


def write_voc(folder: Folder, root: Path) -> None:
    """VOC's XML with an object an image."""
    for item in folder.items:
        write_image(item, root / "set" / "JPEGImages" / item.file, detection=True)
        (width, height), (x1, y1, x2, y2) = frame(item)
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True)
        box = "".join(f"<{name}>{round(value)}</{name}>" for name, value in corners)
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        more = "".join(f"<{name}>{value}</{name}>" for name, value in item.more.items())
        thing = f"<object><name>{escape(str(item.written))}</name>{more}<bndbox>{box}</bndbox></object>"
        text = f"<annotation><filename>{item.file}</filename>{size}{thing}</annotation>"
        text_file(folder, root / "set" / "Annotations" / f"{item.stem}.xml", text)
    for split in ("train", "test"):
        ids = [f"{item.stem}\n" for item in folder.items if item.split == split]
        text_file(folder, root / "set" / "ImageSets" / "Main" / f"{split}.txt", "".join(ids))


def question_row(folder: Folder, item: Item, form: str) -> dict[str, Any]:
    """A row of a file of questions in one of its forms."""
    question = item.more.get("question", f"What is in picture {item.stem}?")
    answer = item.written
    if form == "messages":
        turns = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": str(answer)}]
        return {"messages": turns, "images": [item.file]}
    if form == "images":
        return {"id": item.stem, "images": [item.file], "text": question, "answer": answer}
    if form == "conversations":
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": str(answer)}]
        return {"id": item.stem, "image": item.file, "conversations": turns}
    if form == "strange":
        return {"id": item.stem, "picture": item.file, "prompt": question, "completion": answer}
    return {"question_id": item.stem, "image": item.file, "text": question, "answer": answer}


def write_questions(folder: Folder, root: Path) -> None:
    """Two tasks of questions."""
    for task in ("one", "two"):
        for split in ("train", "test"):
            mine = [item for item in folder.items if item.split == split and item.more["task"] == task]
            rows = [question_row(folder, item, item.more.get("form", folder.form)) for item in mine]
            for item in mine:
                write_image(item, root / "images" / item.file)
            text = json.dumps(rows, ensure_ascii=False)
            if folder.form == "lines":
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            text_file(folder, root / task / f"{split}.json", text)


LAYOUTS: dict[str, Callable[[Folder, Path], None]] = {
    "folder_cil": write_class_folders,
    "folder_dil": write_domain_folders,
    "table_cil": write_tables,
    "hub": write_imagefolder,
    "coco_cil": write_coco,
    "voc_cil": write_voc,
    "questions_til": write_questions,
}
BOXES = ("coco_cil", "voc_cil")
NAMED = ("folder_cil", "folder_dil", "table_cil", "hub", *BOXES)
ROWS = ("table_cil", "hub", "questions_til")  # items may have no name but their number and picture
PATHS = ("folder_cil", "folder_dil", "hub")  # class names are names of folders


def plain_folder(layout: str) -> Folder:
    """A folder with nothing odd in it."""
    common = {"root": "data", "shots": None, "test_per_class": None}
    cil = common | {"tasks": 2, "classes_per_task": 2}
    table = {name: value for name, value in cil.items() if name != "root"}
    splits = {"train": "data/train.parquet", "test": "data/test.parquet"}
    coco = {"train_images": "train", "test_images": "test", "annotations": "annotations/{images}.json"}
    voc = {"train": ["set/train"], "test": ["set/test"], "classes": list(NAMES)}
    own = {
        "folder_cil": cil,
        "folder_dil": common,
        "table_cil": table | splits,
        "hub": table | {"hub": "data"},
        "coco_cil": cil | coco,
        "voc_cil": cil | voc,
        "questions_til": common | {"images": "images", "tasks": ["one", "two"]},
    }
    groups = [(name, {}) for name in NAMES]
    if layout == "folder_dil":
        groups = [(name, {"domain": domain}) for domain in ("photo", "sketch") for name in NAMES[:2]]
    if layout == "questions_til":
        groups = [(name, {"task": task}) for task in ("one", "two") for name in NAMES[:2]]
    items = []
    for label, more in groups:
        for split, count in (("train", TRAIN), ("test", TEST)):
            items += [Item(0, label, split, label, more=dict(more)) for _ in range(count)]  # type: ignore[arg-type]
    for number, item in enumerate(items, start=1):
        item.number = number
    name = "table_cil" if layout == "hub" else layout
    return Folder(layout, items, {"name": name} | own[layout])


# --- Properties -----------------------------------------------------------------------------------------------------

Property = Callable[[Folder, random.Random], None]


def relabel(folder: Folder, place: int, label: str, written: Any = None) -> None:
    """Another name for a class, or another answer, by its place among them."""
    old = list(dict.fromkeys(item.label for item in folder.items))[place]
    for item in folder.items:
        if item.label == old:
            item.label, item.written = label, label if written is None else written
    if "classes" in folder.stream:
        folder.stream["classes"] = [label if name == old else name for name in folder.stream["classes"]]


def other_form(folder: Folder, rng: random.Random) -> None:
    """A name in another of Unicode's forms than people read it."""
    name = rng.choice(("café", "über", "東京", "ＡＢＣ", "naïve ñ", "한국", "ｶﾞ", "Ångström"))
    form = rng.choice(("NFD", "NFKD", "NFC"))
    relabel(folder, rng.choice((0, 1)), name, unicodedata.normalize(form, name))
    if form == "NFKD" and folder.layout == "voc_cil":  # wide letters are not those of the setting classes
        folder.expect("either")


def twins(folder: Folder, rng: random.Random) -> None:
    """Two classes that read the same."""
    first, second = rng.choice(
        (
            ("café", "cafe\u0301"),
            ("Ant", "ant"),
            ("big_ant", "big ant"),
            ("ＡＢ", "AB"),
            ("straße", "STRASSE"),
            ("a-b", "a.b"),
            ("ﬁn", "fin"),
        )
    )
    relabel(folder, 0, first)
    relabel(folder, 1, second)
    folder.expect("passes" if folder.layout == "questions_til" else "refused")


def tagged(folder: Folder, rng: random.Random) -> None:
    """A tag of the answer's own form inside of a name or answer."""
    choices = ["<answer>ant", "an<think>t"]
    if folder.layout not in PATHS:  # no folder has a slash in its name
        choices += ["<answer>ant</answer>", "ant</answer>", "</think>ant", "a</answer><answer>b"]
    relabel(folder, 0, rng.choice(choices))
    folder.expect("either" if "</" not in folder.items[0].label else "refused")


def special_token(folder: Folder, rng: random.Random) -> None:
    """A name, an answer or a question with a token of the model in it."""
    token = rng.choice(("<|image_pad|>", "<|vision_start|>", "<|im_end|>", "<|endoftext|>", "<|video_pad|>"))
    if folder.layout == "questions_til" and rng.random() < 0.5:
        item = rng.choice(folder.items)
        item.more["question"] = f"What is {token} here?"
    else:
        relabel(folder, 0, f"an{token}t")
    folder.expect("either", "refused")


def commas(folder: Folder, rng: random.Random) -> None:
    """Names that a list with commas does not keep apart."""
    relabel(folder, 0, "ant, red")
    relabel(folder, 1, "red")


def odd_name(folder: Folder, rng: random.Random) -> None:
    """A name that some tool would take for something else."""
    name = rng.choice(("no", "yes", "null", "1", "1e5", "0x10", "=1+1", "-1", "{labels}", "[bold]x", "$x$", "a'b\"c"))
    relabel(folder, 0, name)


def escapes(folder: Folder, rng: random.Random) -> None:
    """A name with codes that a terminal obeys."""
    relabel(folder, 0, rng.choice(("ant\x1b[31mred", "a\x07b", "ant\u202etna", "a\rb", "ant\x1b]0;title\x07")))
    folder.expect("either")


def good_look(folder: Folder, rng: random.Random) -> None:
    """An image in one of the less common forms that are right."""
    looks = [look for look in GOOD_LOOKS if not (folder.layout in BOXES and look.startswith("grey"))]
    item = rng.choice(folder.items)
    item.look = rng.choice(looks)
    if folder.layout in BOXES and item.look == "mirrored":  # both frames have one size: boxes may be of either
        folder.expect("refused")
    if folder.layout in ROWS and item.look.startswith("grey"):
        item.look = "palette"  # the colour tells which row it is


def bad_look(folder: Folder, rng: random.Random) -> None:
    """Something that is no whole image in an image's place."""
    looks = BAD_LOOKS[:3] if folder.layout == "table_cil" else BAD_LOOKS
    item = rng.choice(folder.items)
    item.look, item.lost = rng.choice(looks), True
    if rng.random() < 0.5:
        folder.stream["on_damaged"] = "skip"
        folder.expect("either")
    else:
        folder.expect("either" if item.look == "folder" and folder.layout in PATHS else "refused")


def thin(folder: Folder, rng: random.Random) -> None:
    """An image that no processor of the model takes."""
    item = rng.choice(folder.items)
    item.look = "thin"
    if folder.layout in BOXES:
        item.declared = "other"
        folder.expect("refused")
    elif rng.random() < 0.5:
        folder.stream["on_damaged"] = "skip"
        folder.expect("either")
    else:
        folder.expect("either", "refused")


def damaged_label(folder: Folder, rng: random.Random) -> None:
    """A row whose class is none."""
    numbered(folder, rng)
    item = rng.choice(folder.items)
    item.written, item.lost = rng.choice((-1, 99, None)), True
    folder.expect("refused" if item.written is not None else "either")


def numbered(folder: Folder, rng: random.Random) -> None:
    """Classes as numbers, with their names in a file."""
    folder.names = list(dict.fromkeys(item.label for item in folder.items))
    folder.stream["class_names"] = "data/names.txt"
    for item in folder.items:
        item.written = folder.names.index(item.label)


def blank_in_names(folder: Folder, rng: random.Random) -> None:
    """A blank line between the names of classes."""
    numbered(folder, rng)
    folder.blank_line = True
    folder.expect("refused")


def text_numbers(folder: Folder, rng: random.Random) -> None:
    """Numbers of classes as text."""
    numbered(folder, rng)
    for item in folder.items:
        item.written = str(item.written)
    folder.expect("either")


def marked(folder: Folder, rng: random.Random) -> None:
    """A byte order mark, or the line ends of another system."""
    folder.encoding = rng.choice(("utf-8-sig", "utf-8"))
    folder.line_end = rng.choice(("\n", "\r\n"))


def sixteen(folder: Folder, rng: random.Random) -> None:
    """Text files in UTF-16."""
    folder.encoding = "utf-16"
    no_texts = folder.layout in PATHS or (folder.layout == "table_cil" and folder.names is None)
    folder.expect("passes" if no_texts else "either")


def flags(folder: Folder, rng: random.Random) -> None:
    """A flag as text."""
    key = "iscrowd" if folder.layout == "coco_cil" else "difficult"
    item = rng.choice(folder.items)
    value = rng.choice(("0", "1", 1, "false", "true", True, "maybe", 0.5))
    item.more[key] = value
    item.lost = value not in ("0", "false", False, 0)
    folder.expect("passes" if value == "0" else "either" if value in ("1", 1, True, "false", "true") else "refused")


def odd_box(folder: Folder, rng: random.Random) -> None:
    """A box that is none."""
    item = rng.choice(folder.items)
    item.more["bbox"] = rng.choice((["1", "2", "3", "4"], [1, 2, 3], [5, 5, 0, 0], [1, 1, -4, 9], [1e9, 1, 5, 5], None))
    item.lost = True
    folder.expect("either")


def declared_sizes(folder: Folder, rng: random.Random) -> None:
    """Sizes in the annotations that are not the file's, or are those of the image before it is turned."""
    item = rng.choice(folder.items)
    item.box = (0.1, 0.5, 0.3, 0.9)
    if rng.random() < 0.5:
        item.declared = "other"
        folder.expect("refused")
    else:
        item.look, item.declared = "turned", "raw"
        if folder.layout == "voc_cil":
            folder.expect("either")


def form(folder: Folder, rng: random.Random) -> None:
    """Questions in one of the forms that people use."""
    folder.form = rng.choice(("lines", "messages", "images", "conversations", "strange"))
    folder.expect("refused" if folder.form == "strange" else "passes")


def mixed_form(folder: Folder, rng: random.Random) -> None:
    """One row in another form than the others."""
    item = rng.choice(folder.items)
    item.more["form"] = rng.choice(("messages", "images", "conversations", "strange"))
    folder.expect("refused" if item.more["form"] == "strange" else "either")


def signs(folder: Folder, rng: random.Random) -> None:
    """Answers whose signs, points and percents are what makes them right."""
    answers = ("-10%", "5%", ".5", "1.25", "−3", "１０", "$5", "2015", "3/4", "1,000")
    relabel(folder, 0, rng.choice(answers))
    folder.stream["rule"] = rng.choice(("exact", "auto", "relaxed_number"))


PROPERTIES: dict[Property, tuple[str, ...]] = {
    other_form: tuple(LAYOUTS),
    twins: NAMED,
    tagged: tuple(LAYOUTS),
    special_token: tuple(LAYOUTS),
    commas: tuple(LAYOUTS),
    odd_name: tuple(LAYOUTS),
    escapes: tuple(LAYOUTS),
    good_look: tuple(LAYOUTS),
    bad_look: tuple(LAYOUTS),
    thin: tuple(LAYOUTS),
    damaged_label: ("table_cil",),
    numbered: ("table_cil",),
    blank_in_names: ("table_cil",),
    text_numbers: ("table_cil",),
    marked: tuple(LAYOUTS),
    sixteen: tuple(LAYOUTS),
    flags: BOXES,
    odd_box: ("coco_cil",),
    declared_sizes: BOXES,
    form: ("questions_til",),
    mixed_form: ("questions_til",),
    signs: ("questions_til",),
}
RENAMING = (other_form, twins, tagged, special_token, commas, odd_name, escapes, signs)


def make(work: Path, rng: random.Random) -> Folder:
    """Write ``data/`` and ``s.yaml`` into a working folder: a layout drawn by chance with up to two properties."""
    folder = plain_folder(rng.choice(list(LAYOUTS)))
    fitting = [one for one, layouts in PROPERTIES.items() if folder.layout in layouts]
    drawn = rng.sample(fitting, rng.choice((0, 1, 1, 1, 2)))
    if sum(one in RENAMING for one in drawn) > 1:  # the later would undo the earlier
        del drawn[1]
    for one in drawn:
        one(folder, rng)
        folder.befallen.append(one.__name__)
    if len(folder.befallen) > 1:  # each holds the truth of its own only
        folder.expects = stronger(folder.expects, "either")
        folder.with_model = stronger(folder.with_model, "either")
    LAYOUTS[folder.layout](folder, work / "data")
    train = {"max_completion_tokens": 1200, "prompts_per_update": 2}
    text = yaml.safe_dump({"stream": folder.stream, "train": train}, allow_unicode=True)
    (work / "s.yaml").write_text(text, encoding="utf-8")
    return folder
