"""Exact lists of training items: a JSONL file whose every row must name one training item of the source.

A row is ``{"key": "…"}`` (as ``clrft`` names items) or the form of RaPO's released lists:
``{"class_name": "…", "relative_path": "<class>/<file>", "file_name": "<file>"}``. The second form is matched by class
and file name; the class is compared as answers are, and also without separators (``ApplyEyeMakeup`` is
``Apply_Eye_Makeup``). Questions have no class, so they are named by key. No path of a list is ever opened.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from task_streams.errors import UserError, shown, unknown_name
from task_streams.labels import normalise_label
from task_streams.sources.layout import lines
from task_streams.sources.records import Record

FORMS = '{"key": "…"} or {"class_name": "…", "relative_path": "…", "file_name": "…"}'
FIELDS = ("key", "class_name", "relative_path", "file_name")
HINTS = 20  # rows that are not found and get the nearest item named; looking it up is slow


def listed_records(path: str, records: Sequence[Record]) -> tuple[Record, ...]:
    """The records that a list names for training, and all test records.

    In a source without splits, all items that the list does not name become test items.

    Raises:
        UserError: the list is missing or damaged, or rows name no item, several, or one twice; all of them.
    """
    rows = lines(Path(path).expanduser())
    catalogue = Catalogue.of(records)
    chosen: dict[str, Record] = {}
    first: dict[str, int] = {}
    problems = [] if rows else [f"{path}: expected rows {FORMS}; found an empty list"]
    for number, text in rows:
        try:
            record = catalogue.named_by(text)
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


@dataclass(slots=True)
class Catalogue:
    """Every item of a source, by what a row may name it by.

    Attributes:
        keys: by key.
        names: by file name.
        labels: class names as they are, by their form without case and separators.
        unfound: rows that named no item so far.
    """

    keys: dict[str, Record] = field(default_factory=dict)
    names: dict[str, list[Record]] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)
    unfound: int = 0

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Catalogue":
        """The catalogue of records."""
        made = cls()
        labels: set[str] = set()
        for record in records:
            made.keys[record.key] = record
            made.names.setdefault(record.key.rpartition("/")[2], []).append(record)
            labels |= {record.target} if isinstance(record.target, str) else set()
        for label in sorted(labels):
            made.labels.setdefault(squeezed(label), []).append(label)
        return made

    def named_by(self, text: str) -> Record:
        """The training item that a row names.

        Raises:
            UserError: the row is malformed, or names no item, several, or a test item.
        """
        row = parsed(text)
        found = self._by_key(row["key"]) if "key" in row else self._by_names(row)
        if found.split == "test":
            raise UserError(f"{found.key} is a test item; a list names training items only")
        return found

    def _by_key(self, key: str) -> Record:
        if key in self.keys:
            return self.keys[key]
        folder = key.rpartition("/")[0]
        hint = self._hint(key, lambda record: record.key.rpartition("/")[0] == folder, whole=True)
        raise UserError(f"no item {key!r}{hint}")

    def _by_names(self, row: dict[str, str]) -> Record:
        label, file = row["class_name"], row["file_name"]
        if not self.labels:
            example = json.dumps({"key": next(iter(self.keys), "")}, ensure_ascii=False)
            raise UserError(f"the items have no classes; expected rows such as {example}")
        form = squeezed(label)
        if form not in self.labels:
            raise UserError(unknown_class(label, [name for names in self.labels.values() for name in names]))
        spellings = self.labels[form]
        found = [record for record in self.names.get(file, []) if record.label in spellings]
        for narrower in (
            [record for record in found if normalise_label(record.label) == normalise_label(label)],
            [record for record in found if f"/{record.key}".endswith(f"/{row.get('relative_path', file)}")],
            [record for record in found if record.split != "test"],
        ):
            found = narrower if len(found) > 1 and narrower else found
        if len(found) > 1:
            raise UserError(
                f"{file!r} of class {label!r} names several items: {shown([r.key for r in found], limit=5)}"
            )
        if not found:
            hint = self._hint(file, lambda record: record.label in spellings, whole=False)
            raise UserError(f"no item {file!r} of class {label!r}{hint}")
        return found[0]

    def _hint(self, wanted: str, alike: Callable[[Record], bool], whole: bool) -> str:
        """The nearest training item of the same class or folder, by its whole key or its file name."""
        self.unfound += 1
        if self.unfound > HINTS:
            return ""
        keys = [key for key, record in self.keys.items() if record.split != "test" and alike(record)]
        names = {key if whole else key.rpartition("/")[2]: key for key in keys}
        nearest = get_close_matches(wanted, names, n=1, cutoff=0.0)
        return f"; nearest: {names[nearest[0]]!r}" if nearest else ""


def parsed(text: str) -> dict[str, str]:
    """Fields of a row, with ``file_name`` filled in from ``relative_path``.

    Raises:
        UserError: it is neither of the two forms.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"expected a row {FORMS}; found {text[:80]!r}") from None
    if not isinstance(row, dict) or not all(isinstance(value, str) and value for value in row.values()):
        raise UserError(f"expected a row {FORMS}; found {text[:80]!r}")
    if unknown := [unknown_name("field", name, FIELDS) for name in row if name not in FIELDS]:
        raise UserError(*unknown)
    if "key" in row and len(row) == 1:
        return row
    row.setdefault("file_name", row.get("relative_path", "").rpartition("/")[2])
    if "key" in row or "class_name" not in row or not row["file_name"]:
        raise UserError(f"expected a row {FORMS}; found the fields {', '.join(sorted(json.loads(text)))}")
    if not f"/{row.get('relative_path', row['file_name'])}".endswith(f"/{row['file_name']}"):
        raise UserError(f"file_name {row['file_name']!r} is not the file of relative_path {row['relative_path']!r}")
    return row


def unused_listed(listed: int, unused: int, of: str) -> list[str]:
    """Note on items of a list that the stream has no place for; none when every item is used."""
    return [f"{unused} of {listed} listed items are of {of} that are not used"] if unused else []


def squeezed(label: str) -> str:
    """A class name without case and separators."""
    return normalise_label(label).replace(" ", "")


def unknown_class(label: str, known: Sequence[str]) -> str:
    """Sentence for a class that the source does not have, with the nearest."""
    forms = {normalise_label(name): name for name in known}
    nearest = get_close_matches(normalise_label(label), forms, n=1, cutoff=0.4)
    hint = f"; nearest: {forms[nearest[0]]!r}" if nearest else ""
    return f"no class {label!r} among the {len(known)} of the source{hint}"
