"""Texts as people read them: the form in which names are shown, and that in which a name and an answer are compared.

The rule is RaPO's (arXiv 2605.09640): lower-cased, with ``_``, ``-`` and ``.`` read as spaces. Before it, letters that
Unicode can write in several ways are written in one: an accent within its letter or behind it, wide and narrow forms.
"""

import unicodedata
from collections.abc import Iterable

_SEPARATORS = str.maketrans("_-.", "   ")


def shown_form(text: str) -> str:
    """The text as prompts show it: accents within their letters (NFC), as models are used to them."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def compared_form(text: str) -> str:
    """The text without what people do not see or mean: forms of one letter (NFKC), and its case."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def normalise_label(label: str) -> str:
    """Form in which a label and an answer are compared; runs of spaces count as one."""
    return " ".join(compared_form(label).translate(_SEPARATORS).split())


def label_problems(labels: Iterable[str]) -> list[str]:
    """Sentences about labels that no answer could tell apart, or that are empty after normalisation."""
    groups: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(normalise_label(label), []).append(label)
    empty = groups.pop("", [])
    problems = [f"class name {label!r} has no letters or digits left to answer with" for label in empty]
    for form, names in groups.items():
        if len(names) > 1:
            listed = ", ".join(repr(name) for name in names)
            problems.append(f"classes {listed} all read {form!r} in an answer; rename all but one of them")
    return problems
