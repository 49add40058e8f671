"""Metrics by the names of others: matrices by hand (those of docs/metrics.md), and parity with their formulas."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.communities import COMMUNITIES
from eval.matrix import AccuracyMatrix
from eval.metrics import Value
from tests.eval.test_metrics import GOLDEN, THREE_FORGETTINGS, UNEQUAL, number, of_percent

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"

FUTURE = of_percent([[90, 70, 20], [60, 50, 40], [95, 40, 85]]).with_rows(base={1: 0.1, 2: 0.2, 3: 0.25})
JOINT_ONLY = AccuracyMatrix.empty(["a", "b", "c"]).with_row(3, {1: (9, 10), 2: (8, 10), 3: (7, 10)})

Rows = list[list[float]]


def values(matrix: AccuracyMatrix, name: str) -> dict[str, Value]:
    return {column.header: column.value(matrix) for column in COMMUNITIES[name].columns}


def percent(matrix: AccuracyMatrix, name: str, header: str) -> float:
    return 100 * number(values(matrix, name), header)


@pytest.mark.parametrize(
    ("matrix", "name", "header", "expected"),
    [
        (GOLDEN, "mcitlib", "MFT", 85.0),  # (90 + 80 + 85) / 3
        (GOLDEN, "mcitlib", "MFN", 205 / 3),  # (50 + 70 + 85) / 3
        (GOLDEN, "mcitlib", "MAA", (90 + 70 + 205 / 3) / 3),
        (GOLDEN, "mcitlib", "BWT", -25.0),  # ((50 - 90) + (70 - 80)) / 2
        (GOLDEN, "coin", "BWT", -50 / 3),  # ((50 - 90) + (70 - 80) + (85 - 85)) / 3
        (GOLDEN, "gem", "BWT", -25.0),
        (GOLDEN, "gem", "Backward", -50 / 3),
        (GOLDEN, "chaudhry", "F_k", 25.0),  # ((90 - 50) + (80 - 70)) / 2
        (GOLDEN, "continuum_master", "forgetting", 25.0),
        (GOLDEN, "continuum", "forgetting", 20.0),  # task 1 alone, its best of stage 1 alone: (90 - 50) / 2
        (GOLDEN, "continuum_master", "backward_transfer", -80 / 3),  # ((60 - 90) + (50 - 90) + (70 - 80)) / 3 pairs
        (GOLDEN, "continuum", "backward_transfer", -40 / 3),  # of the three pairs only stage 3, task 1: (50 - 90) / 3
        (GOLDEN, "continuum", "forward_transfer", 60.0),  # (60 + 50 + 70) / 3: all below the diagonal
        (GOLDEN, "continuum", "accuracy_A", 72.5),  # (90 + 60 + 80 + 50 + 70 + 85) / 6
        (GOLDEN, "continuum", "average_incremental_accuracy", (90 + 70 + 205 / 3) / 3),  # = 76.11
        # future tasks were tested
        (FUTURE, "rapo", "F", 5.0),  # ((95 - 95) + (50 - 40)) / 2
        (FUTURE, "pilot", "Forgetting (CNN)", 5.0),
        (FUTURE, "chaudhry", "F_k", 2.5),  # ((90 - 95) + (50 - 40)) / 2
        (FUTURE, "chaudhry", "F_k from task 1", 12.5),  # ((90 - 95) + (70 - 40)) / 2: the 70 is from before task 2
        (FUTURE, "mammoth", "Forgetting", 15.0),  # ((95 - 95) + (70 - 40)) / 2: the last row is among the maxima too
        (FUTURE, "gem", "FWT", 32.5),  # ((70 - 20) + (40 - 25)) / 2
        (FUTURE, "gem", "Forward", 65 / 3),  # (0 + (70 - 20) + (40 - 25)) / 3
        (FUTURE, "continuum_master", "forward_transfer", 55.0),  # (70 + 40) / 2, without the base
        (FUTURE, "continuum", "forward_transfer", 65.0),  # (60 + 95 + 40) / 3: the old tasks
        # the forgettings of others differ
        (THREE_FORGETTINGS, "rapo", "F", 10.0),  # from the best: ((75 - 75) + (80 - 60)) / 2
        (THREE_FORGETTINGS, "chaudhry", "F_k", 7.5),  # from the best before the end: ((70 - 75) + (80 - 60)) / 2
        (THREE_FORGETTINGS, "avalanche", "StreamForgetting", -2.5),  # from the first: ((50 - 75) + (80 - 60)) / 2
        (THREE_FORGETTINGS, "avalanche", "StreamBWT", 2.5),
        # who averages over items and who over tasks
        (UNEQUAL, "rapo", "A", 95.0),  # over items: (5 + 90) / (10 + 90)
        (UNEQUAL, "pilot", "CNN top1", 95.0),
        (UNEQUAL, "avalanche", "Top1_Acc_Stream", 95.0),
        (UNEQUAL, "continuum", "accuracy", 95.0),
        (UNEQUAL, "mcitlib", "MFN", 75.0),  # over tasks: (50 + 100) / 2
        (UNEQUAL, "mammoth", "Accuracy", 75.0),
        (UNEQUAL, "gem", "ACC", 75.0),
        (UNEQUAL, "chaudhry", "A_k", 75.0),
        (UNEQUAL, "pilot", "Average Accuracy (CNN)", 92.5),  # (90 + 95) / 2
        (UNEQUAL, "coin", "MAA", 82.5),  # (90 + 75) / 2
    ],
)
def test_matrices_by_the_names_of_others(matrix: AccuracyMatrix, name: str, header: str, expected: float) -> None:
    assert percent(matrix, name, header) == pytest.approx(expected, abs=1e-9)


def test_mammoths_best_accuracy_is_from_one_stage_before_a_task_at_the_earliest() -> None:
    # Task 3 stood at 90 after task 1, at 60 after task 2: Mammoth's row 1 ends with task 2. ((0 + 0 + (70 - 50)) / 3
    matrix = of_percent([[80, 10, 90, 5], [80, 40, 60, 5], [80, 40, 70, 5], [80, 40, 50, 30]])
    assert percent(matrix, "mammoth", "Forgetting") == pytest.approx(20 / 3)
    assert percent(matrix, "chaudhry", "F_k from task 1") == pytest.approx(40 / 3)  # (0 + 0 + (90 - 50)) / 3
    # and its zeros change nothing where no future task was tested
    assert percent(GOLDEN, "mammoth", "Forgetting") == percent(GOLDEN, "rapo", "F")


def test_what_was_not_evaluated_is_undefined_with_its_reason_and_never_a_number() -> None:
    found = {(name, header): value for name in COMMUNITIES for header, value in values(JOINT_ONLY, name).items()}
    defined = {key for key, value in found.items() if value.value is not None}
    assert defined == {  # what needs the last row alone
        ("coin", "MFN"), ("mcitlib", "MFN"), ("mammoth", "Accuracy"), ("pilot", "CNN top1"), ("gem", "ACC"),
        ("avalanche", "Top1_Acc_Stream"), ("chaudhry", "A_k"), ("continuum", "accuracy"),
        ("continuum_master", "accuracy"), ("rapo", "A"),
    }  # fmt: skip
    from_task_1 = values(GOLDEN, "chaudhry")["F_k from task 1"]
    assert from_task_1 == Value(None, "not evaluated: R[i,j] of every task j < T at every stage i < T: future tasks")
    assert values(GOLDEN, "gem")["Forward"].reason == "not evaluated: R[j-1,j]: future tasks"


def test_where_others_return_0_for_too_few_tasks_it_is_undefined() -> None:
    two = values(of_percent([[90], [60, 80]]), "continuum")
    why = "needs at least three tasks: Continuum 1.2.7 sums nothing below and returns 0"
    assert two["forgetting"] == two["backward_transfer"] == Value(None, why)
    assert two["forward_transfer"].value == pytest.approx(0.6)
    for name, header in (("coin", "BWT"), ("mammoth", "Forgetting"), ("continuum_master", "backward_transfer")):
        assert values(of_percent([[90]]), name)[header] == Value(None, "needs at least two tasks")


# The formulas of others once more, from their descriptions alone. r[i][j] and b[j] from 0; all cells are known.


def padded_mammoth(r: Rows, b: list[float]) -> float:
    """Rows up to the next task, then zeros; the largest of each column, the last row among them."""
    size = len(r)
    rows = [[*row[: i + 2], *[0.0] * size][:size] for i, row in enumerate(r)]
    return sum(max(column) - column[-1] for column in list(zip(*rows, strict=True))[:-1]) / (size - 1)


def padded_pilot(r: Rows, b: list[float]) -> float:
    """Rows up to the current task, then zeros."""
    table = np.array([[x if j <= i else 0.0 for j, x in enumerate(row)] for i, row in enumerate(r)])
    return float((table.max(axis=0) - table[-1])[:-1].mean())


def continuum_release(r: Rows, b: list[float]) -> float:
    size = len(r)
    bests = [max(r[i][j] for i in range(j, size - 2)) for j in range(size - 2)]
    return sum(best - last for best, last in zip(bests, r[-1], strict=False)) / (size - 1)


def pairs_change(r: Rows, least: int) -> float:
    """Sum of r[i][j] - r[j][j] over pairs i >= j + least, by the number of all pairs."""
    size = len(r)
    return sum(r[i][j] - r[j][j] for i in range(size) for j in range(i - least + 1)) / (size * (size - 1) / 2)


FORMULAS: dict[tuple[str, str], Callable[[Rows, list[float]], float]] = {
    ("mammoth", "Forgetting"): padded_mammoth,
    ("pilot", "Forgetting (CNN)"): padded_pilot,
    ("chaudhry", "F_k from task 1"): lambda r, b: float(
        np.mean([max(row[j] for row in r[:-1]) - r[-1][j] for j in range(len(r) - 1)])
    ),
    ("continuum", "forgetting"): continuum_release,
    ("continuum", "backward_transfer"): lambda r, b: pairs_change(r, least=2),
    ("continuum", "accuracy_A"): lambda r, b: (
        sum(sum(row[: i + 1]) for i, row in enumerate(r)) / (len(r) * (len(r) + 1) / 2)
    ),
    ("continuum_master", "backward_transfer"): lambda r, b: pairs_change(r, least=1),
    ("gem", "Backward"): lambda r, b: float(np.mean(np.array(r[-1]) - np.diag(np.array(r)))),
    ("gem", "Forward"): lambda r, b: sum(r[j - 1][j] - b[j] for j in range(1, len(r))) / len(r),
}


def test_columns_agree_with_the_formulas_of_others_on_random_matrices() -> None:
    rng = np.random.default_rng(0)
    apart: dict[tuple[str, str], int] = dict.fromkeys(FORMULAS, 0)
    for _ in range(300):
        size = int(rng.integers(3, 8))
        rows, base = rng.random((size, size)), rng.random(size)
        matrix = AccuracyMatrix.empty([str(j) for j in range(size)]).with_rows(base=dict(enumerate(base, start=1)))
        for stage, row in enumerate(rows, start=1):
            matrix = matrix.with_row(stage, dict(enumerate(row, start=1)))
        ours = padded_pilot(rows.tolist(), base.tolist())
        for (name, header), formula in FORMULAS.items():
            expected = formula(rows.tolist(), base.tolist())
            assert percent(matrix, name, header) == pytest.approx(100 * expected, abs=1e-9), (name, header)
            apart[name, header] += not math.isclose(expected, ours, abs_tol=1e-9)
    forgettings = ("mammoth", "Forgetting"), ("chaudhry", "F_k from task 1"), ("continuum", "forgetting")
    assert all(apart[key] > 100 for key in forgettings)  # else a mistaken one would go unseen


def test_the_page_has_a_row_for_every_column() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for community, column in ((one, column) for one in COMMUNITIES.values() for column in one.columns):
        (row,) = (row for row in rows if row.startswith(f"| `{community.name}` | {column.header} |"))
        assert (f"| `{column.by}` |" if isinstance(column.by, str) else "| – |") in row
