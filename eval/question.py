"""Answers to questions of their own: exact match and relaxed numbers.

Exact: an option's letter where the truth is one, else equal numbers, else equal text (``task_streams.answers``).
Relaxed: ChartQA's relaxed accuracy (arXiv 2203.10244): a number may be 5 % of the truth off.
Deliberately absent: partial credit, and CoIN's acceptance of an answer that contains the truth or lies in it.
"""

from decimal import Decimal

from eval.judgement import Score
from eval.parse import parse_completion
from task_streams.answers import normalise_answer, option_letter, parse_number, parse_quantity
from task_streams.prompt_style import SUITE, PromptStyle
from task_streams.types import Question, Rule

TOLERANCE = Decimal("0.05")  # of the truth


def score_question(completion: str, question: Question, style: PromptStyle = SUITE) -> Score:
    """Score one answer to a question: right when it matches any accepted answer."""
    parsed = parse_completion(completion, style)
    if parsed.answer is None:
        return Score(False, {"accuracy": 0.0, "format": float(parsed.format_ok)})
    correct = any(matches(parsed.answer, truth, question.rule) for truth in question.answers)
    return Score(correct, {"accuracy": float(correct), "format": float(parsed.format_ok)}, parsed.answer)


def matches(answer: str, truth: str, rule: Rule) -> bool:
    """Whether an answer counts as an accepted one."""
    if rule == "relaxed_number":
        given, right = parse_quantity(answer), parse_quantity(truth)
        if given is not None and right is not None:
            return abs(given - right) <= TOLERANCE * abs(right)  # truth 0: equality
    return matches_exactly(answer, truth)


def matches_exactly(answer: str, truth: str) -> bool:
    """Whether two answers are the same option, number or text."""
    if (letter := option_letter(truth)) is not None:
        return option_letter(answer, with_text=True) == letter
    given, right = parse_number(answer), parse_number(truth)
    if given is not None and right is not None:
        return given == right
    return normalise_answer(answer) == normalise_answer(truth)
