"""Rows of figures: what a training writes is read the fast way, and to the same values as the careful one."""

from pathlib import Path

from clrft.config.records import STEP, _numbers, read_rows, read_steps
from clrft.runner.checkpoint import write_rows
from methods.training.fit import step_row


def test_rows_that_a_training_writes_are_read_the_fast_way(tmp_path: Path) -> None:
    rows = [step_row(step, {"loss": 0.5, "rewards/accuracy/mean": 1.0, "kl": -1e-9}) for step in (1, 2, 3)]
    path = tmp_path / "steps.jsonl"
    write_rows(path, rows)
    assert _numbers(path) == rows == read_steps(path) == list(read_rows(path, STEP))


def test_a_row_that_needs_a_closer_look_is_not_read_the_fast_way(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    for step in ("-1.0", "1.5", "true", '"1"', "null"):
        path.write_text(f'{{"step": {step}, "loss": 0.5}}\n')
        assert _numbers(path) is None
