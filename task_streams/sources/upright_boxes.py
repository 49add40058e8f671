"""Boxes brought to the image as it is shown, where EXIF turns it: the size that their source declares tells the frame.

An image whose declared size is that of its stored pixels has its boxes turned along, one whose declared size is that
of the upright image keeps them. Where both are the same size (a half turn, a mirror, a square) the size can't tell, and
the setting has to; a declared size that is neither belongs to another file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from task_streams.errors import UserError, shown
from task_streams.sources.images import QUARTER_TURNS, stored_frame
from task_streams.sources.library import Index, Library
from task_streams.sources.records import Damaged, Record
from task_streams.types import BOX_SCALE, Box, Example

BoxFrame = Literal["auto", "upright", "stored"]
INDEXED = "frame 1"  # headers are kept in the index under this name
# What each EXIF orientation does: whether x and y change places, then whether each is counted from the other side.
TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(slots=True)
class UprightBoxes:
    """Admits images with boxes that are those of the upright image.

    Attributes:
        library: decodes the images, and collects those whose declared size is not that of the file.
        frame: of the boxes, where EXIF turns an image.
        turned: keys of the images whose boxes were turned along.
    """

    library: Library
    frame: BoxFrame
    turned: list[str] = field(default_factory=list)

    def admit(self, records: Sequence[Record]) -> list[Example | None]:
        """The example of each record, None for one that is damaged or of another size than declared."""
        examples = self.library.admit(records)
        good = [place for place, example in enumerate(examples) if example is not None]
        try:
            frames = self._frames([records[place] for place in good])
        except Damaged as error:  # each of them was read just now
            raise UserError(f"an image was changed while images were read ({error}); start again") from error
        for place, frame in zip(good, frames, strict=True):
            record, example = records[place], examples[place]
            assert example is not None
            fault, orientation = turn_of(record.declared or frame[:2], frame, self.frame)
            if fault:
                self.library.damaged[record.key] = fault
                self.library.workspace.damaged(record)
                examples[place] = None
            elif orientation > 1 and isinstance(record.target, tuple):
                self.turned.append(record.key)
                boxes = tuple(Box(box.category, turned(box.corners, orientation)) for box in record.target)
                examples[place] = replace(example, target=boxes)
        return examples

    def _frames(self, records: Sequence[Record]) -> list[tuple[int, int, int]]:
        """Stored width and height, and orientation, of images that were decoded before."""
        index = Index(self.library.workspace.cache)
        sources = [record.source for record in records]
        try:
            stamps = [source.stamp() for source in sources]
            known = index.contents(INDEXED, sources, stamps)
            fresh = {i: stored_frame(sources[i]) for i, text in enumerate(known) if text is None}
            index.remember(INDEXED, [(sources[i], stamps[i], " ".join(map(str, frame))) for i, frame in fresh.items()])
        finally:
            index.close()
        frames = []
        for i, text in enumerate(known):
            width, height, orientation = fresh[i] if text is None else map(int, text.split())
            frames.append((width, height, orientation))
        return frames

    def notes(self) -> list[str]:
        """A sentence on the images whose boxes were turned along; none where there are none."""
        what = "images are turned by EXIF, and their boxes, which are of the stored pixels, with them"
        return [f"{len(self.turned)} {what}: {shown(sorted(self.turned), 5)}"] if self.turned else []


def turn_of(declared: tuple[float, float], frame: tuple[int, int, int], boxes: BoxFrame) -> tuple[str, int]:
    """What is wrong with a declared size (empty if nothing is), and the orientation by which boxes are to be turned.

    Args:
        declared: width and height of the frame that the boxes are of, in pixels.
        frame: stored width and height of the image, and its EXIF orientation.
        boxes: what the setting says of the boxes' frame.
    """
    width, height, orientation = frame
    given = (round(declared[0]), round(declared[1]))
    stored = (width, height)
    upright = (height, width) if orientation in QUARTER_TURNS else stored
    size = f"declared as {declared[0]:g} x {declared[1]:g}"
    there = f"{upright[0]} x {upright[1]}"
    there += f" ({width} x {height} before EXIF turns it)" if upright != stored else ""
    allowed = {"auto": (stored, upright), "upright": (upright,), "stored": (stored,)}[boxes]
    if given not in allowed:
        return f"{size}, but the image is {there}", 1
    if orientation == 1 or boxes == "upright":
        return "", 1
    if boxes == "auto" and stored == upright:
        asked = "set box_frame to upright or stored"
        return f"EXIF turns it, and {size} its boxes may be of either frame; {asked}", 1
    return "", orientation if given == stored else 1


def turned(corners: tuple[int, int, int, int], orientation: int) -> tuple[int, int, int, int]:
    """Corners in thousandths of the stored image as those of the image that its EXIF orientation shows."""
    swapped, from_right, from_below = TURNS[orientation]
    x1, y1, x2, y2 = corners
    if swapped:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if from_right:
        x1, x2 = BOX_SCALE - x2, BOX_SCALE - x1
    if from_below:
        y1, y2 = BOX_SCALE - y2, BOX_SCALE - y1
    return x1, y1, x2, y2
