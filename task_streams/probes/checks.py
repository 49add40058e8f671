"""Checks of a reply's form by their names in IFEval (arXiv 2311.07911), and the arguments that each takes.

What passes is decided in ``eval/checks.py``. Deliberately absent: the language of a reply
(``language:response_language``) and the first word of a paragraph (``length_constraints:nth_paragraph_first_word``).
``startend:start_checker`` is an addition.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from task_streams.errors import shown, unknown_name

RELATIONS = ("less than", "at least")


@dataclass(frozen=True, slots=True)
class Check:
    """One check with its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


# Arguments by check: a kind each, ``text``, ``texts``, ``count``, ``relation`` or ``letter``.
CHECKS: dict[str, dict[str, str]] = {
    "keywords:existence": {"keywords": "texts"},
    "keywords:forbidden_words": {"forbidden_words": "texts"},
    "keywords:frequency": {"keyword": "text", "frequency": "count", "relation": "relation"},
    "keywords:letter_frequency": {"letter": "letter", "let_frequency": "count", "let_relation": "relation"},
    "length_constraints:number_words": {"num_words": "count", "relation": "relation"},
    "length_constraints:number_sentences": {"num_sentences": "count", "relation": "relation"},
    "length_constraints:number_paragraphs": {"num_paragraphs": "count"},
    "detectable_content:number_placeholders": {"num_placeholders": "count"},
    "detectable_content:postscript": {"postscript_marker": "text"},
    "detectable_format:json_format": {},
    "detectable_format:number_bullet_lists": {"num_bullets": "count"},
    "detectable_format:number_highlighted_sections": {"num_highlights": "count"},
    "detectable_format:multiple_sections": {"section_spliter": "text", "num_sections": "count"},
    "detectable_format:title": {},
    "detectable_format:constrained_response": {},
    "combination:two_responses": {},
    "combination:repeat_prompt": {"prompt_to_repeat": "text"},
    "startend:start_checker": {"start_phrase": "text"},
    "startend:end_checker": {"end_phrase": "text"},
    "startend:quotation": {},
    "change_case:capital_word_frequency": {"capital_frequency": "count", "capital_relation": "relation"},
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
    "punctuation:no_comma": {},
}
WORDS = {
    "text": "a text",
    "texts": "a list of texts",
    "count": "a whole number from 0",
    "relation": " or ".join(RELATIONS),
    "letter": "one character",
}


def read_checks(names: Any, arguments: Any) -> tuple[tuple[Check, ...], list[str]]:
    """The checks of a row, and what is wrong with them.

    Args:
        names: ``instruction_id_list`` as it stands there.
        arguments: ``kwargs``: a mapping for each name; None where no check takes any.
    """
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return (), ["instruction_id_list: expected a list of names of checks"]
    given = [{}] * len(names) if arguments is None else arguments
    if not isinstance(given, list) or len(given) != len(names) or not all(isinstance(one, dict) for one in given):
        return (), ["kwargs: expected a list with an object for each check"]
    problems: list[str] = []
    checks = []
    for name, values in zip(names, given, strict=True):
        present = {key: value for key, value in values.items() if value is not None}  # published rows name all, as null
        checks.append(Check(name, present))
        if name not in CHECKS:
            problems.append(unknown_name("check", name, CHECKS).rstrip("."))
            continue
        expected = CHECKS[name]
        problems += [
            f"{name}: {unknown_name('argument', key, expected)[:-1]}" for key in present if key not in expected
        ]
        wrong = [f"{key} {WORDS[kind]}" for key, kind in expected.items() if not _fits(present.get(key), kind)]
        problems += [f"{name}: expected {shown(wrong)}"] if wrong else []
    return tuple(checks), problems


def _fits(value: Any, kind: str) -> bool:
    if kind == "count":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if kind == "texts":
        return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one.strip() for one in value)
    if kind == "relation":
        return value in RELATIONS
    if kind == "letter":
        return isinstance(value, str) and len(value) == 1
    return isinstance(value, str) and bool(value.strip())
