"""Low scores are explained: a run's answers by kind, and what was answered where most name no listed class."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from clrft.cli.run import show_results
from clrft.config.run_config import build_config
from clrft.runs.answers import answers_told
from task_streams.types import Example
from tests.clrft.test_forgetting_taxonomy import animals, mixture, place, says
from tests.scripted import Script, perfect, run_of


def test_answers_by_kind_stand_under_the_matrix_stage_by_stage(tmp_path: Path) -> None:
    record = run_of(mixture, animals(), tmp_path)
    console = Console(width=120)
    with console.capture() as capture:
        show_results(build_config("digits_cil", "zero_shot"), record.folder, console)
    _, _, said = capture.get().partition("Answers by kind (%)")
    rows = [line.strip("│ ").split("│") for line in said.splitlines() if line.startswith("│ ")]
    # After the last task each old task has 2 of 8 right, each wrong kind once, the newest's class twice. Else item 7 of
    # each task is its other class: right (2+2+7)/24, same task 3/24, other 2/24, newest 4/24, outside and format 2/24.
    assert [float(cell) for cell in rows[2][1:]] == [45.8, 12.5, 8.3, 16.7, 8.3, 8.3]
    assert [float(cell) for cell in rows[0][1:]] == [87.5, 12.5, 0.0, 0.0, 0.0, 0.0]


def test_right_answers_are_no_reason_for_a_warning(tmp_path: Path) -> None:
    table, sentences = answers_told(run_of(perfect, animals(), tmp_path))
    assert table is not None and [str(column.header) for column in table.columns] == ["after task", "right"]
    assert sentences == []


def other_names(example: Example, listed: Sequence[str], stage: int) -> str:
    """Names that no prompt lists: of items 0 to 4 one, of items 5 to 7 another."""
    return says("\x1b[31mworm" if place(example)[1] < 5 else "w" * 50)


def no_form(example: Example, listed: Sequence[str], stage: int) -> str:
    """Right, but after the last task without an answer block."""
    return "a wasp" if stage == 3 else perfect(example, listed, stage)


@pytest.mark.parametrize(
    ("script", "cells", "answered"),
    [
        (other_names, 6, rf"8 of 8 are none of the list: '\x1b[31mworm' (5), '{'w' * 40}…' (3)"),
        (no_form, 3, "8 of 8 have no <answer>…</answer> that can be read: 'a wasp' (8)"),
    ],
)
def test_where_most_answers_name_no_listed_class_examples_are_told(
    script: Script, cells: int, answered: str, tmp_path: Path
) -> None:
    (sentence,) = answers_told(run_of(script, animals(), tmp_path))[1]
    assert sentence == (
        f"warning: most answers name no listed class in {cells} of 6 cells of the matrix. Of those about task 3 "
        f"(task3) after task 3, {answered}. Listed: 'ant', 'bee', 'cat', 'dog', 'eel', 'fox'."
    )


def test_runs_without_predictions_say_that_their_answers_are_not_recorded(tmp_path: Path) -> None:
    record = run_of(perfect, animals(), tmp_path)
    for path in record.folder.glob("task_*/predictions.jsonl"):
        path.unlink()
    table, (sentence,) = answers_told(record)
    assert table is None and sentence.startswith("answers by kind are not recorded: cannot read ")
