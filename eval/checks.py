r"""Whether a reply has the form that an instruction asks for: IFEval's checks (arXiv 2311.07911), by their names.

Words are runs of ``\w``; a sentence ends with ``.``, ``!`` or ``?`` before white space or the end. IFEval finds both
with NLTK, whose counts differ where abbreviations or contractions stand. Keywords are texts here, no patterns.
"""

import json
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
FIXED_REPLIES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

Test = Callable[..., bool]


def failed_checks(reply: str, checks: tuple[Check, ...]) -> tuple[str, ...]:
    """Names of the checks that a reply does not pass; an empty reply passes none."""
    return tuple(one.name for one in checks if not reply.strip() or not TESTS[one.name](reply, **one.arguments))


def compared(count: int, limit: int, relation: str) -> bool:
    """Whether a count is ``less than`` or ``at least`` a limit."""
    return count < limit if relation == "less than" else count >= limit


def _occurrences(reply: str, text: str) -> int:
    """How often a text occurs, whatever its case."""
    return len(re.findall(re.escape(text), reply, re.IGNORECASE))


def _keywords_exist(reply: str, keywords: list[str]) -> bool:
    return all(_occurrences(reply, keyword) for keyword in keywords)


def _words_forbidden(reply: str, forbidden_words: list[str]) -> bool:
    found = (re.search(rf"\b{re.escape(word)}\b", reply, re.IGNORECASE) for word in forbidden_words)
    return not any(found)


def _keyword_frequency(reply: str, keyword: str, frequency: int, relation: str) -> bool:
    return compared(_occurrences(reply, keyword), frequency, relation)


def _letter_frequency(reply: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compared(reply.lower().count(letter.lower()), let_frequency, let_relation)


def _number_words(reply: str, num_words: int, relation: str) -> bool:
    return compared(len(_WORD.findall(reply)), num_words, relation)


def _number_sentences(reply: str, num_sentences: int, relation: str) -> bool:
    parts = [part for part in _SENTENCE_END.split(reply) if part.strip()]
    return compared(len(parts), num_sentences, relation)


def _number_paragraphs(reply: str, num_paragraphs: int) -> bool:
    """Paragraphs are parted by ``***``; an empty one inside is a fault, one at either end is none."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", reply)]
    inner = parts[1:-1]
    return all(inner) and len([part for part in parts if part]) == num_paragraphs


def _number_placeholders(reply: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", reply)) >= num_placeholders


def _postscript(reply: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip().lower()
    return any(line.strip().lower().startswith(marker) for line in reply.splitlines())


def _json_format(reply: str) -> bool:
    """The whole reply is JSON; a Markdown fence around it is taken off."""
    try:
        json.loads(_FENCE.sub("", reply.strip()))
    except (ValueError, RecursionError):
        return False
    return True


def _number_bullets(reply: str, num_bullets: int) -> bool:
    return len(_STAR_BULLET.findall(reply)) + len(_DASH_BULLET.findall(reply)) == num_bullets


def _number_highlights(reply: str, num_highlights: int) -> bool:
    found = [bold or plain for bold, plain in _HIGHLIGHT.findall(reply)]
    return len([text for text in found if text.strip()]) >= num_highlights


def _multiple_sections(reply: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.split(rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?", reply)) - 1 >= num_sections


def _title(reply: str) -> bool:
    return any(text.strip("<> ") for text in _TITLE.findall(reply))


def _constrained(reply: str) -> bool:
    return any(text in reply for text in FIXED_REPLIES)


def _two_responses(reply: str) -> bool:
    """Two different replies with ``******`` between them."""
    parts = [part.strip() for part in reply.split("******")]
    whole = [part for part in parts if part]
    return all(parts[1:-1]) and len(whole) == 2 and whole[0] != whole[1]


def _repeats_prompt(reply: str, prompt_to_repeat: str) -> bool:
    return reply.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _starts(reply: str, start_phrase: str) -> bool:
    return reply.strip().strip('"').lower().startswith(start_phrase.strip().lower())


def _ends(reply: str, end_phrase: str) -> bool:
    return reply.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(reply: str) -> bool:
    text = reply.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _capital_words(reply: str, capital_frequency: int, capital_relation: str) -> bool:
    return compared(sum(word.isupper() for word in _WORD.findall(reply)), capital_frequency, capital_relation)


def _all_capital(reply: str) -> bool:
    return reply.isupper()


def _all_lowercase(reply: str) -> bool:
    return reply.islower()


def _no_comma(reply: str) -> bool:
    return "," not in reply


TESTS: dict[str, Test] = {
    "keywords:existence": _keywords_exist,
    "keywords:forbidden_words": _words_forbidden,
    "keywords:frequency": _keyword_frequency,
    "keywords:letter_frequency": _letter_frequency,
    "length_constraints:number_words": _number_words,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:json_format": _json_format,
    "detectable_format:number_bullet_lists": _number_bullets,
    "detectable_format:number_highlighted_sections": _number_highlights,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:title": _title,
    "detectable_format:constrained_response": _constrained,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats_prompt,
    "startend:start_checker": _starts,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _all_capital,
    "change_case:english_lowercase": _all_lowercase,
    "punctuation:no_comma": _no_comma,
}
