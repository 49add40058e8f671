"""Box AP by pycocotools (COCO: mean over IoU 0.50 to 0.95 and over categories)."""

from collections.abc import Sequence

from eval.evaluate import Prediction


def average_precision(predictions: Sequence[Prediction], categories: Sequence[str]) -> float:
    """AP, 0 to 1, of the boxes in predictions of one task at one stage."""
    raise NotImplementedError
