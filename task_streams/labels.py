"""Class names as a prompt lists them and an answer repeats them: how two of them are told apart.

The rule is RaPO's (arXiv 2605.09640): lower-cased, with ``_``, ``-`` and ``.`` read as spaces.
"""

from collections.abc import Iterable

_SEPARATORS = str.maketrans("_-.", "   ")


def normalise_label(label: str) -> str:
    """Form in which a label and an answer are compared; runs of spaces count as one."""
    return " ".join(label.lower().translate(_SEPARATORS).split())


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
