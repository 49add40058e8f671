"""Paired differences as tables: for the terminal, Markdown and CSV, with what their columns mean.

Terminal and Markdown show percentage points; CSV holds fractions, to be computed with.
Deliberately absent: the statistics (``clrft.analysis.paired_tests``) and a verdict.
"""

from collections.abc import Sequence

from clrft.analysis.formatting import DASH, Rows, percent, raw, signed
from clrft.analysis.paired_tests import ALPHA, FEWEST, MOST_ALL, POWER, RESAMPLES, Needed, PairedTests
from clrft.analysis.pairs import Paired

MOST_SHOWN = 120  # rows of a table that a reader can go through; CSV has all
CAPTION = (
    "Student's t and bootstrap (BCa) are 95 % intervals of the mean difference; p: exact two-sided sign-flip test, in "
    "brackets corrected by Holm for all pairs of the metric; more: class orders to add until the t-interval would "
    f"exclude 0 / a t-test at {100 * ALPHA:.0f} % would have a power of {100 * POWER:.0f} %, if mean and deviation "
    "stayed as they are."
)
PAIRS_CSV = (
    "stream", "metric", "first", "second", "n", "mean", "std", "low_95", "high_95", "bootstrap_low_95",
    "bootstrap_high_95", "bootstrap_undefined", "sign_flip_p", "smallest_p", "holm_p", "orders_for_interval",
    "orders_for_interval_undefined", "orders_for_power_80", "orders_for_power_80_undefined", "mixed",
)  # fmt: skip


def pair_table(pairs: Sequence[Paired], full: bool = False) -> tuple[list[str], Rows]:
    """Header and rows of paired differences, those of a metric together; ``full`` adds the standard deviation."""
    rows = []
    for pair in pairs:
        t, boot = (_interval(*ends) for ends in ((pair.low, pair.high), (pair.tests.boot_low, pair.tests.boot_high)))
        spread = [percent(pair.std)] if full else []
        difference = f"{pair.first} − {pair.second}"
        numbers = [signed(pair.mean), *spread, t, boot, _p(pair.tests), _more(pair), str(pair.orders)]
        rows.append([pair.metric, difference, *numbers])
    spread = ["std"] if full else []
    return ["metric", "difference", "mean", *spread, "t", "bootstrap", "p (Holm)", "more", "n"], rows


def caption(pairs: Sequence[Paired]) -> str:
    """What the columns mean, and what so few orders can't tell."""
    fewest = min(pair.orders for pair in pairs)
    tests = next(pair.tests for pair in pairs if pair.orders == fewest)
    resampled = f"The bootstrap counts all resamples up to {MOST_ALL} orders, else {RESAMPLES} seeded ones."
    told = f"{CAPTION} {resampled}"
    if fewest >= FEWEST:
        return told
    return (
        f"{told} With {fewest} order{'s' * (fewest > 1)} p is never below {tests.smallest_p:.2g}, and at most "
        f"{100 * tests.coverage:.0f} % of bootstrap intervals can hold the mean: below {FEWEST} orders they are too "
        "narrow to inform."
    )


def too_many(pairs: Sequence[Paired]) -> str:
    """Sentence in the place of a table that is too long to be read."""
    return (
        f"{len(pairs)} paired differences are too many to be shown: all are in pairs.csv; --baseline METHOD pairs the "
        "others with one method."
    )


def pair_rows(pairs: Sequence[Paired], mixed: dict[str, str]) -> tuple[list[str], Rows]:
    """Header and rows of all paired differences, as fractions, with every order's.

    Args:
        pairs: of any streams.
        mixed: by stream, what was mixed on request.
    """
    seeds = sorted({seed for pair in pairs for seed in pair.differences})
    rows = [
        [pair.stream, pair.metric, pair.first, pair.second, str(pair.orders), raw(pair.mean), raw(pair.std)]
        + _raw_tests(pair.tests)
        + [mixed.get(pair.stream, "")]
        + [raw(pair.differences.get(seed)) for seed in seeds]
        for pair in pairs
    ]
    return [*PAIRS_CSV, *(f"order_{seed}" for seed in seeds)], rows


def _raw_tests(tests: PairedTests) -> list[str]:
    needed = [
        cell
        for one in (tests.for_interval, tests.for_power)
        for cell in ("" if one.orders is None else str(one.orders), one.reason or "")
    ]
    intervals = [raw(end) for end in (tests.t_low, tests.t_high, tests.boot_low, tests.boot_high)]
    values = [raw(p) for p in (tests.p, tests.smallest_p, tests.holm)]
    return [*intervals, tests.boot_reason or "", *values, *needed]


def _interval(low: float | None, high: float | None) -> str:
    return DASH if low is None or high is None else f"{signed(low)} to {signed(high)}"


def _p(tests: PairedTests) -> str:
    return DASH if tests.p is None else f"{_short(tests.p)} ({DASH if tests.holm is None else _short(tests.holm)})"


def _short(p: float) -> str:
    return f"{p:.2f}" if p >= 0.01 else f"{p:.1g}"


def _more(pair: Paired) -> str:
    both = [_one_more(needed, pair.orders) for needed in (pair.tests.for_interval, pair.tests.for_power)]
    return DASH if both == [DASH, DASH] else " / ".join(both)


def _one_more(needed: Needed, orders: int) -> str:
    more = needed.more_than(orders)
    if more is not None:
        return str(more)
    return ">1000" if needed.reason is not None and needed.reason.startswith("more than") else DASH
