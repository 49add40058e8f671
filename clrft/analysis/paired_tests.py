"""What paired differences over class orders can tell: intervals, an exact test, and how many orders a claim would need.

For each row of differences d_1 … d_n (one per class order):

- Student's interval, mean ± t(n−1) s/√n: exact if the differences are normal.
- A bootstrap interval of the mean, BCa (Efron 1987), from all n^n resamples up to ``MOST_ALL`` orders, else from
  ``RESAMPLES`` seeded ones. It cannot reach beyond the smallest and the largest difference, so that at most 1 − 2/2^n
  of such intervals hold the centre of a symmetric distribution: 75 % for 3 orders. Below ``FEWEST`` orders that is
  less than the 95 % that it is named after.
- The exact sign-flip test: if the two methods were alike, each difference could as well have the other sign. p is the
  share of all 2^n patterns of signs whose mean is at least as far from 0; it is never below 2/2^n.
- Orders needed, if mean and deviation stayed as observed: for Student's interval to exclude 0, and for a paired t-test
  at 5 % to find such a difference in 80 % of repetitions (noncentral t, as its square, a noncentral F).

Deliberately absent: which differences are tested together (``clrft.analysis.pairs``), a verdict.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats takes a second to import

LEVEL, ALPHA, POWER = 0.95, 0.05, 0.8
FEWEST = 6  # orders with which p below 0.05, and a 95 % interval by bootstrap, are possible: 2/2^6 = 0.03
MOST_ALL = 7  # orders up to which every resample is counted
RESAMPLES, SEED = 1999, 20260509
MOST_EXACT = 16  # orders whose patterns of signs are counted out
MOST_NEEDED = 1000  # a difference that would need more orders is told as such
TOO_MANY = f"more than {MOST_NEEDED} orders"
_CELLS = 4_000_000  # numbers held at once
CAPTION = (
    "Student's t and bootstrap (BCa) are 95 % intervals of the mean difference; p: exact two-sided sign-flip test, in "
    "brackets corrected by Holm for all pairs of the metric; more: class orders to add until the t-interval would "
    f"exclude 0 / a t-test at {100 * ALPHA:.0f} % would have a power of {100 * POWER:.0f} %, if mean and deviation "
    f"stayed as they are. The bootstrap counts all resamples up to {MOST_ALL} orders, else {RESAMPLES} seeded ones."
)

Array = NDArray[np.float64]


Needed = int | str  # class orders in all that would be needed, or why that can't be told


@dataclass(frozen=True, slots=True)
class PairedTests:
    """What one row of paired differences tells."""

    t_low: float | None  # Student's 95 % interval of the mean; None for one order
    t_high: float | None
    boot_low: float | None  # bootstrap 95 % interval of the mean; None with ``boot_reason``
    boot_high: float | None
    boot_reason: str | None  # why there is no bootstrap interval
    p: float | None  # two-sided p of the exact sign-flip test; None for more than ``MOST_EXACT`` orders
    smallest_p: float  # that so many orders could give, 2/2^n; 1 less this is the most that a bootstrap can cover
    holm: float | None  # p corrected by Holm for all tests of its family; None where there is no p
    for_interval: Needed  # orders for Student's interval to exclude 0
    for_power: Needed  # orders for a power of 80 % at 5 %


def paired_tests(rows: Sequence[Sequence[float]]) -> list[PairedTests]:
    """The tests of each row of differences, at least one each; rows of one length have the same resamples."""
    lengths = [len(row) for row in rows]
    tests = {
        length: iter(_tests_of(np.array([row for row in rows if len(row) == length], dtype=np.float64)))  # [P, n]
        for length in set(lengths)
    }
    return [next(tests[length]) for length in lengths]


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the k-th smallest of m values times m − k + 1, never falling, at most 1."""
    order, corrected = np.argsort(values), np.zeros(len(values))
    times = np.arange(len(values), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(times * np.asarray(values, dtype=np.float64)[order]))
    return [float(value) for value in corrected]


def bootstrap_intervals(table: Array) -> Array:
    """BCa 95 % interval of the mean of each row, NaN where all its values are equal. [P, n] -> [P, 2]

    Efron 1987, with the acceleration from the jackknife, as ``scipy.stats.bootstrap`` has it; one set of resamples
    serves all rows.
    """
    intervals = np.full((len(table), 2), np.nan)
    if table.shape[1] < 2:
        return intervals
    counts, weights = resamples(table.shape[1])
    spread = np.flatnonzero(np.ptp(table, axis=1) > 1e-12 * np.abs(table).max(axis=1))
    step = max(1, _CELLS // len(counts))
    for places in (spread[at : at + step] for at in range(0, len(spread), step)):
        intervals[places] = _bca(table[places], counts, weights)
    return intervals


@cache
def resamples(count: int) -> tuple[Array, Array]:
    """How often each of n values is drawn in each distinct resample, and the share of such resamples. [U, n], [U]"""
    if count <= MOST_ALL:
        drawn = np.array(list(itertools.combinations_with_replacement(range(count), count)))
        counts = (drawn[:, :, None] == np.arange(count)).sum(axis=1)
        ways = math.factorial(count) / special.factorial(counts).prod(axis=1)
        return counts.astype(np.float64), ways / count**count
    counts = np.random.default_rng(SEED).multinomial(count, [1 / count] * count, size=RESAMPLES)
    return counts.astype(np.float64), np.full(RESAMPLES, 1 / RESAMPLES)


def _bca(table: Array, counts: Array, weights: Array) -> Array:
    """Interval of each row; none of them is constant. [P, n], [U, n], [U] -> [P, 2]"""
    count = table.shape[1]
    mean = table.mean(axis=1, keepdims=True)  # [P, 1]
    means = table @ counts.T / count  # [P, U]
    order = np.argsort(means, axis=1)
    means, share = np.take_along_axis(means, order, axis=1), weights[order]
    near = 1e-9 * np.ptp(table, axis=1, keepdims=True)  # equal means may differ in their last bits
    below, upto = ((share * (means < mean + side)).sum(axis=1) for side in (-near, near))
    bias = special.ndtri((below + upto) / 2)  # [P]
    left_out = mean - (table.sum(axis=1, keepdims=True) - table) / (count - 1)  # [P, n]
    acceleration = (left_out**3).sum(axis=1) / (6 * (left_out**2).sum(axis=1) ** 1.5)
    reached = np.cumsum(share, axis=1)
    ends = []
    for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        shifted = bias + special.ndtri(tail)
        level = special.ndtr(bias + shifted / (1 - acceleration * shifted))
        place = (reached < level[:, None] - 1e-12).sum(axis=1)
        ends.append(means[np.arange(len(means)), np.minimum(place, means.shape[1] - 1)])
    return np.column_stack(ends)


def sign_flip_p(table: Array) -> Array:
    """Two-sided p of the exact sign-flip test of each row: 1 where all values are 0. [P, n] -> [P]

    Half of the patterns are counted; the other half are their mirror images.
    """
    count = table.shape[1]
    bits = np.arange(2 ** (count - 1))[:, None] >> np.arange(count)[None, :]
    signs = 1.0 - 2.0 * (bits & 1)  # [2^(n-1), n]; the last difference keeps its sign
    size = np.abs(table).sum(axis=1)
    observed = np.abs(table.sum(axis=1)) - 1e-9 * size  # equal sums may differ in their last bits
    step = max(1, _CELLS // len(signs))
    parts = [
        (np.abs(table[at : at + step] @ signs.T) >= observed[at : at + step, None]).mean(axis=1)
        for at in range(0, len(table), step)
    ]
    return np.concatenate(parts)


def orders_needed(effects: Array, for_power: bool) -> NDArray[np.int64]:
    """Least n >= 2 that such means, in standard deviations, need; 0 where ``MOST_NEEDED`` are too few. [P] -> [P]

    Either for a paired t-test to have a power of 80 %, or for t(0.975, n−1)/√n to be below the mean.
    """
    numbers = np.arange(2, MOST_NEEDED + 1)
    # the smallest effects that n orders find, which fall with n
    least = _smallest_effects() if for_power else special.stdtrit(numbers - 1, 0.5 + LEVEL / 2) / np.sqrt(numbers)
    place = np.searchsorted(-least, -effects, side="left" if for_power else "right")
    return np.where(place < len(numbers), place + 2, 0)


def power(effects: Array, orders: NDArray[np.int64]) -> Array:
    """Chance that a two-sided paired t-test at 5 % finds a mean of so many standard deviations. [P], [P] -> [P]"""
    bound = special.stdtrit(orders - 1, 1 - ALPHA / 2) ** 2
    missed = special.ncfdtr(1, orders - 1, orders * effects**2, bound)
    return np.asarray(1 - np.nan_to_num(missed), dtype=np.float64)  # NaN where it is too small for the series


@cache
def _smallest_effects() -> Array:
    """Mean in standard deviations that n = 2, 3, … orders find with a power of 80 %, by bisection; falls with n."""
    orders = np.arange(2, MOST_NEEDED + 1)
    low, high = np.zeros(len(orders)), np.full(len(orders), 16.0)
    for _ in range(50):
        middle = (low + high) / 2
        good = power(middle, orders) >= POWER
        low, high = np.where(good, low, middle), np.where(good, middle, high)
    return high


def _tests_of(table: Array) -> list[PairedTests]:
    """Tests of rows of one length. [P, n]"""
    count = table.shape[1]
    mean = table.mean(axis=1)
    std = table.std(axis=1, ddof=1) if count > 1 else np.full(len(table), np.nan)
    half = special.stdtrit(count - 1, 0.5 + LEVEL / 2) * std / math.sqrt(count)
    flips = sign_flip_p(table) if count <= MOST_EXACT else np.full(len(table), np.nan)
    scale = 1e-12 * np.abs(table).max(axis=1, initial=0.0)
    unknown = np.select(
        [np.isnan(std), np.abs(mean) <= scale, std <= scale],
        ["one order has no spread", "the mean difference is 0", "all differences are equal"],
        "",
    ).tolist()
    with np.errstate(divide="ignore", invalid="ignore"):  # of those rows nothing is told
        effects = np.abs(mean) / std
    needed = [
        [
            why or number or TOO_MANY
            for number, why in zip(orders_needed(effects, for_power).tolist(), unknown, strict=True)
        ]
        for for_power in (False, True)
    ]
    numbers = np.column_stack([mean - half, mean + half, bootstrap_intervals(table), flips]).tolist()
    found = []
    for row, for_interval, for_power in zip(numbers, *needed, strict=True):
        t_low, t_high, boot_low, boot_high, p = (None if math.isnan(x) else x for x in row)
        why = None if boot_low is not None else "one order has no spread" if count < 2 else "all differences are equal"
        more = (for_interval, for_power)
        found.append(PairedTests(t_low, t_high, boot_low, boot_high, why, p, 2 / 2**count, None, *more))
    return found
