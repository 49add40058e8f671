"""Completion to answer: the reply format ``<think>…</think><answer>…</answer>`` of RaPO (arXiv 2605.09640).

Deliberately absent: repair. A missing tag is not guessed, case or spelling of a tag is not mended, and of two answer
blocks none is chosen.
"""

import re
from dataclasses import dataclass

from task_streams.prompt_style import SUITE, PromptStyle

THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THINK_THEN_ANSWER = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)
_ANSWER_ONLY = re.compile(r"\s*<answer>.*</answer>\s*", re.DOTALL)
TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True, slots=True)
class Parsed:
    """Parts of a completion."""

    # text inside the answer block, outer white space removed; None where there is none, or more than one
    answer: str | None
    thought: str | None  # text inside the first think block, likewise; None without such a block
    format_ok: bool  # the whole completion has the form that the prompt asked for


def parse_completion(text: str, style: PromptStyle = SUITE) -> Parsed:
    """Answer, thought and well-formedness of a completion.

    Well-formed means: exactly one think block, then exactly one answer block, nothing but white space
    around them, and a thought that is one (``PromptStyle.is_thought``).
    Where the style asks for no thought: exactly one answer block.
    """
    answers, thoughts = ([found.strip() for found in block.findall(text)] for block in (ANSWER, THOUGHT))
    form, tags = (_THINK_THEN_ANSWER, 4) if style.think else (_ANSWER_ONLY, 2)
    format_ok = bool(form.fullmatch(text)) and len(TAG.findall(text)) == tags and all(map(style.is_thought, thoughts))
    return Parsed(answers[0] if len(answers) == 1 else None, thoughts[0] if thoughts else None, format_ok)
