"""Intervals, the exact test, Holm and the orders needed: by hand, and beside scipy's own."""

import numpy as np
import pytest
from scipy import stats

from clrft.analysis.paired_tests import (
    MOST_EXACT,
    MOST_NEEDED,
    bootstrap_intervals,
    holm,
    orders_for_interval,
    orders_for_power,
    paired_tests,
    resamples,
    sign_flip_p,
    with_holm,
)


def test_the_sign_flip_test_counts_every_pattern() -> None:
    # Of the 8 patterns of signs of (10, 15, 5) only +++ and --- have a sum as far from 0 as 30: p = 2/8.
    # (1, 2, -4), sum -1. Sums by signs: ±7, ±5 (1 flipped: -1+2+4), ±3 (2 flipped), ±1; all 8 are at least 1 from 0.
    # (3, 3, -1), sum 5: ±7 and ±5 of ±7, ±5, ±1, ±1: p = 4/8.
    # Zeros keep the sum under both signs: (2, 0, 0) has |sum| 2 under every pattern. All zeros: nothing to tell.
    table = np.array([[10, 15, 5], [1, 2, -4], [3, 3, -1], [2, 0, 0], [0, 0, 0], [0.1, 0.1, 0.1]])
    np.testing.assert_allclose(sign_flip_p(table), [0.25, 1.0, 0.5, 1, 1, 0.25])


@pytest.mark.parametrize("count", [2, 5, 9])
def test_the_sign_flip_test_agrees_with_scipys_permutation_test(count: int) -> None:
    table = np.random.default_rng(count).normal(0.4, 1, size=(4, count)).round(2)
    for row, ours in zip(table, sign_flip_p(table), strict=True):
        theirs = stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert ours == pytest.approx(theirs.pvalue, abs=1e-12)


def test_more_orders_than_can_be_counted_out_have_no_p() -> None:
    many, three = with_holm(paired_tests([[float(x) for x in range(MOST_EXACT + 1)], [10, 15, 5]]))
    assert (many.p, many.holm) == (None, None)
    assert (three.p, three.smallest_p, three.holm) == (0.25, 0.25, 0.25)


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    # Sorted 0.01 x 3, 0.03 x 2, 0.04 x 1 = 0.03, 0.06, 0.04; the last is raised to 0.06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.25, 0.75]) == pytest.approx([0.5, 0.75])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_all_resamples_of_three_are_counted() -> None:
    # 27 draws: 3 with one value thrice, 6 patterns (a, a, b) of 3 draws each, 1 pattern (a, b, c) of 6 draws.
    counts, weights = resamples(3)
    assert len(counts) == 10
    assert weights.sum() == pytest.approx(1)
    assert sorted((27 * weights).round().astype(int)) == [1, 1, 1, 3, 3, 3, 3, 3, 3, 6]


def test_a_bootstrap_interval_of_three_reaches_from_the_smallest_to_the_largest() -> None:
    # Symmetric differences: no bias, no acceleration, so the plain percentiles. The smallest mean, 5, has the weight
    # 1/27 = 3.7 % > 2.5 %, and likewise 15.
    np.testing.assert_allclose(bootstrap_intervals(np.array([[10.0, 15, 5]])), [[5, 15]])


@pytest.mark.parametrize("count", [6, 7, 12])
def test_the_bootstrap_agrees_with_scipys(count: int) -> None:
    table = np.random.default_rng(count).normal(0.5, 1, size=(3, count))
    theirs = stats.bootstrap((table,), np.mean, axis=-1, n_resamples=20_000, rng=np.random.default_rng(1))
    np.testing.assert_allclose(
        bootstrap_intervals(table), np.column_stack(theirs.confidence_interval), atol=0.06 * table.std()
    )


def test_equal_differences_and_one_order_say_why_there_is_nothing() -> None:
    equal, one, zero = paired_tests([[1.0, 1, 1], [1.0], [1.0, -1, 0]])
    assert (equal.boot_low, equal.boot_reason) == (None, "all differences are equal")
    assert (equal.for_interval.orders, equal.for_power.reason) == (None, "all differences are equal")
    assert (one.t_low, one.boot_reason, one.for_power.reason) == (None, *["one order has no spread"] * 2)
    assert zero.for_interval.reason == "the mean difference is 0"


def test_orders_for_a_power_of_80_percent_are_the_published_ones() -> None:
    # Two-sided paired t-test at 5 %: G*Power's numbers of pairs for d = 0.2, 0.5, 0.8, 1.0.
    np.testing.assert_array_equal(orders_for_power(np.array([0.2, 0.5, 0.8, 1.0])), [199, 34, 15, 10])
    np.testing.assert_array_equal(orders_for_power(np.array([1e-4, 100.0])), [0, 2])


def test_orders_for_an_interval_without_zero_by_the_table_of_t() -> None:
    # Mean / s = 1: t(0.975, n-1) / sqrt n is 2.5706 / 2.4495 = 1.05 for n = 6 and 2.4469 / 2.6458 = 0.92 for n = 7.
    # Mean / s = 2: 4.3027 / 1.7321 = 2.48 for n = 3 and 3.1824 / 2 = 1.59 for n = 4.
    np.testing.assert_array_equal(orders_for_interval(np.array([1.0, 2.0, 1e-4])), [7, 4, 0])


def test_how_many_orders_a_difference_needs() -> None:
    # (10, 15, 5): mean 10, s 5, d = 2: interval from 4 orders, power from 5 (0.77 with 4 by G*Power, 0.91 with 5).
    few, hopeless = paired_tests([[10, 15, 5], [1, -1, 1e-6]])
    assert (few.for_interval.orders, few.for_power.orders) == (4, 5)
    assert (hopeless.for_power.orders, hopeless.for_power.reason) == (None, f"more than {MOST_NEEDED} orders")


def test_rows_of_different_lengths_keep_their_places() -> None:
    # Means 2 and 7/3, s 1 and sqrt(7/3); t(0.975, 2) / sqrt(3) = 2.4841.
    tests = paired_tests([[1.0, 2, 3], [5.0], [1.0, 2, 4]])
    assert [test.smallest_p for test in tests] == [0.25, 1.0, 0.25]
    assert (tests[0].t_low, tests[2].t_low) == pytest.approx((2 - 2.4841, 7 / 3 - 2.4841 * (7 / 3) ** 0.5), abs=1e-3)
    assert tests[1].t_low is None
