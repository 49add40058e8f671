"""What a record on disk must hold, as pydantic models, and reading a record.

A run folder may be cut short, edited or somebody else's. Whoever reads a file of it names the kind of record, so that
anything else is refused here, with the file's name, and nowhere later. Fields that a record does not name are let be.
Deliberately absent: checks of one field against another, which its owner makes.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from clrft.utils.files import digest, read_json, safe_name, sha256_file
from clrft.utils.plain import from_json
from task_streams.config import expected, quotes_hint
from task_streams.errors import UserError, brief
from task_streams.types import Feed

LARGEST = 2**53  # whole numbers up to here are exact as floats
LEAST_APPLIED = "least_update_applied"  # smallest share of an update that reached the weights
ABSENT: Any = None  # default of a field that may be missing

Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Number = Annotated[float, Field(ge=-1e300, le=1e300, title="a finite number")]  # a sum of many is still one
Fraction = Annotated[float, Field(ge=0, le=1)]
StepNumber = Annotated[float, Field(ge=0, le=LARGEST, multiple_of=1, title="a whole number")]  # 1.0, as figures are
Task = Annotated[str, Field(pattern="^[0-9]{1,6}$")]
Object = dict[str, Any]
Texts = dict[str, str]
Numbers = dict[str, Number]
FIGURES = TypeAdapter(list[dict[str, Number | None]])
STEPS = TypeAdapter(list[StepNumber])


class Record(BaseModel):
    """Base of records; values are of their types as they are, and may have more fields."""

    model_config = ConfigDict(strict=True, defer_build=True)


class Drift(Record, title="an object of numbers, and of nulls whose reasons stand under undefined", extra="allow"):
    """Drift of a stage by name."""

    undefined: Texts = {}
    __pydantic_extra__: dict[str, Number | None]

    @model_validator(mode="after")
    def check_reasons(self) -> Self:
        if any(value is None and name not in self.undefined for name, value in self.__pydantic_extra__.items()):
            raise ValueError
        return self


class Stage(Record):
    """What of a stage's ``metrics.json`` is read."""

    task: Whole
    name: str
    accuracy: dict[Task, Fraction]
    correct: dict[Task, Whole | None] = ABSENT
    total: dict[Task, Whole | None] = ABSENT
    final_list: dict[Task, Fraction] = ABSENT
    pooled: Fraction | None = None
    probe: dict[str, Fraction] = ABSENT
    drift: Drift = ABSENT
    cost: dict[str, Numbers] = ABSENT
    seconds: Numbers = ABSENT
    peak_memory_mb: Numbers = ABSENT
    least_update_applied: Number | None = None
    files: Texts = ABSENT
    digest: str = ABSENT


class Seconds(Record):
    """What of a stage's ``metrics.json`` says how long it took."""

    seconds: Numbers = ABSENT


class Metric(Record, title="an object with a value (a number or null) and a reason (text or null)", extra="forbid"):
    """A metric of a run."""

    value: Number | None
    reason: str | None


class Metrics(Record):
    """A run's ``metrics.json``."""

    metrics: Object


class MetricRows(Record, extra="allow"):
    """Metrics by name."""

    __pydantic_extra__: dict[str, Metric]


class Step(Record, extra="allow"):
    """A row of ``steps.jsonl``: numbers of one update."""

    step: StepNumber
    __pydantic_extra__: dict[str, Number | None]


class Answer(Record):
    """A row of ``predictions.jsonl``."""

    stage: Whole
    task: Whole
    key: str
    label: str
    completion: str
    answer: str | None


class Training(Record):
    """``training.json``."""

    seconds: Number
    steps: str
    cost: Numbers = ABSENT


class Mark(Record):
    """``mlflow.json``."""

    identity: Annotated[str, Field(pattern="^[A-Za-z0-9]+$", title="letters and digits")]


class Lineage(Record):
    """``lineage.json``."""

    stage: Whole
    parent: str
    identity: str
    files: Texts


class Unfinished(Record):
    """State of a task's training that is not finished."""

    parent: str
    sha256: str
    step: Whole
    values: Object
    digest: str


class MethodState(Record):
    """What a method keeps of a finished task."""

    method: str
    task: Whole
    values: Object
    tensors: list[str]
    names: list[str] = ABSENT  # of both, in the method's own order


class Peak(Record):
    """Peak of a phase of training or testing."""

    bytes: Whole
    phase: str
    parts: dict[str, Whole]


class Memory(Record, title="an object with peaks of training and testing, and the bytes that were there"):
    """Estimate of memory."""

    available_bytes: Whole | None = None
    training: Peak = ABSENT
    testing: Peak = ABSENT


class BaseFacts(Record, title="an object with sha256 and files, or with commit"):
    """What a manifest says of the base."""

    sha256: str = ABSENT
    files: Texts = ABSENT
    commit: str = ABSENT


class Manifest(Record):
    """What of a ``manifest.json`` is read."""

    stream: str
    method: str
    seed: Whole
    tasks: list[Object] = ABSENT
    measure: str = ABSENT
    data: Texts = ABSENT
    probes: Texts = ABSENT
    prompts: Texts = ABSENT
    prompt_style: str = ABSENT
    plugins: Texts = ABSENT
    versions: Texts = ABSENT
    carry: Texts = ABSENT
    memory: Memory = ABSENT
    model: Object = ABSENT
    base: BaseFacts = ABSENT
    hardware: Object = ABSENT
    feed: Feed = ABSENT


class ManifestWithTasks(Manifest):
    """A ``manifest.json`` that says which tasks there are."""

    tasks: list[Object]


class ManifestWithModel(Manifest):
    """A ``manifest.json`` that says of which model it is."""

    model: Object


class Plan(Record):
    """A sweep, or a part of one."""

    sweep: str
    streams: list[str]
    methods: list[str]
    seeds: list[Any]
    models: list[str] = ABSENT
    set: Object | None = None
    vary: dict[str, list[Any]] | None = None
    per_method: dict[str, Object] | None = None


class Parts(Record):
    """A sweep as its file has it."""

    parts: list[Object] = ABSENT


def check_fields(where: object, values: Mapping[str, Any], kind: type[Record]) -> None:
    """Refuse a record with a field that is missing or wrong.

    Raises:
        UserError: names every such field.
    """
    try:
        kind.model_validate(values)
    except ValidationError as error:
        hints = get_type_hints(kind, include_extras=True)
        problems = []
        for name in dict.fromkeys(str(one["loc"][0]) for one in error.errors(include_url=False)):
            hint = hints.get(name) or get_args(hints["__pydantic_extra__"])[1]
            given = f"is {brief(values[name])}" if name in values else "is missing"
            words = expected(TypeAdapter(hint).json_schema())
            hint = quotes_hint(values.get(name, ""), words)
            problems.append(f"{where}: {name} {given}; expected {words}.{hint}")
        raise UserError(*problems) from None


def read_record(path: Path, schema: int | None, kind: type[Record]) -> dict[str, Any]:
    """A JSON file whose fields are as its kind of record has them.

    Raises:
        UserError: missing, damaged, of another schema, or a field is missing or wrong.
    """
    record = read_json(path, schema)
    check_fields(path, record, kind)
    return record


def read_stage(path: Path, schema: int | None = None) -> dict[str, Any]:
    """A stage's ``metrics.json``.

    Raises:
        UserError: as ``read_record``, or it was changed since it was written.
    """
    record = read_record(path, schema, Stage)
    stated = record.pop("digest", None)  # older versions wrote none
    if stated is not None and stated != digest(record):
        raise UserError(f"{path} was changed: its digest is {stated[:12]}, expected {digest(record)[:12]}.")
    wrong = []
    for task, right in record.get("correct", {}).items():
        total, accuracy = record.get("total", {}).get(task), record["accuracy"].get(task)
        # a result that is no share of answers has no counts
        if accuracy is None or (right is not None and not (total and abs(right / total - accuracy) < 1e-6)):
            wrong.append(f"{path}: task {task} has {right} right answers of {total}, and the accuracy {accuracy}.")
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


def read_rows(path: Path, kind: type[Record]) -> Iterator[dict[str, Any]]:
    """The objects of a file with one per line, read as they are asked for.

    Raises:
        UserError: the file cannot be read, a line is no object, or a field is missing or wrong.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = from_json(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no object")
                check_fields(f"{path}, line {number}", row, kind)
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
    try:  # all is as it should be, as nearly always
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]
        FIGURES.validate_python(rows, strict=True)
        STEPS.validate_python([row["step"] for row in rows], strict=True)
    except (OSError, ValueError, LookupError, RecursionError):
        return list(read_rows(path, Step))  # reads or refuses what needs a closer look
    return rows
