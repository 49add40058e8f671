"""Completion and label to score: the one piece that both the reward and the evaluator call.

Source of the rule: RaPO (arXiv 2605.09640): task reward of classification = correct + format, each 1 or 0.
Deliberately absent: partial credit for near misses, and scores for detection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from eval.parse import parse_completion
from task_streams.labels import normalise_label

Failure = Literal["none", "format", "outside_list", "same_task", "newest_task", "other_task"]
FAILURES: tuple[Failure, ...] = get_args(Failure)


@dataclass(frozen=True, slots=True)
class Score:
    """Judgement of one completion.

    Attributes:
        correct: the answer is the label, after normalising both.
        format_ok: the completion has the form that the prompt asked for.
        answer: text of the answer as written; None when none could be parsed.
        choice: the listed class that the answer names; None when it names no listed class.
    """

    correct: bool
    format_ok: bool
    answer: str | None
    choice: str | None

    @property
    def reward(self) -> float:
        """Task reward: correct (1 or 0) plus format (1 or 0); 0 for an answer that cannot be parsed."""
        return float(self.correct) + float(self.format_ok)


def score_classification(completion: str, label: str, seen: Sequence[str], think: bool = True) -> Score:
    """Score one completion against its label; ``seen`` are the classes that the prompt listed."""
    parsed = parse_completion(completion, think)
    if parsed.answer is None:
        return Score(False, parsed.format_ok, None, None)
    given = normalise_label(parsed.answer)
    choice = next((name for name in seen if normalise_label(name) == given), None)
    return Score(given == normalise_label(label), parsed.format_ok, parsed.answer, choice)


def failure_kind(score: Score, label: str, task_of: Mapping[str, int], stage: int) -> Failure:
    """Why a prediction is wrong, ``none`` when it is right.

    Args:
        score: judgement of the prediction.
        label: the right class.
        task_of: index (from 1) of the task that teaches each class.
        stage: task after which was evaluated; its classes are the newest.

    Raises:
        KeyError: ``label`` or the chosen class is not in ``task_of``.
    """
    if score.correct:
        return "none"
    if score.answer is None:
        return "format"
    if score.choice is None:
        return "outside_list"
    if task_of[score.choice] == task_of[label]:
        return "same_task"
    return "newest_task" if task_of[score.choice] == stage else "other_task"
