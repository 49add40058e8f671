"""What a record on disk must hold: kinds of plain values, and reading a record whose fields are of their kinds.

A run folder may be cut short, edited or somebody else's. Whoever reads a file of it names the fields that are used, so
that anything else is refused here, with the file's name, and nowhere later.
Deliberately absent: checks of one field against another, which its owner makes.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrft.utils.files import digest, read_json, safe_name, sha256_file
from clrft.utils.plain import from_json, shown
from task_streams.errors import UserError

_TASK = re.compile(r"[0-9]{1,6}")
LARGEST = 2**53  # whole numbers up to here are exact as floats


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: in words, and whether a value is of it."""

    words: str
    fits: Callable[[Any], bool]


Kinds = Mapping[str, Kind]

TEXT = Kind("text", lambda value: isinstance(value, str))
WHOLE = Kind(f"a whole number from 0 to {LARGEST}", lambda value: type(value) is int and 0 <= value <= LARGEST)
NUMBER = Kind("a finite number", lambda value: is_number(value))
FRACTION = Kind("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
MAPPING = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
TOKEN = Kind("letters and digits", lambda value: isinstance(value, str) and value.isascii() and value.isalnum())


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a sum of many such is still one."""
    if type(value) is int:
        return abs(value) <= LARGEST
    return type(value) is float and abs(value) <= 1e300  # NaN is not


def or_null(kind: Kind) -> Kind:
    """That kind, or null."""
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.fits(value))


def list_of(kind: Kind) -> Kind:
    """A list of one kind."""
    return Kind(f"a list, each {kind.words}", lambda value: isinstance(value, list) and all(map(kind.fits, value)))


def by_name(kind: Kind) -> Kind:
    """An object whose values are of one kind."""
    return Kind(
        f"an object, each value {kind.words}",
        lambda value: isinstance(value, dict) and all(map(kind.fits, value.values())),
    )


def by_task(kind: Kind) -> Kind:
    """An object whose keys are numbers of tasks and whose values are of one kind."""
    return Kind(
        f"an object from numbers of tasks, each to {kind.words}",
        lambda value: by_name(kind).fits(value) and all(_TASK.fullmatch(key) for key in value),
    )


FEED = Kind("images or video", lambda value: value in ("images", "video"))
DRIFT = Kind(
    "an object of numbers, and of nulls whose reasons stand under undefined",
    lambda value: (
        isinstance(value, dict)
        and by_name(TEXT).fits(value.get("undefined", {}))
        and all(
            NUMBER.fits(one) if one is not None else name in value.get("undefined", {})
            for name, one in value.items()
            if name != "undefined"
        )
    ),
)

LEAST_APPLIED = "least_update_applied"  # smallest share of an update that reached the weights
# The fields of a stage's metrics.json that are read; those behind ``others`` may be absent.
STAGE: Kinds = {"task": WHOLE, "name": TEXT, "accuracy": by_task(FRACTION)}
STAGE_OTHERS: Kinds = {
    "correct": by_task(or_null(WHOLE)),
    "total": by_task(or_null(WHOLE)),
    "final_list": by_task(FRACTION),
    "pooled": or_null(FRACTION),
    "probe": by_name(FRACTION),
    "drift": DRIFT,
    "cost": by_name(by_name(NUMBER)),
    "seconds": by_name(NUMBER),
    "peak_memory_mb": by_name(NUMBER),
    LEAST_APPLIED: or_null(NUMBER),
    "files": by_name(TEXT),
    "digest": TEXT,
}
METRIC = Kind(
    "an object with a value (a number or null) and a reason (text or null)",
    lambda value: (
        isinstance(value, dict)
        and value.keys() == {"value", "reason"}
        and or_null(NUMBER).fits(value["value"])
        and or_null(TEXT).fits(value["reason"])
    ),
)
STEP: Kinds = {  # written as a number like the figures beside it: 1.0
    "step": Kind(WHOLE.words, lambda value: is_number(value) and value >= 0 and value == int(value))
}
TRAINING: Kinds = {"seconds": NUMBER, "steps": TEXT}
TRAINING_OTHERS: Kinds = {"cost": by_name(NUMBER)}
MARK: Kinds = {"identity": TOKEN}  # mlflow.json
LINEAGE: Kinds = {"stage": WHOLE, "parent": TEXT, "identity": TEXT, "files": by_name(TEXT)}
STATE: Kinds = {"parent": TEXT, "sha256": TEXT, "step": WHOLE, "values": MAPPING, "digest": TEXT}  # unfinished
METHOD_STATE: Kinds = {"method": TEXT, "task": WHOLE, "values": MAPPING, "tensors": list_of(TEXT)}
PEAK: Kinds = {"bytes": WHOLE, "phase": TEXT, "parts": by_name(WHOLE)}  # of a phase of training or testing
MEMORY = Kind(
    "an object with peaks of training and testing, and the bytes that were there",
    lambda value: (
        isinstance(value, dict)
        and or_null(WHOLE).fits(value.get("available_bytes"))
        and all(
            isinstance(one, dict) and all(name in one and kind.fits(one[name]) for name, kind in PEAK.items())
            for one in (value[name] for name in ("training", "testing") if name in value)
        )
    ),
)
MANIFEST: Kinds = {"stream": TEXT, "method": TEXT, "seed": WHOLE}
MANIFEST_OTHERS: Kinds = {
    "tasks": list_of(MAPPING),
    "measure": TEXT,
    "data": by_name(TEXT),
    "probes": by_name(TEXT),
    "prompts": by_name(TEXT),
    "prompt_style": TEXT,
    "plugins": by_name(TEXT),
    "versions": by_name(TEXT),
    "carry": by_name(TEXT),
    "memory": MEMORY,
    "model": MAPPING,
    "feed": FEED,
}
SWEEP: Kinds = {"sweep": TEXT, "streams": list_of(TEXT), "methods": list_of(TEXT), "seeds": LIST}
SWEEP_OTHERS: Kinds = {
    "models": list_of(TEXT),
    "set": or_null(MAPPING),
    "vary": or_null(by_name(LIST)),
    "per_method": or_null(by_name(MAPPING)),
}


def check_fields(where: object, values: Mapping[str, Any], needed: Kinds, others: Kinds | None = None) -> None:
    """Refuse a record with a field that is missing or of another kind; ``others`` may be missing.

    Raises:
        UserError: names every such field.
    """
    missing = {name: kind for name, kind in needed.items() if name not in values}
    problems = [f"{where}: {name} is missing; expected {kind.words}." for name, kind in missing.items()]
    problems += [
        f"{where}: {name} is {shown(values[name])}; expected {kind.words}."
        for name, kind in {**needed, **(others or {})}.items()
        if name in values and not kind.fits(values[name])
    ]
    if problems:
        raise UserError(*problems)


def read_record(path: Path, schema: int | None, needed: Kinds, others: Kinds | None = None) -> dict[str, Any]:
    """A JSON file whose fields are of their kinds.

    Raises:
        UserError: missing, damaged, of another schema, or a field is missing or of another kind.
    """
    record = read_json(path, schema)
    check_fields(path, record, needed, others)
    return record


def read_stage(path: Path, schema: int | None = None) -> dict[str, Any]:
    """A stage's ``metrics.json``.

    Raises:
        UserError: as ``read_record``, or it was changed since it was written.
    """
    record = read_record(path, schema, STAGE, STAGE_OTHERS)
    stated = record.pop("digest", None)  # older versions wrote none
    if stated is not None and stated != digest(record):
        raise UserError(f"{path} was changed: its digest is {stated[:12]}, expected {digest(record)[:12]}.")
    wrong = [
        f"{path}: task {task} has {right} right answers of {total}, and the accuracy {record['accuracy'].get(task)}."
        for task, right in record.get("correct", {}).items()
        if not agree(right, total := record.get("total", {}).get(task), record["accuracy"].get(task))
    ]
    if wrong:
        raise UserError(*wrong)
    return record


def changed_files(path: Path, record: Mapping[str, Any]) -> list[str]:
    """Sentences for the files beside a stage's ``metrics.json`` that are no longer those it was written with.

    A file that is gone is none of them: whoever needs it says so. Older versions wrote no checksums.
    """
    stated = {path.parent / safe_name(name): checksum for name, checksum in record.get("files", {}).items()}
    return [
        f"{file} was changed: its checksum is not the one that {path.name} beside it states."
        for file, checksum in stated.items()
        if file.is_file() and sha256_file(file) != checksum
    ]


def agree(right: int | None, total: int | None, accuracy: float | None) -> bool:
    """Whether counts and an accuracy belong to each other; a result that is no share of answers has no counts."""
    if right is None:
        return accuracy is not None
    return accuracy is not None and bool(total) and abs(right / (total or 1) - accuracy) < 1e-6


def read_rows(path: Path, needed: Kinds | None = None) -> Iterator[dict[str, Any]]:
    """The objects of a file with one per line, read as they are asked for.

    Raises:
        UserError: the file cannot be read, a line is no object, or a field is missing or of another kind.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = from_json(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no object")
                check_fields(f"{path}, line {number}", row, needed or {})
                yield row
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}") from error


def read_steps(path: Path) -> list[dict[str, float]]:
    """A stage's ``steps.jsonl``: one row of numbers per update.

    Raises:
        UserError: as ``read_rows``, or a figure is no number.
    """
    fast = _numbers(path)
    if fast is not None:
        return fast
    number = or_null(NUMBER)
    rows = list(read_rows(path, STEP))
    for at, row in enumerate(rows, start=1):
        check_fields(f"{path}, line {at}", row, dict.fromkeys(row, number))
    return rows


def _numbers(path: Path) -> list[dict[str, float]] | None:
    """The rows of a file in which all is as it should be, as nearly always; None for what needs a closer look."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]
    except (OSError, ValueError, RecursionError):
        return None
    for row in rows:
        if not isinstance(row, dict) or not STEP["step"].fits(row.get("step")):
            return None
        if not all(name.isascii() and is_number(value) for name, value in row.items()):
            return None
    return rows
