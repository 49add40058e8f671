r"""Question files of instruction-tuning benchmarks to records: what rows look like, and what can be wrong with them.

Layout of CoIN (github.com/zackschen/CoIN) and UCIT (huggingface.co/datasets/HaiyangGuo/UCIT): one folder per task
with a JSON list for each split. A row is a LLaVA conversation, ``{"id", "image", "conversations": [{"from": "human",
"value": "<image>\n…"}, {"from": "gpt", "value": "…"}]}``, or flat: ``{"question_id", "image", "text", "answer"}``.
Either form may stand in either split, ids under either name, ``user``/``assistant`` for ``human``/``gpt``.
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
from task_streams.sources.layout import is_text
from task_streams.sources.records import FileSource, Found, Record, Split
from task_streams.types import Question, target_value

NAMED = 5  # rows that a problem names; the rest is counted
ASKING, ANSWERING = ("human", "user"), ("gpt", "assistant")
CLOSING = "</answer>"  # of a reply
_PLACEHOLDER = re.compile(r"<image>|Picture \d+: <img>.*?</img>")


class BadRow(Exception):
    """What is wrong with a row, without its place."""


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """One split of one task.

    Attributes:
        images: folder that image paths start at.
        rule: how answers are compared: ``exact``, ``relaxed_number`` or ``auto``.
        tell_apart: whether ids that several rows share are told apart by their content, not refused.
    """

    task: str
    split: Split
    path: Path
    images: Path
    rule: str
    tell_apart: bool

    @property
    def place(self) -> str:
        """The file as problems name it."""
        return f"{self.task}/{self.path.name}"


def read_questions(file: QuestionFile) -> Found:
    """Every item of a question file; what is wrong with it is among the problems."""
    try:
        rows = _rows(file.path)
    except BadRow as fault:
        return Found((), (), (f"{file.place}: {fault}",))
    bad: dict[str, list[str]] = {}
    without_image = 0
    found: list[Record] = []
    for number, row in enumerate(rows, start=1):
        try:
            items = list(_row_records(file, row))
        except BadRow as fault:
            bad.setdefault(str(fault), []).append(f"{number} (id {_id(row)!r})" if _id(row) else str(number))
            continue
        without_image += not items
        found += items
    problems = tuple(f"{file.place}: {fault}: row {shown(places, NAMED)}" for fault, places in bad.items())
    notes = (f"{file.place}: {without_image} rows without an image left out",) if without_image else ()
    unique = _unique(file, found)
    return Found(unique.records, notes + unique.notes, problems + unique.problems)


def _rows(path: Path) -> list[Any]:
    """The rows of a JSON list."""
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise BadRow(f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BadRow(f"damaged, or no JSON ({error})") from error
    if not isinstance(rows, list):
        raise BadRow(f"expected a JSON list of rows, found {type(rows).__name__}")
    if not rows:
        raise BadRow("an empty list, expected rows")
    return rows


def _row_records(file: QuestionFile, row: Any) -> Iterator[Record]:
    """The items of a row; none when it has no image."""
    if not isinstance(row, Mapping):
        raise BadRow(f"expected an object, found {type(row).__name__}")
    if not (identity := _id(row)):
        raise BadRow("no 'id' or 'question_id' that is a text or a whole number")
    pairs = [(_question(asked), _answers(answer)) for asked, answer in _pairs(row)]
    image = row.get("image")
    if image is None or image == "":
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
    if "conversations" not in row:
        if "text" not in row:
            raise BadRow("neither 'conversations' nor 'text'")
        if "answer" not in row and "answers" not in row:
            raise BadRow("no 'answer'")
        return [(row["text"], row["answer"] if "answer" in row else row["answers"])]
    turns = row["conversations"]
    whole = isinstance(turns, list) and turns and all(isinstance(t, Mapping) and "value" in t for t in turns)
    speakers = [turn.get("from") for turn in turns] if whole else []
    in_turn = all(who in (ANSWERING if place % 2 else ASKING) for place, who in enumerate(speakers))
    if not whole or len(turns) % 2 or not in_turn:
        raise BadRow("'conversations' is no list of turns, {'from', 'value'}, by human and gpt in alternation")
    values = [turn["value"] for turn in turns]
    return list(zip(values[::2], values[1::2], strict=True))


def _question(asked: Any) -> str:
    """Text of a question without placeholders of its image."""
    if not isinstance(asked, str) or not (text := _PLACEHOLDER.sub("", asked).strip()):
        raise BadRow("an empty question")
    if not is_text(text):
        raise BadRow("a question with half of a surrogate pair, which is no text")
    return text


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
    if any(CLOSING in value for value in answers):
        raise BadRow(f"an answer with {CLOSING!r}, which would end its own reply")
    return answers


def _unique(file: QuestionFile, found: list[Record]) -> Found:
    """Records with keys of their own; rows that share an id are refused, or told apart by their content."""
    groups: dict[str, list[Record]] = {}
    for record in found:
        groups.setdefault(record.key, []).append(record)
    shared = [key for key, records in groups.items() if len(records) > 1]
    if shared and not file.tell_apart:
        ids = [f"{key.removeprefix(f'{file.task}/{file.split}/')} ({len(groups[key])} rows)" for key in shared]
        remedy = "give each row its own, or set repeated_ids=tell_apart"
        problem = f"{file.place}: {len(ids)} ids name several rows; {remedy}: {shown(ids, NAMED)}"
        return Found(tuple(records[0] for records in groups.values()), (), (problem,))
    kept: list[Record] = []
    copies = 0
    for key, records in groups.items():
        if len(records) == 1:
            kept.append(records[0])
            continue
        apart = {_content(file, record): record for record in records}  # equal rows of one id are one item
        kept += [replace(record, key=f"{key}-{content}") for content, record in apart.items()]
        copies += len(records) - len(apart)
    left_out = f", {copies} equal rows left out" if copies else ""
    note = f"{file.place}: {len(shared)} ids name several rows, told apart by their content{left_out}"
    return Found(tuple(kept), (note,) if shared else ())


def _content(file: QuestionFile, record: Record) -> str:
    """Short name of what a row says, equal on every machine."""
    image = Path(record.source.name).relative_to(file.images).as_posix()
    content = json.dumps([image, target_value(record.target)])
    return hashlib.sha256(content.encode()).hexdigest()[:12]
