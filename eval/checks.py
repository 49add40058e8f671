r"""Whether a reply has the form that an instruction asks for: IFEval's checks (arXiv 2311.07911), by their names.

Words are runs of ``\w``; a sentence ends with ``.``, ``!`` or ``?`` before white space or the end. IFEval finds both
with NLTK, whose counts differ where abbreviations or contractions stand. Keywords are texts here, no patterns.
"""

import json
import operator
import re
from collections.abc import Callable

from task_streams.probes.checks import Check

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_STAR_BULLET = re.compile(r"^\s*\*[^\*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^\s*-.*$", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*([^\n\*]+)\*\*|\*([^\n\*]+)\*")
_FENCE = re.compile(r"^```(?:json|Json|JSON)?\s*|\s*```$")
_TITLE = re.compile(r"<<([^\n]+)>>")
_COMPARED = {"less than": operator.lt, "at least": operator.ge}
FIXED_REPLIES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def failed_checks(reply: str, checks: tuple[Check, ...]) -> tuple[str, ...]:
    """Names of the checks that a reply does not pass; an empty reply passes none."""
    return tuple(one.name for one in checks if not reply.strip() or not TESTS[one.name](reply, **one.arguments))


def _parts(reply: str, separator: str) -> list[str] | None:
    """What stands between separators; None where a part inside is empty, which it may be at either end."""
    parts = [part.strip() for part in re.split(separator, reply)]
    return [part for part in parts if part] if all(parts[1:-1]) else None


def _is_json(reply: str) -> bool:
    """The whole reply is JSON; a Markdown fence around it is taken off."""
    try:
        json.loads(_FENCE.sub("", reply.strip()))
    except (ValueError, RecursionError):
        return False
    return True


TESTS: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda reply, keywords: all(
        re.search(re.escape(word), reply, re.IGNORECASE) for word in keywords
    ),
    "keywords:forbidden_words": lambda reply, forbidden_words: (
        not any(re.search(rf"\b{re.escape(word)}\b", reply, re.IGNORECASE) for word in forbidden_words)
    ),
    "keywords:frequency": lambda reply, keyword, frequency, relation: _COMPARED[relation](
        len(re.findall(re.escape(keyword), reply, re.IGNORECASE)), frequency
    ),
    "keywords:letter_frequency": lambda reply, letter, let_frequency, let_relation: _COMPARED[let_relation](
        reply.lower().count(letter.lower()), let_frequency
    ),
    "length_constraints:number_words": lambda reply, num_words, relation: _COMPARED[relation](
        len(_WORD.findall(reply)), num_words
    ),
    "length_constraints:number_sentences": lambda reply, num_sentences, relation: _COMPARED[relation](
        sum(bool(part.strip()) for part in _SENTENCE_END.split(reply)), num_sentences
    ),
    "length_constraints:number_paragraphs": lambda reply, num_paragraphs: (
        (parts := _parts(reply, r"\s?\*\*\*\s?")) is not None and len(parts) == num_paragraphs
    ),
    "detectable_content:number_placeholders": lambda reply, num_placeholders: (
        len(re.findall(r"\[.*?\]", reply)) >= num_placeholders
    ),
    "detectable_content:postscript": lambda reply, postscript_marker: any(
        line.strip().lower().startswith(postscript_marker.strip().lower()) for line in reply.splitlines()
    ),
    "detectable_format:json_format": _is_json,
    "detectable_format:number_bullet_lists": lambda reply, num_bullets: (
        len(_STAR_BULLET.findall(reply)) + len(_DASH_BULLET.findall(reply)) == num_bullets
    ),
    "detectable_format:number_highlighted_sections": lambda reply, num_highlights: (
        sum(bool((bold or plain).strip()) for bold, plain in _HIGHLIGHT.findall(reply)) >= num_highlights
    ),
    "detectable_format:multiple_sections": lambda reply, section_spliter, num_sections: (
        len(re.split(rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?", reply)) - 1 >= num_sections
    ),
    "detectable_format:title": lambda reply: any(text.strip("<> ") for text in _TITLE.findall(reply)),
    "detectable_format:constrained_response": lambda reply: any(text in reply for text in FIXED_REPLIES),
    "combination:two_responses": lambda reply: (
        len(parts := _parts(reply, r"\*{6}") or []) == 2 and parts[0] != parts[1]  # with ``******`` between them
    ),
    "combination:repeat_prompt": lambda reply, prompt_to_repeat: (
        reply.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:start_checker": lambda reply, start_phrase: (
        reply.strip().strip('"').lower().startswith(start_phrase.strip().lower())
    ),
    "startend:end_checker": lambda reply, end_phrase: (
        reply.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": lambda reply: len(text := reply.strip()) > 1 and text[0] == text[-1] == '"',
    "change_case:capital_word_frequency": lambda reply, capital_frequency, capital_relation: _COMPARED[
        capital_relation
    ](sum(word.isupper() for word in _WORD.findall(reply)), capital_frequency),
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "punctuation:no_comma": lambda reply: "," not in reply,
}
