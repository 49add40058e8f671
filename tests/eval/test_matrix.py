"""The accuracy matrix: immutable, NaN where nothing was evaluated, whole through its file form."""

import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from eval.matrix import AccuracyMatrix
from task_streams.errors import UserError


def two_tasks() -> AccuracyMatrix:
    matrix = AccuracyMatrix.empty(["a", "b"]).with_row(1, {1: (3, 4)})
    return matrix.with_row(2, {1: (1, 4), 2: (2, 2)}).with_rows(base={1: 0.5})


def test_cells_hold_counts_and_their_ratio_or_a_value_alone_and_a_new_row_leaves_the_old_matrix_as_it_was() -> None:
    matrix = two_tasks()
    np.testing.assert_array_equal(matrix.value, [[0.75, np.nan], [0.25, 1.0]])
    np.testing.assert_array_equal(matrix.correct, [[3, np.nan], [1, 2]])
    np.testing.assert_array_equal(matrix.base, [0.5, np.nan])
    assert np.isnan(matrix.joint).all()
    empty = AccuracyMatrix.empty(["a", "b"])
    empty.with_row(1, {1: (3, 4)})
    assert np.isnan(empty.value).all()
    with pytest.raises(ValueError, match="read-only"):
        empty.value[0, 0] = 1.0
    matrix = matrix.with_row(2, {1: 0.375})  # without counts
    assert matrix.value[1, 0] == 0.375
    assert np.isnan(matrix.total[1, 0])
    assert not np.isnan(matrix.total[1, 1])


def test_the_matrix_survives_its_file_form() -> None:
    matrix = two_tasks().with_row(1, {2: 0.125})
    matrix = matrix.with_rows(joint={1: 1.0, 2: 0.9}, final_list={1: 0.25}, pooled={2: 0.5})
    text = json.dumps(matrix.to_json(), allow_nan=False)
    again = AccuracyMatrix.from_json(json.loads(text))
    assert again.to_json() == matrix.to_json()
    np.testing.assert_array_equal(again.value, matrix.value)
    assert matrix.to_json()["correct"] == [[3, None], [1, 2]]
    rows = ("base", "joint", "final_list", "pooled")  # may be left out
    read = AccuracyMatrix.from_json({name: part for name, part in matrix.to_json().items() if name not in rows})
    assert np.isnan([read.base, read.joint, read.final_list, read.pooled]).all()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 2}, "schema 2, expected 1"),
        ({"value": [[0.75, None]]}, "shape"),
        ({"value": [[0.75], [0.25, 1.0]]}, "damaged"),
        ({"value": [["x", None], [0.25, 1.0]]}, "damaged"),
        ({"value": [[0.8, None], [0.25, 1.0]]}, "'value' is not 'correct' / 'total'"),
        ({"value": [[None, None], [0.25, 1.0]]}, "'value' is not 'correct' / 'total'"),
        ({"base": [1.5, None]}, "'base' holds a number out of 0..1"),
        ({"pooled": [None, 1.5]}, "'pooled' holds a number out of 0..1"),
        ({"pooled": [None]}, "shape"),
        ({"total": [[None, None], [4, 2]]}, "do not belong to each other"),
        ({"correct": [[3.5, None], [1, 2]]}, "do not belong to each other"),
        ({"tasks": []}, "at least one task"),
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        AccuracyMatrix.from_json(two_tasks().to_json() | change)


def test_what_is_no_matrix_and_impossible_cells_are_refused() -> None:
    for data in (None, [], {}, {"schema": 1}, {"schema": 1, "tasks": ["a"], "correct": [[1]]}):
        with pytest.raises(UserError, match="accuracy matrix"):
            AccuracyMatrix.from_json(data)
    empty = AccuracyMatrix.empty(["a"])
    for cells, problem in (((0, 0), "0 right of 0 items"), ((5, 4), "5 right of 4")):
        with pytest.raises(ValueError, match=problem):
            empty.with_row(1, {1: cells})
    for stage, task in ((1, 2), (0, 1)):
        with pytest.raises(IndexError, match=r"(2|0) is out of 1\.\.1"):
            empty.with_row(stage, {task: (1, 1)})
    with pytest.raises(ValueError, match="no fraction"):
        empty.with_row(1, {1: 68.3})
    with pytest.raises(ValueError, match="no fraction"):
        empty.with_rows(base={1: -0.5})


def test_tables_show_percent_a_dash_where_nothing_was_evaluated_and_a_column_for_what_is_pooled() -> None:
    assert two_tasks().to_markdown().splitlines() == [
        "| after | a | b |",
        "| --- | ---: | ---: |",
        "| (base) | 50.0 | – |",
        "| a | 75.0 | – |",
        "| b | 25.0 | 100.0 |",
    ]
    pooled = two_tasks().with_rows(pooled={2: 0.375})
    assert pooled.to_markdown().splitlines() == [
        "| after | a | b | pooled |",
        "| --- | ---: | ---: | ---: |",
        "| (base) | 50.0 | – | – |",
        "| a | 75.0 | – | – |",
        "| b | 25.0 | 100.0 | 37.5 |",
    ]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(two_tasks().to_table(), pooled.to_table())
    assert "100.0" in capture.get() and "nan" not in capture.get()
    assert capture.get().count("pooled") == 1 and "37.5" in capture.get()
