"""A line of a probe set to what is asked and what is right; field names are those of the published sets.

The style is told by the row's fields (or by ``style``): options make a choice, ``instruction_id_list`` an instruction,
the answer yes or no, without a ``rule``, a yes-no question; anything else is open. Fields that are not known are
passed over, as published rows have more of them, unless one is nearly the name of a known field.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

from task_streams.answers import option_letter, resolved_rule
from task_streams.errors import unknown_name
from task_streams.probes.checks import Check, read_checks
from task_streams.sources.layout import is_text
from task_streams.types import Rule

Style = Literal["choice", "yes_no", "instruction", "open"]
RULES = ("exact", "relaxed_number", "auto")

ID = ("id", "question_id", "key")
TEXT = ("question", "text", "prompt")
IMAGES = ("image", "images")
ANSWER = ("answer", "label", "answers")
OTHERS = ("options", "instruction_id_list", "kwargs", "rule", "style")
KNOWN = (*ID, *TEXT, *IMAGES, *ANSWER, *OTHERS)
ALIKE = 0.8  # how near an unknown name must be to a known one to be a slip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a probe set, understood.

    Attributes:
        key: its id, as text.
        style: how it is asked and scored.
        text: the question or instruction as it stands there.
        images: paths as they stand there.
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

    def facts(self) -> list[Any]:
        """All of it but the images' paths as plain values, for fingerprints."""
        checks = [[check.name, dict(check.arguments)] for check in self.checks]
        return [self.key, self.style, self.text, list(self.options), list(self.answers), self.rule, checks]


class _Faults:
    """What is wrong with a row, collected."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, text: str) -> None:
        self.found.append(text)


def read_row(text: str) -> tuple[Row | None, list[str]]:
    """The row of a line, None where it cannot even be named, and everything that is wrong with it."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, [f"no JSON ({getattr(error, 'msg', 'nested too deeply')})"]
    if not isinstance(values, dict):
        return None, [f"expected an object, found {type(values).__name__}"]
    fault = _Faults()
    for name in values:
        near = get_close_matches(name, KNOWN, n=1, cutoff=ALIKE)
        if name not in KNOWN and near:
            fault(f"field {name!r}: did you mean {near[0]!r}?")
    key = _identity(_first(values, ID))
    if key is None:
        fault(f"no id: expected a text or a whole number in one of {', '.join(ID)}")
    asked = _first(values, TEXT)
    if not isinstance(asked, str) or not asked.strip() or not is_text(asked):
        fault(f"no question: expected text in one of {', '.join(TEXT)}")
        asked = ""
    images = _texts(_first(values, IMAGES), "image", fault)
    style = _style(values, fault)
    row = Row(key or "", style, asked, images, **_right(style, values, fault))
    return (row if key is not None else None), fault.found


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Value of the first of some fields that is there."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def _identity(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value).strip()
    return text if text and is_text(text) else None


def _texts(value: Any, what: str, fault: _Faults) -> tuple[str, ...]:
    """A text or a list of texts; none where there is nothing."""
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one.strip() and "\0" not in one and is_text(one) for one in listed):
        fault(f"{what}: expected a text or a list of texts")
        return ()
    return tuple(one.strip() for one in listed)


def _style(values: Mapping[str, Any], fault: _Faults) -> Style:
    given = values.get("style")
    if given is not None:
        if given in get_args(Style):
            return given  # type: ignore[no-any-return]
        fault(unknown_name("style", str(given), get_args(Style)).rstrip("."))
    if values.get("options") is not None:
        return "choice"
    if values.get("instruction_id_list") is not None:
        return "instruction"
    answer = _first(values, ANSWER)
    yes_no = isinstance(answer, str) and answer.strip().lower() in ("yes", "no") and values.get("rule") is None
    return "yes_no" if yes_no else "open"


def _right(style: Style, values: Mapping[str, Any], fault: _Faults) -> dict[str, Any]:
    """What is right, as the fields of a row."""
    if style == "instruction":
        checks, problems = read_checks(values.get("instruction_id_list"), values.get("kwargs"))
        for problem in problems:
            fault(problem)
        return {"checks": checks}
    answers = _answers(_first(values, ANSWER), fault)
    if style == "choice":
        return _choice(values, answers, fault)
    if style == "yes_no":
        if [answer.lower() for answer in answers] not in (["yes"], ["no"]):
            fault("answer: expected yes or no")
        return {"answers": tuple(answer.lower() for answer in answers)}
    rule = values.get("rule", "exact")
    if rule not in RULES:
        fault(unknown_name("rule", str(rule), RULES).rstrip("."))
        rule = "exact"
    return {"answers": answers, "rule": resolved_rule(rule, answers)}


def _answers(value: Any, fault: _Faults) -> tuple[str, ...]:
    """Accepted answers as texts; numbers are taken as they are written."""
    listed = value if isinstance(value, list) else [value]
    whole = [str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in listed]
    if value is None or not whole or not all(isinstance(one, str) and one.strip() and is_text(one) for one in whole):
        fault(f"no answer: expected a text, a number or a list of these in one of {', '.join(ANSWER)}")
        return ()
    return tuple(dict.fromkeys(one.strip() for one in whole))


def _choice(values: Mapping[str, Any], answers: tuple[str, ...], fault: _Faults) -> dict[str, Any]:
    options = _texts(values.get("options"), "options", fault)
    letters = [chr(ord("A") + place) for place in range(len(options))]
    if not 2 <= len(options) <= 26:
        fault("options: expected a list of 2 to 26 texts")
    right = option_letter(answers[0]) if len(answers) == 1 else None
    if answers and options and right not in letters:
        fault(f"answer: expected one letter from A to {letters[-1]}")
    return {"options": options, "answers": (right,) if right else answers}
