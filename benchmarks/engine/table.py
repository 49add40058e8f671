"""Figures as they are printed: a table for each case, a line for each case of a sweep, the worst ratio."""

from collections.abc import Iterable, Sequence
from typing import Any

Figures = dict[str, Any]


def case_table(case: Figures) -> str:
    """One line for each contender; ratios with the quartiles over the rounds."""
    where = ", ".join(f"{name} {value}" for name, value in case["axes"].items())
    lines = [f"{case['title']}: {where}"]
    for name, row in case["contenders"].items():
        lines.append(f"  {name:11} {contender_line(row, case['baseline'])}")
    return "\n".join(lines)


def contender_line(row: Figures, baseline: str) -> str:
    """What is printed of one contender."""
    if "failure" in row:
        return str(row["failure"])
    words = [f"{row['seconds']:8.3f} s", *ratio_words(row["ratio"], baseline)]
    if "items_per_second" in row:
        words.append(f"{row['items_per_second']:6.1f} items/s")
    if row["completion_tokens"]:
        words.append(f"{row['completion_tokens_per_second']:8.0f} tokens/s")
    if "share_of_peak" in row:
        words.append(f"{row['counts']['model_flops'] / 1e9:9.1f} GFLOP, {100 * row['share_of_peak']:5.1f} % of peak")
        words.append(f"{row['times_floor']:6.1f} x floor")
    if row.get("peak_bytes") is not None:
        words.append(f"{row['peak_bytes'] / 2**20:8.1f} MB ({row['turn_bytes'] / 2**20:.1f} in the turn)")
    words += [f"{name} {seconds:.3f}" for name, seconds in row["parts"].items()]
    return "   ".join(words)


def ratio_words(ratio: Figures | None, baseline: str) -> list[str]:
    """Time over the baseline's, and how many times faster that is."""
    if ratio is None:
        return []
    low, middle, high = ratio["quarter"], ratio["median"], ratio["three_quarters"]
    return [f"{middle:.3f} x {baseline} [{low:.3f}, {high:.3f}], {1 / middle:5.2f} x as fast"]


def sweep_table(cases: Sequence[Figures]) -> str:
    """One line for each case: its axes, and the ratio of every contender to the baseline."""
    lines = []
    for case in cases:
        where = "  ".join(f"{name} {value!s:>7}" for name, value in case["axes"].items())
        found = "   ".join(
            f"{name} {row['ratio']['median']:.3f}" if row.get("ratio") else f"{name} {row.get('failure', '-')}"
            for name, row in case["contenders"].items()
            if name != case["baseline"]
        )
        lines.append(f"  {where}   {found}")
    return "\n".join(lines)


def worst(cases: Iterable[Figures]) -> Figures | None:
    """The largest median ratio of any contender but the baseline, and where; None where there is none."""
    found = [
        {"ratio": row["ratio"]["median"], "contender": name, "title": case["title"], "axes": case["axes"]}
        for case in cases
        for name, row in case["contenders"].items()
        if name != case["baseline"] and row.get("ratio")
    ]
    return max(found, key=lambda one: one["ratio"], default=None)
