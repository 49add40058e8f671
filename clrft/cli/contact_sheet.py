"""Contact sheets: some training and test items of every class of a task on pages that a person can look through.

Training items have a blue bar below them, test items an orange one. Images stand in a row per class with its name
below; boxes are drawn, as far as training or testing shows them, those of the row's class thick; a clip is four of its
frames side by side; a question stands below its image with its first accepted answer. Items are the first of each
class in the task's own (drawn) order.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.Image import Resampling

from clrft.utils.fonts import font_file
from task_streams.errors import UserError
from task_streams.prompt import visible
from task_streams.sources.records import Damaged
from task_streams.types import BOX_SCALE, Box, Clip, Example, Question, Task, TaskStream

Colour = tuple[int, int, int]

INK, FAINT, PAPER, GROUND = (30, 30, 34), (128, 128, 136), (255, 255, 255), (236, 236, 240)
TRAIN_BAR, TEST_BAR = (38, 110, 190), (226, 122, 20)
OWN_BOX, OTHER_BOX, LABEL, ANSWER = (226, 34, 60), (90, 200, 250), (20, 60, 90), (18, 120, 60)

PAGE_WIDTH, PAGE_HEIGHT = 1640, 2000  # inside of the margins, in pixels; a page is as high as it is filled
MARGIN, GAP, BLOCK_GAP, BAR, CAPTION, HEADER = 20, 4, 24, 3, 24, 56
IMAGE, BOXED, FRAME, CARD = (96, 96), (200, 150), (88, 66), (400, 190)
FRAMES = 4
CARD_LINES, CARD_LINE = 7, 17  # of a question with its answer


def sheets(stream: TaskStream, task: Task, per_class: int) -> Iterator[Image.Image]:
    """Pages of a task.

    Raises:
        UserError: an item that could be decoded before cannot be any more.
    """
    pages = list(_paginated(list(_blocks(task, per_class))))
    head = f"{stream.name} · task {task.index} of {len(stream)}: {task.name}"
    classes = f"{len(task.classes)} classes · " * bool(task.classes)
    facts = f"order seed {stream.order_seed} · {classes}{len(task.train)} training and {len(task.test)} test items"
    for number, page in enumerate(pages, start=1):
        paging = f" · page {number} of {len(pages)}" * (len(pages) > 1)
        yield _drawn(page, head, facts + paging)


def _blocks(task: Task, per_class: int) -> Iterator[Image.Image]:
    """What is shown of each class, its name below it; of a task of questions, its first ones."""
    splits = ((task.train, TRAIN_BAR), (task.test, TEST_BAR))
    if task.kind == "question":
        yield _block("", [[_card(item, bar) for item in items[:per_class]] for items, bar in splits])
        return
    for name in task.classes:
        lines = []
        for items, bar in splits:
            chosen = [
                item
                for item in items
                if item.target == name or (isinstance(item.target, tuple) and visible(item.target, (name,)))
            ]
            lines.append([_tile(item, name, task, bar) for item in chosen[:per_class]])
        tall = any(tile.width > BOXED[0] for line in lines for tile in line)
        yield _block(name, lines if tall else [lines[0] + lines[1]])


def _block(name: str, lines: list[list[Image.Image]]) -> Image.Image:
    """Pictures line by line, those of a line of equal size, with their name below."""
    width = max(200, *(sum(tile.width + GAP for tile in line) for line in lines))
    heights = [max((tile.height for tile in line), default=0) + GAP for line in lines]
    block = Image.new("RGB", (width, sum(heights) + CAPTION * bool(name)), PAPER)
    for top, line in zip(accumulate(heights, initial=0), lines, strict=False):
        for left, tile in zip(accumulate((tile.width + GAP for tile in line), initial=0), line, strict=False):
            block.paste(tile, (left, top))
    if name:
        font = _font(14, name)
        text = _cut(name if any(lines) else f"{name}: no items", font, width)
        ImageDraw.Draw(block).text((0, sum(heights) - 1), text, INK, font)
    return block


def _tile(example: Example, name: str, task: Task, bar: Colour) -> Image.Image:
    """Picture of an image or clip of a class."""
    media = _decoded(example)
    if isinstance(media, Clip):
        last = len(media.frames) - 1
        places = sorted({round(i * last / (FRAMES - 1)) for i in range(FRAMES)})
        return _barred([_fitted(media.frames[place], FRAME) for place in places], bar)
    if isinstance(example.target, tuple):
        listed = task.trained if bar == TRAIN_BAR else task.seen
        return _barred([_boxed(media, visible(example.target, listed), name)], bar)
    return _barred([_fitted(media, IMAGE)], bar)


def _decoded(example: Example) -> Image.Image | Clip:
    try:
        return example.media()
    except Damaged as fault:
        raise UserError(f"{example.key} cannot be decoded any more ({fault}); was it changed meanwhile?") from fault


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image as large as it fits, in the middle of a ground."""
    small = image.width * 2 <= size[0] and image.height * 2 <= size[1]
    return ImageOps.pad(image.convert("RGB"), size, Resampling.BICUBIC if small else Resampling.LANCZOS, GROUND)


def _boxed(image: Image.Image, boxes: Sequence[Box], name: str) -> Image.Image:
    """The image with its boxes; those of the named class last and thick, the others with a small name inside."""
    inner = ImageOps.contain(image.convert("RGB"), BOXED, Resampling.LANCZOS)
    pen = ImageDraw.Draw(inner)
    for box in sorted(boxes, key=lambda box: box.category == name):
        own = box.category == name
        sides = (inner.width - 1, inner.height - 1) * 2
        corners = [corner * side / BOX_SCALE for corner, side in zip(box.corners, sides, strict=True)]
        pen.rectangle(corners, outline=OWN_BOX if own else OTHER_BOX, width=2 if own else 1)
        if not own:
            left, top = corners[:2]
            font = _font(9, box.category)
            pen.rectangle((left, top, left + font.getlength(box.category) + 3, top + 11), fill=LABEL)
            pen.text((left + 2, top), box.category, PAPER, font)
    return _fitted(inner, BOXED)


def _card(example: Example, bar: Colour) -> Image.Image:
    """An image, the question about it, and the answer."""
    assert isinstance(example.target, Question)
    media = _decoded(example)
    shown = media.frames[0] if isinstance(media, Clip) else media
    card = Image.new("RGB", (CARD[0], CARD[1] + CARD_LINES * CARD_LINE + 8), PAPER)
    card.paste(_fitted(shown, CARD), (0, 0))
    pen = ImageDraw.Draw(card)
    answer_font, font = _font(13, example.target.answers[0], bold=True), _font(13, example.target.text)
    answer = _wrapped(example.target.answers[0], answer_font, CARD[0], 2)
    asked = _wrapped(example.target.text, font, CARD[0], CARD_LINES - len(answer))
    for number, line in enumerate((*asked, *answer)):
        is_answer = number >= len(asked)
        place = (2, CARD[1] + 4 + number * CARD_LINE)
        pen.text(place, line, ANSWER if is_answer else INK, answer_font if is_answer else font)
    return _barred([card], bar)


def _barred(parts: Sequence[Image.Image], bar: Colour) -> Image.Image:
    """Pictures side by side over a bar."""
    lefts = list(accumulate((part.width + 2 for part in parts), initial=0))
    tile = Image.new("RGB", (lefts[-1] - 2, max(part.height for part in parts)), PAPER)
    for left, part in zip(lefts, parts, strict=False):
        tile.paste(part, (left, 0))
    return ImageOps.expand(tile, (0, 0, 0, BAR), bar)


def _paginated(blocks: Sequence[Image.Image]) -> Iterator[list[Sequence[Image.Image]]]:
    """Pages of rows of blocks."""
    width = max(block.width for block in blocks)
    columns = max(1, (PAGE_WIDTH + BLOCK_GAP) // (width + BLOCK_GAP))
    page: list[Sequence[Image.Image]] = []
    height = 0
    for start in range(0, len(blocks), columns):
        row = blocks[start : start + columns]
        added = max(block.height for block in row) + GAP
        if page and height + added > PAGE_HEIGHT:
            yield page
            page, height = [], 0
        page.append(row)
        height += added
    yield page


def _drawn(rows: Sequence[Sequence[Image.Image]], head: str, facts: str) -> Image.Image:
    """A page: its head with the legend, then the blocks."""
    column = max(block.width for row in rows for block in row) + BLOCK_GAP
    heights = [max(block.height for block in row) + GAP for row in rows]
    width = max(column * max(len(row) for row in rows) - BLOCK_GAP, 640) + 2 * MARGIN
    page = Image.new("RGB", (width, HEADER + sum(heights) + 2 * MARGIN), PAPER)
    pen, font, bold = ImageDraw.Draw(page), _font(13, facts), _font(19, head, bold=True)
    pen.text((MARGIN, MARGIN - 6), _cut(head, bold, width - 2 * MARGIN), INK, bold)
    pen.text((MARGIN, MARGIN + 22), facts, FAINT, font)
    x = MARGIN + font.getlength(facts) + 28
    for colour, text in ((TRAIN_BAR, "training"), (TEST_BAR, "test")):
        pen.rectangle((x, MARGIN + 29, x + 18, MARGIN + 29 + BAR), fill=colour)
        pen.text((x + 24, MARGIN + 22), text, FAINT, font)
        x += 24 + font.getlength(text) + 20
    for top, row in zip(accumulate(heights, initial=MARGIN + HEADER), rows, strict=False):
        for number, block in enumerate(row):
            page.paste(block, (MARGIN + number * column, top))
    return page


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, cut to a width in pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    text = text[: int(width)]  # a letter is a pixel wide at least
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, limit: int) -> list[str]:
    """The text on at most ``limit`` lines of a width in pixels."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    whole = lines[:limit] if len(lines) <= limit else [*lines[: limit - 1], " ".join(lines[limit - 1 :])]
    return [_cut(line, font, width) for line in whole]


def _font(size: int, text: str, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font that has the letters of a text, where one is installed."""
    return _loaded(font_file(text, bold), size)


@cache
def _loaded(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)
