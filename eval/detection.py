"""Boxes: parsed answers, Hungarian-matched rewards, average precision."""

from collections.abc import Sequence

from eval.judgement import Score
from task_streams.types import Box


def score_detection(completion: str, boxes: Sequence[Box], labels: Sequence[str], think: bool = True) -> Score:
    """Score the boxes of one completion; ``labels`` are the categories that the prompt listed."""
    raise NotImplementedError
