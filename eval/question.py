"""Answers to questions of their own: exact match and relaxed numbers."""

from eval.judgement import Score
from task_streams.types import Question


def score_question(completion: str, question: Question, think: bool = True) -> Score:
    """Score one answer to a question."""
    raise NotImplementedError
