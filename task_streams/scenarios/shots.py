"""Exact lists of training items: a JSONL file whose every row must name one training item of the source.

A row is ``{"key": "…"}`` (as ``clrft`` names items) or has the form of RaPO's released lists:
``{"class_name": "…", "relative_path": "<class>/<file>", "file_name": "<file>"}`` for images and clips, matched by class
and file name, where the class is compared as answers are, and also without separators (``ApplyEyeMakeup`` is
``Apply_Eye_Makeup``); ``{"images": ["…"], …}`` for detection. Questions have no class, so they are named by key.
No path of a list is ever opened.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from task_streams.errors import UserError, shown, unknown_name
from task_streams.labels import normalise_label
from task_streams.sources.boxes import BoxTable
from task_streams.sources.layout import lines
from task_streams.sources.records import Record

FORMS = '{"key": "…"} or {"class_name": "…", "relative_path": "…", "file_name": "…"}'
FIELDS = ("key", "class_name", "relative_path", "file_name")
HINTS = 20  # rows without a match that get the nearest item named; looking it up is slow


def listed_records(path: str, records: Sequence[Record]) -> tuple[Record, ...]:
    """The records that a list names for training, and all test records.

    In a source without splits, all items that the list does not name become test items.

    Raises:
        UserError: the list is missing or damaged, or rows name no item, several, or one twice; all of them.
    """
    rows = _rows(path)
    catalogue = _Catalogue(records)
    chosen: dict[str, Record] = {}
    first: dict[str, int] = {}
    problems = [] if rows else [f"{path}: expected rows {FORMS}; found an empty list"]
    for number, text, row in rows:
        try:
            record = catalogue.find(_fields(text, row))
        except UserError as error:
            problems += [f"{path}, row {number}: {problem}" for problem in error.problems]
            continue
        if record.key in chosen:
            problems.append(f"{path}, row {number}: {record.key} is listed already in row {first[record.key]}")
        chosen[record.key] = record
        first.setdefault(record.key, number)
    if problems:
        raise UserError(*problems)
    tests = (record for record in records if record.split == "test" or (not record.split and record.key not in chosen))
    return (*(replace(r, split="train") for r in chosen.values()), *(replace(r, split="test") for r in tests))


class _Catalogue:
    """Every item of a source, by key and by file name; class names by their form without case and separators."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.by_key = {record.key: record for record in records}
        self.by_file: dict[str, list[Record]] = {}
        self.spellings: dict[str, list[str]] = {}
        self.hints = 0
        for record in records:
            self.by_file.setdefault(record.key.rpartition("/")[2], []).append(record)
        for label in sorted({record.target for record in records if isinstance(record.target, str)}):
            self.spellings.setdefault(_squeezed(label), []).append(label)

    def find(self, row: dict[str, str]) -> Record:
        """The training item that a row names.

        Raises:
            UserError: it names no item, several, or a test item.
        """
        if "class_name" in row:
            found = self._by_class_and_file(row)
        elif row["key"] in self.by_key:
            found = self.by_key[row["key"]]
        else:
            folder = row["key"].rpartition("/")[0]
            hint = self._hint(row["key"], lambda record: record.key.rpartition("/")[0] == folder, whole=True)
            raise UserError(f"no item {row['key']!r}{hint}")
        if found.split == "test":
            raise UserError(f"{found.key} is a test item; a list names training items only")
        return found

    def _by_class_and_file(self, row: dict[str, str]) -> Record:
        label, file = row["class_name"], row["file_name"]
        if not self.spellings:
            example = json.dumps({"key": next(iter(self.by_key), "")}, ensure_ascii=False)
            raise UserError(f"the items have no classes; expected rows such as {example}")
        labels = self.spellings.get(_squeezed(label))
        if labels is None:
            known = {normalise_label(name): name for names in self.spellings.values() for name in names}
            nearest = get_close_matches(normalise_label(label), known, n=1, cutoff=0.4)
            hint = f"; nearest: {known[nearest[0]]!r}" if nearest else ""
            count = sum(map(len, self.spellings.values()))
            raise UserError(f"no class {label!r} among the {count} of the source{hint}")
        found = [record for record in self.by_file.get(file, []) if record.label in labels]
        for narrower in (
            [record for record in found if normalise_label(record.label) == normalise_label(label)],
            [record for record in found if f"/{record.key}".endswith(f"/{row.get('relative_path', file)}")],
            [record for record in found if record.split != "test"],
        ):
            found = narrower if len(found) > 1 and narrower else found
        if len(found) > 1:
            several = shown([record.key for record in found], limit=5)
            raise UserError(f"{file!r} of class {label!r} names several items: {several}")
        if not found:
            hint = self._hint(file, lambda record: record.label in labels, whole=False)
            raise UserError(f"no item {file!r} of class {label!r}{hint}")
        return found[0]

    def _hint(self, wanted: str, alike: Callable[[Record], bool], whole: bool) -> str:
        """The nearest training item of the same class or folder, by its whole key or its file name."""
        self.hints += 1
        if self.hints > HINTS:
            return ""
        keys = [key for key, record in self.by_key.items() if record.split != "test" and alike(record)]
        names = {key if whole else key.rpartition("/")[2]: key for key in keys}
        nearest = get_close_matches(wanted, names, n=1, cutoff=0.0)
        return f"; nearest: {names[nearest[0]]!r}" if nearest else ""


def _rows(path: str) -> list[tuple[int, str, Any]]:
    """Number, text and value of each row of a list; the value is None where the text is no JSON."""
    rows = []
    for number, text in lines(Path(path).expanduser()):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        rows.append((number, text, value))
    return rows


def _fields(text: str, row: Any) -> dict[str, str]:
    """Fields of a row, either ``key`` alone or the others, with ``file_name`` filled in from ``relative_path``."""
    if not isinstance(row, dict) or not all(isinstance(value, str) and value for value in row.values()):
        raise UserError(f"expected a row {FORMS}; found {text[:80]!r}")
    if unknown := [unknown_name("field", name, FIELDS) for name in row if name not in FIELDS]:
        raise UserError(*unknown)
    if list(row) == ["key"]:
        return row
    given = ", ".join(sorted(row))
    row.setdefault("file_name", row.get("relative_path", "").rpartition("/")[2])
    if "key" in row or "class_name" not in row or not row["file_name"]:
        raise UserError(f"expected a row {FORMS}; found the fields {given}")
    if not f"/{row.get('relative_path', row['file_name'])}".endswith(f"/{row['file_name']}"):
        raise UserError(f"file_name {row['file_name']!r} is not the file of relative_path {row['relative_path']!r}")
    return row


def _squeezed(label: str) -> str:
    return normalise_label(label).replace(" ", "")


def listed_images(path: str, tables: Sequence[BoxTable]) -> list[set[int]]:
    """Positions in each table of the images that a list names.

    Raises:
        UserError: the list cannot be read, or rows name no training image with boxes, or one twice; all of them.
    """
    places = {key: (t, i) for t, table in enumerate(tables) for i, key in enumerate(table.keys)}
    found: list[set[int]] = [set() for _ in tables]
    rows = _rows(path)
    problems = [] if rows else [f"{path}: expected one training image a row; found an empty list"]
    for number, text, row in rows:
        named = row if isinstance(row, dict) else {}
        images = named.get("images")
        key = named.get("key", images[0] if isinstance(images, list) and len(images) == 1 else None)
        problem = ""
        if not isinstance(key, str):
            problem = f'expected {{"key": "…"}} or {{"images": ["…"]}}; found {text[:80]!r}'
        elif key not in places:
            problem = f"{key!r} is no training image with boxes; names look like {shown(sorted(places)[:1])!r}"
        elif places[key][1] in found[places[key][0]]:
            problem = f"{key!r} is listed more than once"
        else:
            found[places[key][0]].add(places[key][1])
        problems += [f"{path}, row {number}: {problem}"] if problem else []
    if problems:
        raise UserError(*problems)
    return found


def unused_listed(listed: int, unused: int, of: str) -> list[str]:
    """Note on items of a list that the stream has no place for; none when every item is used."""
    return [f"{unused} of {listed} listed items are of {of} that are not used"] if unused else []
