r"""Question files of instruction-tuning benchmarks to records: what rows look like, and what can be wrong with them.

Layout of CoIN (github.com/zackschen/CoIN) and UCIT (huggingface.co/datasets/HaiyangGuo/UCIT): one folder per task
with a JSON list for each split. A row is a LLaVA conversation, ``{"id", "image", "conversations": [{"from": "human",
"value": "<image>\n…"}, {"from": "gpt", "value": "…"}]}``, or flat: ``{"question_id", "image", "text", "answer"}``.
Or chat messages: ``{"messages": [{"role": "user", "content": "<image>…"}, {"role": "assistant", …}], "images": […]}``.
Any form may stand in either split, ids under either name, ``user``/``assistant`` for ``human``/``gpt``, the image as
``image`` or alone in ``images``; the file may hold a row a line. Rows of a file without any ids are known by number.
Image paths start at one folder for all tasks. Every pair of turns is an item of its own, asked without the turns
before it. Rows without an image are left out and counted. Nothing but the JSON is read here.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from task_streams.answers import resolved_rule
from task_streams.errors import shown
from task_streams.sources.layout import is_text, read_text
from task_streams.sources.records import FileSource, Found, Record, Split
from task_streams.types import Question, target_value

NAMED = 5  # rows that a problem names; the rest is counted
ASKING, ANSWERING = ("human", "user"), ("gpt", "assistant")
_MEDIA = re.compile(r"(image|img|picture|photo|video)(?!.*id)", re.IGNORECASE)  # fields that name what is asked about
_PLACEHOLDER = re.compile(r"<image>|Picture \d+: <img>.*?</img>")


class BadRow(Exception):
    """What is wrong with a row, without its place."""


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """One split of one task.

    Attributes:
        images: folder that image paths start at.
        rule: how answers are compared: ``exact``, ``relaxed_number``, ``relaxed_all`` or ``auto``.
        tell_apart: whether ids that several rows share are told apart by their content, not refused.
    """

    task: str
    split: Split
    path: Path
    images: Path
    rule: str
    tell_apart: bool


def read_questions(file: QuestionFile) -> Found:
    """Every item of a question file; what is wrong with it is among the problems."""
    place = f"{file.task}/{file.path.name}"
    fault = ""
    rows: Any = None
    try:
        rows = json_rows(read_text(file.path))
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        fault = f"damaged, or no JSON ({error})"
    if not fault and not isinstance(rows, list):
        fault = f"expected a JSON list of rows, found {type(rows).__name__}"
    elif not fault and not rows:
        fault = "an empty list, expected rows"
    if fault:
        return Found((), (), (f"{place}: {fault}",))
    bad: dict[str, list[str]] = {}
    without_image = 0
    groups: dict[str, list[Record]] = {}
    has_ids = any(isinstance(row, Mapping) and not {"id", "question_id"}.isdisjoint(row) for row in rows)
    for number, row in enumerate(rows, start=1):
        try:
            items = list(_row_records(file, row, _id(row) if has_ids else str(number)))
        except BadRow as wrong:
            bad.setdefault(str(wrong), []).append(f"{number} (id {_id(row)!r})" if _id(row) else str(number))
            continue
        without_image += not items
        for record in items:
            groups.setdefault(record.key, []).append(record)
    problems = tuple(f"{place}: {wrong}: row {shown(places, NAMED)}" for wrong, places in bad.items())
    notes = [f"{place}: {without_image} rows without an image left out"] if without_image else []
    notes += [] if has_ids else [f"{place}: no row has an id; each is known by its number"]
    unique = _unique(file, place, groups)
    return Found(unique.records, (*notes, *unique.notes), problems + unique.problems)


def json_rows(text: str) -> Any:
    """The value of a JSON text, or of JSON lines: those of all lines.

    Raises:
        ValueError: it is neither.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as whole:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise whole from None


def _row_records(file: QuestionFile, row: Any, identity: str) -> Iterator[Record]:
    """The items of a row; none when it has no image."""
    if not isinstance(row, Mapping):
        raise BadRow(f"expected an object, found {type(row).__name__}")
    if not identity:
        raise BadRow("no 'id' or 'question_id' that is a text or a whole number")
    pairs = []
    for asked, answer in _pairs(row):
        if not isinstance(asked, str):
            raise BadRow("a question that is no text")
        text = _PLACEHOLDER.sub("", asked).strip()
        if not text:
            raise BadRow("an empty question")
        if not is_text(text):
            raise BadRow("a question with half of a surrogate pair, which is no text")
        pairs.append((text, _answers(answer)))
    image, several = row.get("image"), row.get("images")
    if not image and several:
        if not isinstance(several, list) or len(several) != 1:
            raise BadRow("'images' is no list of one image")
        image = several[0]
    if image is None or image == "":
        if any("<image>" in str(asked) for asked, _ in _pairs(row)):
            raise BadRow("a question with '<image>', but neither 'image' nor 'images' names one")
        if other := [name for name, value in row.items() if value and _MEDIA.search(name)]:
            raise BadRow(f"neither 'image' nor 'images', but {other[0]!r}")
        return
    parts = [part for part in image.split("/") if part not in ("", ".")] if isinstance(image, str) else []
    if not parts or "\0" in image or not is_text(image):
        raise BadRow("'image' is no path of one image")
    if image.startswith("/") or ".." in parts:
        raise BadRow(f"'image' leads out of its folder: {image!r}")
    source = FileSource("/".join((str(file.images), *parts)))
    for turn, (asked, answers) in enumerate(pairs, start=1):
        key = f"{file.task}/{file.split}/{identity}" + (f"/{turn}" if len(pairs) > 1 else "")
        yield Record(key, Question(asked, answers, resolved_rule(file.rule, answers)), source, file.split, file.task)


def _id(row: Any) -> str:
    """Identity of a row as it stands there; empty when there is none."""
    value = row.get("id", row.get("question_id")) if isinstance(row, Mapping) else None
    return str(value).strip() if isinstance(value, str | int) and is_text(str(value)) else ""


def _pairs(row: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Question and answer of each pair of turns, or of the row."""
    form, speaker, said = "conversations", "from", "value"
    if "messages" in row and form not in row:
        form, speaker, said = "messages", "role", "content"
    if form not in row:
        if "text" not in row:
            raise BadRow("neither 'conversations' nor 'messages' nor 'text'")
        if "answer" not in row and "answers" not in row:
            raise BadRow("no 'answer'")
        return [(row["text"], row["answer"] if "answer" in row else row["answers"])]
    turns = row[form]
    whole = isinstance(turns, list) and turns and all(isinstance(t, Mapping) and said in t for t in turns)
    speakers = [turn.get(speaker) for turn in turns] if whole else []
    in_turn = all(who in (ANSWERING if place % 2 else ASKING) for place, who in enumerate(speakers))
    if not whole or len(turns) % 2 or not in_turn:
        raise BadRow(f"{form!r} is no list of turns, {{{speaker!r}, {said!r}}}, by human and gpt in alternation")
    values = [turn[said] for turn in turns]
    return list(zip(values[::2], values[1::2], strict=True))


def _answers(answer: Any) -> tuple[str, ...]:
    """Accepted answers, each once."""
    values = answer if isinstance(answer, list) else [answer]
    if not all(isinstance(value, str | int | float) and not isinstance(value, bool) for value in values):
        raise BadRow("an answer that is neither text nor a number")
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise BadRow("an answer that is no finite number")
    answers = tuple(dict.fromkeys(str(value).strip() for value in values))
    if not answers or not all(answers):
        raise BadRow("an empty answer")
    if not all(map(is_text, answers)):
        raise BadRow("an answer with half of a surrogate pair, which is no text")
    return answers


def _unique(file: QuestionFile, place: str, groups: Mapping[str, list[Record]]) -> Found:
    """Records with keys of their own; rows that share an id are refused, or told apart by their content."""
    shared = [key for key, records in groups.items() if len(records) > 1]
    if shared and not file.tell_apart:
        ids = [f"{key.removeprefix(f'{file.task}/{file.split}/')} ({len(groups[key])} rows)" for key in shared]
        remedy = "give each row its own, or set repeated_ids=tell_apart"
        problem = f"{place}: {len(ids)} ids name several rows; {remedy}: {shown(ids, NAMED)}"
        return Found(tuple(records[0] for records in groups.values()), (), (problem,))
    kept: list[Record] = []
    copies = 0
    for key, records in groups.items():
        if len(records) == 1:
            kept.append(records[0])
            continue
        apart: dict[str, Record] = {}  # equal rows of one id are one item
        for record in records:  # by a short name of what a row says, equal on every machine
            image = Path(record.source.name).relative_to(file.images).as_posix()
            content = json.dumps([image, target_value(record.target)])
            apart[hashlib.sha256(content.encode()).hexdigest()[:12]] = record
        kept += [replace(record, key=f"{key}-{content}") for content, record in apart.items()]
        copies += len(records) - len(apart)
    left_out = f", {copies} equal rows left out" if copies else ""
    note = f"{place}: {len(shared)} ids name several rows, told apart by their content{left_out}"
    return Found(tuple(kept), (note,) if shared else ())
