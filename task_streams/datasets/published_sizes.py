"""How large published datasets are, for planning before the data are there: counts that their publishers state.

What a stream's settings say (tasks, classes, shots, test items of a class) wins over what stands here. Deliberately
absent: names of classes, and anything about a user's own folders and tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from task_streams.types import Kind


@dataclass(frozen=True, slots=True)
class Declared:
    """The size of a dataset.

    Attributes:
        source: where the counts come from.
        classes: of the dataset.
        test: items that it is tested on, of all classes and domains together.
        domains: how many.
        kind: what is asked.
        width: of a typical image or frame, pixels.
        height: likewise.
        seconds: of a typical clip; 0 for images.
        boxes: objects in a typical image.
        labels: classes in a typical image; 1 where an image is of one class.
    """

    source: str
    classes: int
    test: int
    domains: int = 1
    kind: Kind = "classification"
    width: int = 500
    height: int = 375
    seconds: float = 0.0
    boxes: float = 0.0
    labels: float = 1.0


COCO = Declared(
    "val2017; 7.3 objects of 2.9 classes an image", 80, 5000, 1, "detection", 640, 480, boxes=7.3, labels=2.9
)
VOC = Declared("VOC2007 test; 2.4 objects of 1.5 classes an image", 20, 4952, kind="detection", boxes=2.4, labels=1.5)
SERIES = Declared("VOC2007 test, clipart, watercolor, comic", 6, 7452, 4, kind="detection", boxes=2.4)
UCF = Declared("split 1; 13,320 clips are 27 hours", 101, 3783, width=320, height=240, seconds=7.2)
KINETICS = Declared("25 validation clips a class", 200, 5000, width=340, height=256, seconds=10.0)
# By the name of the stream.
DECLARED: Mapping[str, Declared] = {
    "imagenet_r_cil": Declared("one fifth of 30,000 images", 200, 6000),
    "imagenet_a_cil": Declared("one fifth of 7,500 images", 200, 1500),
    "tinyimagenet_cil": Declared("the validation set", 200, 10000, width=64, height=64),
    "cub200_cil": Declared("the test split", 200, 5794),
    "cifar100_cil": Declared("the test batch", 100, 10000, width=32, height=32),
    "cifar10_cil": Declared("the test batch", 10, 10000, width=32, height=32),
    "domainnet_dil": Declared("lists of six domains", 345, 176743, 6),
    "officehome_dil": Declared("one fifth of 15,588 images", 65, 3118, 4),
    "pacs_dil": Declared("one fifth of 9,991 images", 7, 1998, 4, width=227, height=227),
    "coco_cil": COCO,
    "voc_cil": VOC,
    "voc_dil": SERIES,
    "ucf101_cil": UCF,
    "kinetics200_cil": KINETICS,
}
