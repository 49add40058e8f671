"""A run's answers, read back: the predictions that were made after each stage."""

from collections.abc import Iterator
from pathlib import Path

from clrft.config.records import Answer, read_rows
from eval.evaluate import Prediction
from task_streams.errors import UserError


def predictions_file(folder: Path, stage: int) -> Path:
    """File of a stage's predictions in a run's folder."""
    return folder / f"task_{stage:02d}" / "predictions.jsonl"


def read_predictions(folder: Path, stage: int) -> Iterator[Prediction]:
    """Predictions made after a stage of the run in a folder, read as they are asked for.

    Raises:
        UserError: the file is missing or damaged, or holds an answer made after another stage.
    """
    path = predictions_file(folder, stage)
    for row in read_rows(path, Answer):
        prediction = Prediction.from_json(row)
        if prediction.stage != stage:
            made = f"{path} holds an answer made after task {prediction.stage}"
            raise UserError(f"{made}; expected those after task {stage}.")
        yield prediction
