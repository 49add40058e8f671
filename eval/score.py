"""Completion and target to score: the one piece that both the reward and the evaluator call.

Source of the rule: RaPO (arXiv 2605.09640): task reward of classification = correct + format, each 1 or 0.
Questions: an option's letter where the truth is one, else equal numbers, else equal text (``task_streams.answers``);
with the rule ``relaxed_number`` ChartQA's relaxed accuracy (arXiv 2203.10244): a number may be 5 % of the truth off.
Boxes: ``detection.py``. Deliberately absent: partial credit for near misses of a class, and CoIN's acceptance of an
answer that contains the truth or lies in it.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from eval.detection import score_detection
from eval.judgement import Failure, Score
from eval.parse import parse_completion
from task_streams.answers import normalise_answer, option_letter, parse_number, parse_quantity
from task_streams.labels import normalise_label
from task_streams.prompt_style import SUITE, PromptStyle
from task_streams.types import Question, Rule, Target

TOLERANCE = Decimal("0.05")  # of the truth
QUOTES = ('""', "''", "“”", "‘’", "«»", "„“", "「」")  # pairs around a name


def score(completion: str, target: Target, labels: Sequence[str], style: PromptStyle = SUITE) -> Score:
    """Score one completion against its target; ``labels`` are the classes that the prompt listed.

    A class is right when it is named, a question when the answer matches any accepted one.
    """
    if isinstance(target, tuple):
        return score_detection(completion, target, labels, style)
    parsed = parse_completion(completion, style)
    form = float(parsed.format_ok)
    if parsed.answer is None:
        return Score(False, {"accuracy": 0.0, "format": form})
    if isinstance(target, Question):
        correct = any(matches(parsed.answer, truth, target.rule) for truth in target.answers)
        return Score(correct, {"accuracy": float(correct), "format": form}, parsed.answer)
    by_form = {normalise_label(name): name for name in reversed(labels)}
    texts = unquoted(parsed.answer)
    answer = next((text for text in texts if normalise_label(text) in by_form), parsed.answer)
    given = normalise_label(answer)
    choice, correct = by_form.get(given), given == normalise_label(target)
    components = {"accuracy": float(correct), "format": form}
    return Score(correct, components, answer, choice, outside=choice is None)


def unquoted(answer: str) -> tuple[str, ...]:
    """An answer as it stands, and without the quotes around it, in which prompts may list names."""
    if len(answer) < 2 or answer[0] + answer[-1] not in QUOTES:
        return (answer,)
    return answer, answer[1:-1].replace('\\"', '"')


def matches(answer: str, truth: str, rule: Rule) -> bool:
    """Whether an answer counts as an accepted one: the same option, number or text, or a number near enough."""
    if rule == "relaxed_number":
        given, right = parse_quantity(answer), parse_quantity(truth)
        if given is not None and right is not None:
            return abs(given - right) <= TOLERANCE * abs(right)  # truth 0: equality
    if (letter := option_letter(truth)) is not None:
        return option_letter(answer, with_text=True) == letter
    given, right = parse_number(answer), parse_number(truth)
    if given is not None and right is not None:
        return given == right
    return normalise_answer(answer) == normalise_answer(truth)


def failure_kind(score: Score, target: Target, task_of: Mapping[str, int], stage: int) -> Failure:
    """Why a prediction is wrong, ``none`` when it is right.

    Args:
        score: judgement of the prediction.
        target: what is right.
        task_of: index (from 1) of the task that teaches each class; ``KeyError`` for a class that is not in it.
        stage: task after which was evaluated; its classes are the newest.
    """
    if score.correct:
        return "none"
    if score.answer is None:
        return "format"
    if score.outside:
        return "outside_list"
    if not isinstance(target, str) or score.choice is None:
        return "wrong"
    if task_of[score.choice] == task_of[target]:
        return "same_task"
    return "newest_task" if task_of[score.choice] == stage else "other_task"
