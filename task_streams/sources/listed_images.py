"""Exact lists of training images for detection: a JSONL file whose every row must name one training image.

A row is ``{"key": "…"}`` (as ``clrft`` names items) or the form of RaPO's released lists, ``{"images": ["…"], …}``
with one path below the root of the images; other fields of a row are passed over.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from task_streams.errors import UserError, shown
from task_streams.sources.boxes import BoxTable
from task_streams.sources.layout import lines


def listed_images(path: str, tables: Sequence[BoxTable]) -> list[set[int]]:
    """Positions in each table of the images that a list names.

    Raises:
        UserError: the list cannot be read, or rows name no training image with boxes, or one twice; all of them.
    """
    places = {key: (t, i) for t, table in enumerate(tables) for i, key in enumerate(table.keys)}
    found: list[set[int]] = [set() for _ in tables]
    problems = []
    rows = lines(Path(path).expanduser())
    for number, line in rows:
        key = _key(line)
        if key is None:
            problems.append(
                f'{path}, row {number}: expected {{"key": "…"}} or {{"images": ["…"]}}; found {line[:80]!r}'
            )
        elif key not in places:
            problems.append(f"{path}, row {number}: {key!r} is no training image with boxes; {_example(places)}")
        elif places[key][1] in found[places[key][0]]:
            problems.append(f"{path}, row {number}: {key!r} is listed more than once")
        else:
            found[places[key][0]].add(places[key][1])
    if not rows:
        problems.append(f"{path}: expected one training image a row; found an empty list")
    if problems:
        raise UserError(*problems)
    return found


def _key(line: str) -> str | None:
    """The item that a row names, None when it has neither form."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    images = row.get("images")
    key = row.get("key", images[0] if isinstance(images, list) and len(images) == 1 else None)
    return key if isinstance(key, str) else None


def _example(places: dict[str, tuple[int, int]]) -> str:
    return f"names look like {shown(sorted(places)[:1])!r}"
