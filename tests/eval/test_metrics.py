"""Metrics: golden matrices by hand, and parity with plain loops on random matrices."""

from collections.abc import Callable

import numpy as np
import pytest

from eval.matrix import AccuracyMatrix
from eval.metrics import (
    METRICS,
    Value,
    accuracy_so_far,
    compute_metrics,
    forgetting_by_stage,
    general_delta,
    metric_of,
    seen_accuracy,
    stage_accuracy,
)
from task_streams.errors import UserError


def of_percent(rows: list[list[int]], items: int = 100) -> AccuracyMatrix:
    """A matrix whose rows are given in percent, ``items`` test items per task."""
    matrix = AccuracyMatrix.empty([f"t{j}" for j in range(len(rows[-1]))])
    for stage, row in enumerate(rows, start=1):
        matrix = matrix.with_row(stage, {j: (p * items // 100, items) for j, p in enumerate(row, start=1)})
    return matrix


def number(values: dict[str, Value], key: str) -> float:
    value = values[key].value
    assert value is not None, values[key].reason
    return value


GOLDEN = of_percent([[90], [60, 80], [50, 70, 85]])
THREE_FORGETTINGS = of_percent([[50], [70, 80], [75, 60, 90]])
UNEQUAL = AccuracyMatrix.empty(["a", "b"]).with_row(1, {1: (9, 10)}).with_row(2, {1: (5, 10), 2: (90, 90)})


@pytest.mark.parametrize(
    ("matrix", "key", "percent"),
    [
        (GOLDEN, "last_acc", 205 / 3),  # (50 + 70 + 85) / 3, all tasks of 100 items
        (GOLDEN, "mean_final_acc", 205 / 3),
        (GOLDEN, "learning_acc", 85.0),  # (90 + 80 + 85) / 3
        (GOLDEN, "avg_incremental_acc", (90 + 70 + 205 / 3) / 3),  # = 76.11
        (GOLDEN, "avg_incremental_acc_micro", (90 + 70 + 205 / 3) / 3),  # equal items: as macro
        (GOLDEN, "forgetting", 25.0),  # ((90 - 50) + (80 - 70)) / 2
        (GOLDEN, "forgetting_chaudhry", 25.0),
        (GOLDEN, "forgetting_diag", 25.0),
        (GOLDEN, "bwt", -25.0),
        (GOLDEN, "relative_forgetting", 100 * (40 / 90 + 10 / 80) / 2),
        (GOLDEN, "min_acc", 50.0),
        # the forgettings differ
        (THREE_FORGETTINGS, "forgetting", 10.0),  # ((75 - 75) + (80 - 60)) / 2
        (THREE_FORGETTINGS, "forgetting_chaudhry", 7.5),  # ((70 - 75) + (80 - 60)) / 2
        (THREE_FORGETTINGS, "forgetting_diag", -2.5),  # ((50 - 75) + (80 - 60)) / 2
        (THREE_FORGETTINGS, "bwt", 2.5),
        (THREE_FORGETTINGS, "relative_forgetting", 12.5),  # (0/75 + 20/80) / 2
        # micro and macro differ when tasks have different sizes
        (UNEQUAL, "last_acc", 95.0),  # (5 + 90) / 100
        (UNEQUAL, "mean_final_acc", 75.0),  # (50 + 100) / 2
        (UNEQUAL, "avg_incremental_acc_micro", 92.5),  # (90 + 95) / 2
        (UNEQUAL, "avg_incremental_acc", 82.5),  # (90 + 75) / 2
    ],
)
def test_metrics_by_hand(matrix: AccuracyMatrix, key: str, percent: float) -> None:
    assert 100 * number(compute_metrics(matrix), key) == pytest.approx(percent, abs=1e-9)


def test_what_one_task_or_missing_cells_leave_open_is_undefined_and_never_a_number() -> None:
    values = compute_metrics(of_percent([[80]]))
    keys = ("forgetting", "forgetting_chaudhry", "forgetting_chaudhry_all", "forgetting_diag", "relative_forgetting")
    for key in (*keys, "bwt", "fwt"):
        assert values[key] == Value(None, "needs at least two tasks")
    assert number(values, "last_acc") == number(values, "avg_incremental_acc") == pytest.approx(0.8)
    joint_only = AccuracyMatrix.empty(["a", "b"]).with_row(2, {1: (3, 4), 2: (1, 4)})
    values = compute_metrics(joint_only)
    defined = {key for key, value in values.items() if value.value is not None}
    assert defined == {"last_acc", "mean_final_acc", "min_acc"}
    values = compute_metrics(of_percent([[0], [0, 80]]))
    assert values["relative_forgetting"].reason == "nothing to forget: accuracy on task 1 was 0 after every stage"
    assert number(values, "forgetting") == 0.0
    assert all(value.value is None for value in compute_metrics(AccuracyMatrix.empty(["a", "b"])).values())
    assert compute_metrics(GOLDEN)["fwt"].reason == "not evaluated: R[j-1,j]: future tasks"
    full = of_percent([[90, 30], [60, 80]])
    assert compute_metrics(full)["fwt"].reason == "not evaluated: b_j: the base model"


def test_values_without_counts_have_no_average_over_items_unless_they_are_pooled() -> None:
    apart = AccuracyMatrix.empty(["a", "b"]).with_row(1, {1: 0.4}).with_row(2, {1: 0.2, 2: 0.6})
    values = compute_metrics(apart)
    for key in ("last_acc", "avg_incremental_acc_micro"):
        assert values[key].value is None
        assert "box AP of each task by itself" in str(values[key].reason)
    assert number(values, "mean_final_acc") == pytest.approx(0.4)
    np.testing.assert_allclose(accuracy_so_far(apart), [0.4, 0.4])
    pooled = apart.with_rows(pooled={1: 0.4, 2: 0.3})
    values = compute_metrics(pooled)
    assert number(values, "last_acc") == 0.3
    assert number(values, "avg_incremental_acc_micro") == pytest.approx(0.35)  # (0.4 + 0.3) / 2
    assert (number(values, "mean_final_acc"), number(values, "forgetting")) == pytest.approx((0.4, 0.2))  # the cells'
    np.testing.assert_allclose(stage_accuracy(pooled), [0.4, 0.3])
    np.testing.assert_allclose(accuracy_so_far(pooled), [0.4, 0.3])
    joint = AccuracyMatrix.empty(["a", "b"]).with_row(2, {1: 0.2, 2: 0.6}).with_rows(pooled={2: 0.3})
    values = compute_metrics(joint)
    assert number(values, "last_acc") == 0.3
    assert values["avg_incremental_acc_micro"].reason == "not evaluated: R[i,j] of every j <= i"


def test_forward_transfer_intransigence_and_curves_over_stages_by_hand() -> None:
    rows = [[90, 30, 20], [60, 80, 40], [50, 70, 85]]
    matrix = of_percent(rows).with_rows(base={1: 0.1, 2: 0.2, 3: 0.25}, joint={1: 0.95, 2: 0.9, 3: 0.85})
    values = compute_metrics(matrix, ["fwt", "intransigence"])
    assert number(values, "fwt") == pytest.approx(0.125)  # ((30 - 20) + (40 - 25)) / 2
    assert number(values, "intransigence") == pytest.approx(0.05)  # ((95 - 90) + (90 - 80) + (85 - 85)) / 3
    np.testing.assert_allclose(seen_accuracy(GOLDEN), [0.9, 0.7, 2.05 / 3])
    np.testing.assert_allclose(forgetting_by_stage(GOLDEN), [np.nan, 0.3, 0.25])  # 90-60; ((90-50)+(80-70))/2
    # over items: 1 of 2 right; then 1 of 2 and 6 of 8 are 7 of 10
    matrix = AccuracyMatrix.empty(["a", "b"]).with_row(1, {1: (1, 2)}).with_row(2, {1: (1, 2), 2: (6, 8)})
    np.testing.assert_allclose(stage_accuracy(matrix), [0.5, 0.7])
    np.testing.assert_allclose(accuracy_so_far(matrix), [0.5, 0.625])  # curves average over tasks


def test_general_ability_has_one_value_per_probe_a_value_is_a_number_or_a_reason_and_unknown_metrics_are_refused() -> (
    None
):
    values = general_delta({"glyphs": 0.9, "other": 0.5}, {"glyphs": 0.7})
    assert number(values, "general_delta/glyphs") == pytest.approx(-0.2)
    assert values["general_delta/other"].reason == "not measured after task T"
    found = compute_metrics(GOLDEN, ["general_delta"], {"glyphs": 0.5}, {"glyphs": 0.75})
    assert found == {"general_delta/glyphs": Value(0.25)}
    assert compute_metrics(GOLDEN)["general_delta"].reason == "not measured: no probe outside the stream"
    for value, reason in ((None, None), (0.1, "because"), (float("nan"), None)):
        with pytest.raises(ValueError):
            Value(value, reason)
    with pytest.raises(UserError, match=r"unknown metric 'forgeting'. Did you mean 'forgetting'\?"):
        compute_metrics(GOLDEN, ["forgeting"])
    with pytest.raises(UserError, match="Did you mean 'last_acc'"):
        metric_of("lastacc")
    assert metric_of("general_delta/glyphs") is METRICS["general_delta"]


# Plain loops over lists, written from the definitions alone: r[i][j], joint jo. Avalanche has the other definitions.
Table = list[list[float]]


def mean_loss(r: Table, last_of_best: int) -> float:
    """Mean over j < T of the best of r[j..last_of_best][j] less r[T][j]."""
    last = len(r) - 1
    return sum(max(r[i][j] for i in range(j, last_of_best + 1)) - r[last][j] for j in range(last)) / last


LOOPS: dict[str, Callable[[Table, list[float]], float]] = {
    "learning_acc": lambda r, jo: sum(r[j][j] for j in range(len(r))) / len(r),
    "avg_incremental_acc": lambda r, jo: sum(sum(r[i][: i + 1]) / (i + 1) for i in range(len(r))) / len(r),
    "forgetting": lambda r, jo: mean_loss(r, len(r) - 1),
    "forgetting_chaudhry": lambda r, jo: mean_loss(r, len(r) - 2),
    "intransigence": lambda r, jo: sum(jo[j] - r[j][j] for j in range(len(r))) / len(r),
}


def test_metrics_agree_with_plain_loops_on_random_matrices() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        size = int(random.integers(2, 7))
        rows, joint = random.random((size, size)).tolist(), random.random(size).tolist()
        matrix = AccuracyMatrix.empty([str(j) for j in range(size)]).with_rows(joint=dict(enumerate(joint, start=1)))
        for stage, row in enumerate(rows, start=1):
            matrix = matrix.with_row(stage, dict(enumerate(row, start=1)))
        values = compute_metrics(matrix)
        for key, loop in LOOPS.items():
            assert number(values, key) == pytest.approx(loop(rows, joint), abs=1e-12), key


def test_forgetting_is_split_into_the_class_lists_part_and_the_weights_part() -> None:
    # V = (70, 75): by the list ((90 - 70) + (80 - 75)) / 2 = 12.5, by the weights ((70 - 50) + (75 - 70)) / 2 = 12.5;
    # together 25, the forgetting of the diagonal.
    values = compute_metrics(GOLDEN.with_rows(final_list={1: 0.7, 2: 0.75}))
    assert 100 * number(values, "forgetting_vocabulary") == pytest.approx(12.5)
    assert 100 * number(values, "forgetting_weights") == pytest.approx(12.5)
    missing = compute_metrics(GOLDEN.with_rows(final_list={1: 0.7}))["forgetting_weights"]
    assert missing.reason == "not evaluated: V_j: task j < T right after learning it, under the final class list"
