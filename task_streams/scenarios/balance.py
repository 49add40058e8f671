"""Few-shot draw of images that hold several classes at once: greedy and seeded, so that every class gets its share.

The class with the fewest images so far takes the next image of its own shuffled list, and all classes in that image
are counted, until each class has what is wanted or has run out. The shuffle of a class depends on the seed, its name
and all its images in the split, not on the class order. What is wanted is a least number: rarer classes bring frequent
ones along, so that at 5 shots of COCO ``person`` is in far more than 5 images. Preferring images without the classes
that have enough would show rare classes in unusual scenes only, and is deliberately absent.
RaPO's released code draws training images over all tasks at once, so an image of a later task counts for the earlier
classes in it; here each task's are drawn for itself, and none goes short.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from task_streams.errors import shown
from task_streams.scenarios.draw import random_state
from task_streams.sources.boxes import BoxTable, IntArray
from task_streams.sources.records import Record, Split
from task_streams.types import Example


def balanced(
    orders: Mapping[str, Sequence[int]], covers: Callable[[int], Collection[str]], wanted: int, refused: Collection[int]
) -> set[int]:
    """Images so that every class is in ``wanted`` of them, where it has as many.

    Args:
        orders: images of each class, in the order in which they are taken.
        covers: classes in an image.
        wanted: images per class.
        refused: images that must not be taken.
    """
    waiting = {name: iter(order) for name, order in orders.items()}
    count = dict.fromkeys(sorted(orders), 0)
    chosen: set[int] = set()
    while waiting:
        name = min(waiting, key=lambda name: (count[name], name))
        image = next((image for image in waiting[name] if image not in chosen and image not in refused), None)
        if image is None:
            del waiting[name]
            continue
        chosen.add(image)
        for other in count.keys() & covers(image):
            count[other] += 1
        waiting = {name: rest for name, rest in waiting.items() if count[name] < wanted}
    return chosen


@dataclass(slots=True)
class ImageDraw:
    """Draws images of box tables; what is damaged, or a copy of what was drawn, is replaced by the next.

    Attributes:
        admit: makes examples of records, None for a damaged one.
        used: classes of the stream; boxes of others are not shown.
        seed: of the draws.
        distinct: leave out an image whose content was drawn before, in any task and split.
        drawn: first example of each content.
        copies: images whose content was drawn before.
    """

    admit: Callable[[Sequence[Record]], Sequence[Example | None]]
    used: Collection[str]
    seed: int
    distinct: bool
    drawn: dict[str, Example] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)

    def take(
        self,
        table: BoxTable,
        images: Iterable[int],
        classes: Collection[str],
        wanted: int | None,
        split: Split,
        domain: str = "",
    ) -> tuple[Example, ...]:
        """Examples of the given images, sorted by key: all good ones, or ``wanted`` for each of the classes."""
        free = {int(image) for image in images}
        orders = {} if wanted is None else self._orders(table, free, classes)
        admitted: dict[int, Example] = {}
        refused: set[int] = set()
        while True:
            chosen = free - refused
            if wanted is not None:
                chosen = balanced(orders, table.classes_in, wanted, refused)
            if not (fresh := sorted(chosen - admitted.keys())):
                return tuple(admitted[image] for image in sorted(chosen))
            records = [table.record(image, self.used, split, domain) for image in fresh]
            for image, example in zip(fresh, self.admit(records), strict=True):
                if example is None or self._is_copy(example):
                    refused.add(image)
                else:
                    admitted[image] = example

    def _orders(self, table: BoxTable, free: set[int], classes: Collection[str]) -> dict[str, list[int]]:
        orders = {}
        for name in classes:
            images = table.images_of(name)  # all of them, so that the order is the same whichever are free
            order = images[random_state(self.seed, name).permutation(len(images))]
            orders[name] = [image for image in order.tolist() if image in free]
        return orders

    def _is_copy(self, example: Example) -> bool:
        """Whether an image is to be left out as a copy."""
        kept = self.drawn.setdefault(example.content, example)
        if kept is example:
            return False
        self.copies.append(f"{example.key} = {kept.key}")
        return self.distinct

    @property
    def notes(self) -> list[str]:
        """Which images are copies of others, and whether they were left out."""
        done = "images left out, copies of others" if self.distinct else "images are copies of others, and kept"
        return [f"{len(self.copies)} {done}: {shown(self.copies)}"] if self.copies else []


def newest_task(table: BoxTable, task_of: Mapping[str, int]) -> IntArray:
    """Task of the newest of each image's classes; -1 for an image with none of them. [N]"""
    lookup = np.array([task_of.get(name, -1) for name in table.classes], dtype=np.int32)
    if not table.keys:
        return np.zeros(0, dtype=np.int32)
    return np.maximum.reduceat(lookup[table.category], table.first[:-1])  # every image has a box
