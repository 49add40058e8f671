"""CIFAR-100 and CIFAR-10 in their binary archives: https://www.cs.toronto.edu/~kriz/cifar.html

Layout: ``cifar-100-binary/{train.bin, test.bin, fine_label_names.txt}``, an item being 1 byte of coarse label, 1 of
fine label and 3072 of pixels; ``cifar-10-batches-bin/{data_batch_*.bin, test_batch.bin, batches.meta.txt}`` with 1
byte of label. Pixels are 32 x 32, row by row, red plane before green before blue. Classes are CIFAR-100's fine ones.
Keys are the numbers that the archives give the items by their order, e.g. ``train/00042``, as the archives have no
other names; items are read by seeking. Absent on purpose: the pickled Python archives.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from task_streams.config import Count, SourceCilConfig
from task_streams.errors import UserError, shown
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import labelled_stream
from task_streams.sources.layout import existing_root, lines
from task_streams.sources.records import Damaged, Decoder, FileSource, Found, Record, Split

SIDE = 32  # pixels
PIXELS = 3 * SIDE * SIDE  # bytes
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True, slots=True)
class Archive:
    """One of the two datasets.

    Attributes:
        folder: that its archive unpacks to.
        download: name of the archive on the official page.
        names: file with the class names, one a line.
        labels: bytes before the pixels; the last of them is the class.
        pickled: folder of the archive that is not read.
    """

    title: str
    folder: str
    download: str
    names: str
    train: tuple[str, ...]
    test: str
    labels: int
    pickled: str


CIFAR100 = Archive(
    title="CIFAR-100",
    folder="cifar-100-binary",
    download="cifar-100-binary.tar.gz",
    names="fine_label_names.txt",
    train=("train.bin",),
    test="test.bin",
    labels=2,
    pickled="cifar-100-python",
)
CIFAR10 = Archive(
    title="CIFAR-10",
    folder="cifar-10-batches-bin",
    download="cifar-10-binary.tar.gz",
    names="batches.meta.txt",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test="test_batch.bin",
    labels=1,
    pickled="cifar-10-batches-py",
)


@dataclass(frozen=True, kw_only=True)
class Cifar100CilConfig(SourceCilConfig):
    """CIFAR-100, new fine classes in each task."""

    root: str = "data/cifar-100-binary"
    """Path of cifar-100-binary, or of the folder that holds it."""
    tasks: Count = 10
    classes_per_task: Count = 10


@dataclass(frozen=True, kw_only=True)
class Cifar10CilConfig(SourceCilConfig):
    """CIFAR-10, new classes in each task."""

    root: str = "data/cifar-10-batches-bin"
    """Path of cifar-10-batches-bin, or of the folder that holds it."""


def planes_image(data: bytes) -> Image.Image:
    """Planes of red, green and blue, 32 x 32 pixels each, as an image."""
    if len(data) < PIXELS:
        raise Damaged(f"{len(data)} of {PIXELS} bytes of pixels")
    planes = np.frombuffer(data, np.uint8).reshape(3, SIDE, SIDE)
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))  # [32, 32, 3]


def read_archive(archive: Archive, config: Cifar100CilConfig | Cifar10CilConfig) -> Found:
    """Every item of an archive, whose files are in the root or in the archive's folder in it.

    Raises:
        UserError: files are missing; says so too when the pickled archive is there instead.
    """
    root = config.root
    given = Path(root).expanduser()
    nested = given / archive.folder
    needed = (*archive.train, archive.test, archive.names)
    layout = f"{', '.join(needed)} ({archive.title}, binary version)"
    markers = [place / name for place in (given, given / archive.pickled) for name in ("meta", "batches.meta")]
    if any(marker.is_file() for marker in markers) and not nested.is_dir():
        raise UserError(
            f"root {root!r}: expected a folder with {layout}; found the pickled Python version, which is never read "
            f"because unpickling runs code. Get {archive.download} from {PAGE}"
        )
    where = f"{PAGE} ({archive.download})"
    folder = existing_root(str(nested if nested.is_dir() else given), layout, where, needed)
    named = lines(folder / archive.names)
    names = [name for _, name in named]
    problems: list[str] = []
    if named and named[-1][0] != len(named):  # names go by their line: all behind a gap would be those of others
        problems.append(f"{archive.names}: a blank line between names; expected the name of each class in its line")
    records: list[Record] = []
    splits: dict[Split, tuple[str, ...]] = {"train": archive.train, "test": (archive.test,)}
    for split, files in splits.items():
        strange: list[str] = []
        count = 0
        for file in files:
            path = str(folder / file)
            for place, label in enumerate(_labels(folder / file, archive, problems)):
                if label < len(names):
                    start = place * (archive.labels + PIXELS) + archive.labels
                    key = f"{split}/{count:05d}"
                    records.append(Record(key, names[label], FileSource(path, start, PIXELS), split))
                else:
                    strange.append(f"{file} item {place}: {label}")
                count += 1
        problems += [f"{archive.title}: labels outside of 0 to {len(names) - 1}: {shown(strange)}"] if strange else []
    return Found(tuple(records), (), tuple(problems), tuple(sorted(names)))


def _labels(path: Path, archive: Archive, problems: list[str]) -> list[int]:
    """Label of every whole item of a file."""
    step = archive.labels + PIXELS
    size = path.stat().st_size
    if size % step or not size:
        problems.append(f"{path}: {size} bytes; expected a multiple of {step} (unpack {archive.download} again)")
    items = size // step
    if not items:
        return []
    found = np.memmap(path, np.uint8, "r", shape=(items, step))[:, archive.labels - 1]
    labels: list[int] = found.tolist()
    return labels


CITATION = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
LICENCE = "none stated"
PLANES = Decoder("planes 32", planes_image)
CIL = StreamSpec(
    Cifar100CilConfig,
    partial(labelled_stream, "cifar100_cil", partial(read_archive, CIFAR100), decoder=PLANES),
    "CIFAR-100 (binary), new classes in each task",
    LICENCE,
    CITATION,
)
CIL_10 = StreamSpec(
    Cifar10CilConfig,
    partial(labelled_stream, "cifar10_cil", partial(read_archive, CIFAR10), decoder=PLANES),
    "CIFAR-10 (binary), new classes in each task",
    LICENCE,
    CITATION,
)
