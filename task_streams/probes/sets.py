"""Questions outside the stream that tell what training did to general ability: a file of JSON lines is a probe set.

Four styles, each as published sets write it (docs/probes.md): ``choice`` (MMMU: images, question, options, a letter),
``yes_no`` (POPE: image, question, yes or no), ``instruction`` (IFEval: a prompt and checks of the reply's form), and
``open`` (accepted answers). Replies are scored in ``eval/probe.py``.
The style is told by the row's fields (or by ``style``): options make a choice, ``instruction_id_list`` an instruction,
the answer yes or no, without a ``rule``, a yes-no question; anything else is open. Fields that are not known are
passed over, as published rows have more of them, unless one is nearly the name of a known field.
Images are read and decoded once when the set is read, so that a damaged one is told before any work, and again when
they are asked about. Deliberately absent: downloads, and any set of questions itself.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from task_streams.answers import option_letter, resolved_rule
from task_streams.errors import UserError, shown, unknown_name
from task_streams.probes.checks import Check, read_checks
from task_streams.prompt import Request, user_turn
from task_streams.sources.images import decode_image
from task_streams.sources.layout import is_text, lines
from task_streams.sources.records import Damaged, FileSource
from task_streams.types import Rule

Style = Literal["choice", "yes_no", "instruction", "open"]
RULES = ("exact", "relaxed_number", "relaxed_all", "auto")

ID = ("id", "question_id", "key")
TEXT = ("question", "text", "prompt")
IMAGES = ("image", "images")
ANSWER = ("answer", "label", "answers")
KNOWN = (*ID, *TEXT, *IMAGES, *ANSWER, "options", "instruction_id_list", "kwargs", "rule", "style")
ALIKE = 0.8  # how near an unknown name must be to a known one to be a slip

CHOICE_FORM = "Answer with the option's letter from the given choices directly."  # MMMU's
ENDING = ".jsonl"
NAMED = 5  # lines that a problem names; the rest is counted


@dataclass(frozen=True, slots=True)
class Probe:
    """One question of a probe set.

    Attributes:
        style: how it is asked and scored.
        images: paths of its images, in their order.
        options: texts of the options, in order; of a choice only.
        answers: accepted answers: one letter, ``yes`` or ``no``, or texts; none of an instruction.
        rule: how open answers are compared.
        checks: what a reply to an instruction must pass.
    """

    key: str
    style: Style
    text: str
    images: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    rule: Rule = "exact"
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """The questions of one file.

    Attributes:
        name: the file's name without its ending; the probe's in results.
        probes: its questions, in order.
        fingerprint: SHA-256 (hex) over what is asked, what is right and the images' bytes, in order.
    """

    name: str
    probes: tuple[Probe, ...] = field(repr=False)
    fingerprint: str = ""

    def counts(self) -> dict[str, int]:
        """Questions by style."""
        styles = [probe.style for probe in self.probes]
        return {style: styles.count(style) for style in dict.fromkeys(styles)}


def read_probe_set(path: Path) -> ProbeSet:
    """The probe set of a file; image paths start at the file's folder and stay inside of it.

    Raises:
        UserError: everything that is wrong with the file and its images, with the numbers of the lines.
    """
    if path.suffix != ENDING:
        raise UserError(f"probe set {str(path)!r}: expected a file of JSON lines, NAME{ENDING}.")
    problems: dict[str, list[str]] = {}  # lines by what is wrong with them
    probes: list[Probe] = []
    first: dict[str, int] = {}
    digest = hashlib.sha256()
    for number, text in lines(path):
        row, faults = _read_row(text)
        if row is not None:
            earlier = first.setdefault(row.key, number)
            faults += [f"id {row.key!r} is that of line {earlier} too"] if earlier != number else []
            paths, contents = _read_images(path.parent.resolve(), row.images, faults)
            probes.append(replace(row, images=paths))
            checks = [[check.name, dict(check.arguments)] for check in row.checks]
            facts = [row.key, row.style, row.text, row.options, row.answers, row.rule, checks]
            digest.update(json.dumps([facts, contents], ensure_ascii=False).encode() + b"\n")
        for fault in faults:
            problems.setdefault(fault, []).append(str(number))
    if not probes and not problems:
        raise UserError(f"probe set {str(path)!r} is empty; expected a JSON object per line.")
    if problems:
        raise UserError(*(f"{path.name}, line {shown(where, NAMED)}: {fault}." for fault, where in problems.items()))
    return ProbeSet(path.name.removesuffix(ENDING), tuple(probes), digest.hexdigest())


def _read_images(folder: Path, names: tuple[str, ...], faults: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Paths of images and SHA-256 of their bytes; what is wrong with them goes to ``faults``."""
    paths: list[str] = []
    contents: list[str] = []
    for name in names:
        path = (folder / name).resolve()
        if Path(name).is_absolute() or not path.is_relative_to(folder):
            faults.append(f"image {name!r} leads out of the file's folder")
            continue
        try:
            data = FileSource(path).read()
            decode_image(data)
        except Damaged as fault:
            faults.append(f"image {name!r}: {fault}")
            continue
        paths.append(str(path))
        contents.append(hashlib.sha256(data).hexdigest())
    return tuple(paths), contents


def _read_row(text: str) -> tuple[Probe | None, list[str]]:
    """The question of a line, None where it cannot even be named, its images as named; and everything that is wrong."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, [f"no JSON ({getattr(error, 'msg', 'nested too deeply')})"]
    if not isinstance(values, dict):
        return None, [f"expected an object, found {type(values).__name__}"]
    faults: list[str] = []
    for name in values:
        near = get_close_matches(name, KNOWN, n=1, cutoff=ALIKE)
        if name not in KNOWN and near:
            faults.append(f"field {name!r}: did you mean {near[0]!r}?")
    given = _first(values, ID)
    key = str(given).strip() if isinstance(given, str | int) and not isinstance(given, bool) else ""
    if not key or not is_text(key):
        key = ""
        faults.append(f"no id: expected a text or a whole number in one of {', '.join(ID)}")
    asked = _first(values, TEXT)
    if not isinstance(asked, str) or not asked.strip() or not is_text(asked):
        faults.append(f"no question: expected text in one of {', '.join(TEXT)}")
        asked = ""
    images = _texts(_first(values, IMAGES), "image", faults)
    style = _style(values, faults)
    row = Probe(key, style, asked, images, **_right(style, values, faults))
    return (row if key else None), faults


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Value of the first of some fields that is there."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def _texts(value: Any, what: str, faults: list[str]) -> tuple[str, ...]:
    """A text or a list of texts; none where there is nothing."""
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one.strip() and "\0" not in one and is_text(one) for one in listed):
        faults.append(f"{what}: expected a text or a list of texts")
        return ()
    return tuple(one.strip() for one in listed)


def _style(values: Mapping[str, Any], faults: list[str]) -> Style:
    given = values.get("style")
    if given is not None:
        if given in get_args(Style):
            return given  # type: ignore[no-any-return]
        faults.append(unknown_name("style", str(given), get_args(Style)).rstrip("."))
    if values.get("options") is not None:
        return "choice"
    if values.get("instruction_id_list") is not None:
        return "instruction"
    answer = _first(values, ANSWER)
    yes_no = isinstance(answer, str) and answer.strip().lower() in ("yes", "no") and values.get("rule") is None
    return "yes_no" if yes_no else "open"


def _right(style: Style, values: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """What is right, as the fields of a row; numbers among the answers are taken as they are written."""
    if style == "instruction":
        checks, problems = read_checks(values.get("instruction_id_list"), values.get("kwargs"))
        faults += problems
        return {"checks": checks}
    given = _first(values, ANSWER)
    listed = given if isinstance(given, list) else [given]
    whole = [str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in listed]
    answers: tuple[str, ...] = ()
    if whole and all(isinstance(one, str) and one.strip() and is_text(one) for one in whole):
        answers = tuple(dict.fromkeys(one.strip() for one in whole))
    else:
        faults.append(f"no answer: expected a text, a number or a list of these in one of {', '.join(ANSWER)}")
    if style == "choice":
        options = _texts(values.get("options"), "options", faults)
        letters = [chr(ord("A") + place) for place in range(len(options))]
        if not 2 <= len(options) <= 26:
            faults.append("options: expected a list of 2 to 26 texts")
        right = option_letter(answers[0]) if len(answers) == 1 else None
        if answers and options and right not in letters:
            faults.append(f"answer: expected one letter from A to {letters[-1]}")
        return {"options": options, "answers": (right,) if right else answers}
    if style == "yes_no":
        if [answer.lower() for answer in answers] not in (["yes"], ["no"]):
            faults.append("answer: expected yes or no")
        return {"answers": tuple(answer.lower() for answer in answers)}
    rule = values.get("rule", "exact")
    if rule not in RULES:
        faults.append(unknown_name("rule", str(rule), RULES).rstrip("."))
        rule = "exact"
    return {"answers": answers, "rule": resolved_rule(rule, answers)}


def probe_request(probe: Probe) -> Request:
    """The question of a probe set in the set's own words, without the suite's form of a reply; images decoded.

    Raises:
        UserError: an image has changed since the set was read and cannot be decoded.
    """
    text = probe.text
    if probe.options:
        listed = [f"({chr(ord('A') + place)}) {option}" for place, option in enumerate(probe.options)]
        text = "\n".join([text, *listed, "", CHOICE_FORM])
    try:
        images = tuple(decode_image(FileSource(path).read()) for path in probe.images)
    except Damaged as fault:
        raise UserError(f"probe item {probe.key!r}: {', '.join(probe.images)}: {fault}") from fault
    return Request(probe.key, user_turn(text, images), images)
