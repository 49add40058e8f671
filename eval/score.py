"""Completion and target to score: the one piece that both the reward and the evaluator call.

Source of the rule: RaPO (arXiv 2605.09640): task reward of classification = correct + format, each 1 or 0.
Detection and questions have their own files; deliberately absent: partial credit for near misses of a class.
"""

from collections.abc import Mapping, Sequence

from eval.detection import score_detection
from eval.judgement import Failure, Score
from eval.parse import parse_completion
from eval.question import score_question
from task_streams.labels import normalise_label
from task_streams.prompt_style import SUITE, PromptStyle
from task_streams.types import Target


def score(completion: str, target: Target, labels: Sequence[str], style: PromptStyle = SUITE) -> Score:
    """Score one completion against its target; ``labels`` are the classes that the prompt listed."""
    if isinstance(target, str):
        return score_classification(completion, target, labels, style)
    if isinstance(target, tuple):
        return score_detection(completion, target, labels, style)
    return score_question(completion, target, style)


def score_classification(completion: str, label: str, seen: Sequence[str], style: PromptStyle = SUITE) -> Score:
    """Score one completion against its class; ``seen`` are the classes that the prompt listed."""
    parsed = parse_completion(completion, style)
    if parsed.answer is None:
        return Score(False, {"accuracy": 0.0, "format": float(parsed.format_ok)})
    given = normalise_label(parsed.answer)
    choice = next((name for name in seen if normalise_label(name) == given), None)
    correct = given == normalise_label(label)
    components = {"accuracy": float(correct), "format": float(parsed.format_ok)}
    return Score(correct, components, parsed.answer, choice, outside=choice is None)


def failure_kind(score: Score, target: Target, task_of: Mapping[str, int], stage: int) -> Failure:
    """Why a prediction is wrong, ``none`` when it is right.

    Args:
        score: judgement of the prediction.
        target: what is right.
        task_of: index (from 1) of the task that teaches each class.
        stage: task after which was evaluated; its classes are the newest.

    Raises:
        KeyError: the right or the chosen class is not in ``task_of``.
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
