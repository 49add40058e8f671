"""Answers to questions: the form in which two of them are compared, and the numbers that they are.

As labels are compared, but for what is part of a number: its sign, its decimal point, percent. "-10%" is not "10%".
Deliberately absent: articles, number words and synonyms. "the cat" is not "cat", and "two" is not "2".
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal

from task_streams.labels import compared_form
from task_streams.types import Rule

FINAL_PUNCTUATION = ".,;:!?。、"

_NUMBER = re.compile(r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_MINUS = str.maketrans("−–", "--")
# Between words: underscores, hyphens that are no sign of what follows, points that are none of a number's.
_BETWEEN_WORDS = re.compile(r"_|(?<=[\w.])-|-(?=\s|$)|(?<=[^\W\d])\.|\.(?!\d)")
_BEFORE_PERCENT = re.compile(r"\s+(?=%)")
_OPTION = re.compile(r"\(?([A-Za-z])[.):]?\)?\.?")
_OPTION_WITH_TEXT = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[.):])\s+\S.*", re.DOTALL)


def normalise_answer(text: str) -> str:
    """Form in which answers are compared: that of labels, but numbers stay; without final punctuation.

    What has nothing left then, such as ``?`` or ``-``, is compared as it stands.
    """
    bare = compared_form(text).strip().translate(_MINUS)
    words = _BETWEEN_WORDS.sub(" ", bare.rstrip(FINAL_PUNCTUATION + " "))
    return " ".join(_BEFORE_PERCENT.sub("", words).split()) or bare


def parse_number(text: str) -> Decimal | None:
    """The finite number that a text is, None when it is none: no units, no words, no ``nan`` and no ``inf``.

    Commas between groups of three digits are read over; a full stop at the end is punctuation.
    """
    bare = compared_form(text).strip().translate(_MINUS)
    if not _NUMBER.fullmatch(bare) or not math.isfinite(float(plain := bare.replace(",", ""))):
        return None
    return Decimal(plain)


def parse_quantity(text: str) -> Decimal | None:
    """The number that a text is, percentages as fractions: ``5 %`` is 0.05."""
    bare = compared_form(text).strip().removesuffix(".")
    if not bare.endswith("%"):
        return parse_number(bare)
    number = parse_number(bare[:-1])
    return None if number is None else number / 100


def option_letter(text: str, with_text: bool = False) -> str | None:
    """Letter of a choice, in upper case: of ``B``, ``b``, ``B.``, ``B)``, ``(B)`` or ``B:``; None for other texts.

    Args:
        text: an answer.
        with_text: also of ``B. two cats`` and ``(B) two cats``, where the choice's text follows its letter.
    """
    bare = compared_form(text).strip()
    if alone := _OPTION.fullmatch(bare):
        return alone[1].upper()
    followed = _OPTION_WITH_TEXT.fullmatch(bare) if with_text else None
    return (followed[1] or followed[2]).upper() if followed else None


def is_whole(text: str) -> bool:
    """Whether a text is a number without a fraction, such as a year or a count; ``3.0`` and ``5%`` are measures."""
    number = parse_number(text)
    return number is not None and int(number.as_tuple().exponent) >= 0


def resolved_rule(rule: str, answers: Sequence[str]) -> Rule:
    """The rule of one question.

    ``relaxed_all``: 5 % off is right, as the published accuracy has it. ``relaxed_number``: but whole numbers, which
    may be years or counts, are exact. ``auto``: that where every accepted answer is a number, else exact.
    """
    if rule == "relaxed_all":
        return "relaxed_number"
    numbers = rule == "relaxed_number" or (
        rule == "auto" and all(parse_quantity(answer) is not None for answer in answers)
    )
    return "relaxed_number" if numbers and not any(map(is_whole, answers)) else "exact"
