"""Means, spreads and paired differences over class orders, and what must not be mixed."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clrft.analysis.compare import Comparison, Paired, compare, summarise
from clrft.analysis.comparison_tables import comparison_parts, to_csv
from clrft.analysis.pairs import pairs_to_csv
from clrft.analysis.render import to_markdown, to_terminal
from clrft.analysis.table import show
from clrft.runs.read import RunRecord, read_run
from eval.metrics import Value
from task_streams.errors import UserError
from tests.clrft.run_folders import write_run


def run(sweep: Path, method: str, seed: int, last: tuple[int, int], **more: Any) -> RunRecord:
    """A run of two tasks: 90 on the first, then ``last`` on both, in percent."""
    return read_run(write_run(sweep, method, seed, [[90, None], list(last)], **more))


def three_methods(sweep: Path) -> list[RunRecord]:
    """last_acc of orders 1, 2, 3: sft 50, 60, 70; grpo 60, 75, 75; zero_shot 40, 40, 40."""
    records = [run(sweep, "grpo", seed, (x - 5, x + 5)) for seed, x in ((1, 60), (2, 75), (3, 75))]
    records += [run(sweep, "sft", seed, (x - 10, x + 10)) for seed, x in ((1, 50), (2, 60), (3, 70))]
    return records + [run(sweep, "zero_shot", seed, (40, 40)) for seed in (1, 2, 3)]


def pair(comparison: Comparison, metric: str, first: str, second: str) -> Paired:
    (found,) = [p for p in comparison.pairs if (p.metric, p.first, p.second) == (metric, first, second)]
    return found


def shown(comparison: Comparison) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(to_terminal(comparison_parts(comparison)))
    return capture.get()


@pytest.mark.parametrize(
    ("values", "mean", "std", "reason", "text"),
    [
        ([Value(0.5), Value(0.6), Value(0.7)], 0.6, 0.1, None, "60.0 ± 10.0"),  # sqrt((0.01 + 0 + 0.01) / 2)
        ([Value(0.5)], 0.5, None, None, "50.0"),  # one order has no spread
        ([Value(0.5), Value(None, "not evaluated")], None, None, "not evaluated (orders 2)", "–"),
    ],
)
def test_mean_and_sample_deviation_over_orders_with_every_value_beside(
    values: list[Value], mean: float | None, std: float | None, reason: str | None, text: str
) -> None:
    summary = summarise(dict(enumerate(values, start=1)))
    assert [summary.mean, summary.std] == [None if one is None else pytest.approx(one) for one in (mean, std)]
    assert (summary.reason, show(summary)) == (reason, text)
    assert list(summary.values.values()) == values


def test_methods_are_paired_over_class_orders_with_students_interval(tmp_path: Path) -> None:
    found = pair(compare(three_methods(tmp_path / "s")), "last_acc", "grpo", "sft")
    assert found.differences == pytest.approx({1: 0.10, 2: 0.15, 3: 0.05})
    # Mean 10, s = 5, t(0.975, 2) = 4.302653, half = 4.302653 * 5 / sqrt(3) = 12.4207.
    assert (found.mean, found.std) == pytest.approx((0.10, 0.05))
    assert (found.tests.t_low, found.tests.t_high) == pytest.approx((0.10 - 0.124207, 0.10 + 0.124207), abs=1e-6)


def test_only_orders_that_both_methods_were_run_in_are_paired(tmp_path: Path) -> None:
    records = [run(tmp_path / "s", "sft", seed, (50, 50)) for seed in (1, 2)]
    comparison = compare([*records, run(tmp_path / "s", "grpo", 2, (60, 60)), run(tmp_path / "s", "grpo", 3, (9, 9))])
    found = pair(comparison, "last_acc", "grpo", "sft")
    assert found.differences == pytest.approx({2: 0.1})
    assert (found.std, found.tests.t_low, found.tests.t_high) == (None, None, None)
    assert any("different class orders" in note for note in comparison.notes)


def test_the_floor_comes_first_and_joint_training_last(tmp_path: Path) -> None:
    records = [*three_methods(tmp_path / "s"), run(tmp_path / "s", "mine", 1, (1, 1))]
    joint = write_run(tmp_path / "s", "joint_sft", 1, [[None, None], [80, 90]])
    comparison = compare([read_run(joint), *records])
    assert [group.method for group in comparison.groups] == ["zero_shot", "sft", "grpo", "mine", "joint_sft"]
    assert not any("no floor" in note for note in comparison.notes)
    assert any("no zero_shot run" in note for note in compare(records[:2]).notes)


def test_one_joint_method_gives_the_others_their_intransigence_two_do_not(tmp_path: Path) -> None:
    sft = run(tmp_path / "s", "sft", 1, (50, 85))
    joint = [read_run(write_run(tmp_path / "s", f"joint_{m}", 1, [[None, None], [95, 97]])) for m in ("sft", "grpo")]
    groups = compare([sft, joint[0]]).groups
    assert groups[0].metrics["intransigence"].mean == pytest.approx(0.085)  # ((95 - 90) + (97 - 85)) / 2
    assert groups[1].metrics["forgetting"].mean is None
    assert groups[1].metrics["last_acc"].mean == pytest.approx(0.96)
    assert compare([sft, *joint]).groups[0].metrics["intransigence"].mean is None  # neither is the upper bound


USUAL = {"learning_rate": 1e-4, "kl": 0.1, "alpha": 20}


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        # two settings of one method
        (
            [{"learning_rate": 1e-4}, {"learning_rate": 1e-5}],
            ["train.learning_rate=0.0001", "train.learning_rate=1e-05"],
        ),
        # an ablation: rows that differ from a common one in one setting each are named by it
        (
            [USUAL, USUAL | {"kl": 0.0}, USUAL | {"alpha": 10}, USUAL | {"alpha": 40}],
            ["", "train.alpha=10", "train.alpha=40", "train.kl=0.0"],
        ),
        # a grid: named by all that differs
        (
            [{"kl": kl, "alpha": alpha} for kl in (0, 1) for alpha in (10, 20)],
            [f"train.alpha={alpha}, train.kl={kl}" for alpha in (10, 20) for kl in (0, 1)],
        ),
    ],
)
def test_runs_of_one_method_with_other_settings_are_kept_apart_and_named(
    settings: list[dict[str, float]], labels: list[str], tmp_path: Path
) -> None:
    records = [
        run(tmp_path / str(i), "rapo", 1, (50, 50), config={"train": values}) for i, values in enumerate(settings)
    ]
    expected = [f"rapo [{label}]" if label else "rapo" for label in labels]
    comparison = compare(records)
    assert [group.label for group in comparison.groups] == expected
    assert all(label in shown(comparison) for label in expected)  # brackets are shown as they are


def test_seed_and_place_of_a_run_are_no_settings(tmp_path: Path) -> None:
    seeded = {  # seed 5 is also the number of shots
        seed: {"stream": {"name": "digits_cil", "shots": 5, "order_seed": seed}} for seed in (5, 2)
    }
    records = [run(tmp_path / str(seed), "sft", seed, (50, 50), config=config) for seed, config in seeded.items()]
    assert [group.label for group in compare(records).groups] == ["sft"]


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    first, again = (run(tmp_path / name, "sft", 1, (50, 50)) for name in ("a", "b"))
    with pytest.raises(UserError, match="order 1 was given 2 times with the same settings"):
        compare([first, again])
    with pytest.raises(UserError, match="1 and 2 tasks"):
        compare([first, read_run(write_run(tmp_path / "a", "grpo", 1, [[50]]))])
    with pytest.raises(UserError, match="no complete run"):
        compare([])


def test_settings_that_change_no_result_are_only_named(tmp_path: Path) -> None:
    other = {"train": {"learning_rate": 1e-4, "workers": 2}}
    records = [run(tmp_path / "s", "sft", 1, (50, 50)), run(tmp_path / "t", "grpo", 1, (60, 60), config=other)]
    assert any("also differ in train.workers" in note for note in compare(records).notes)


def test_a_baseline_limits_the_pairs_and_must_exist(tmp_path: Path) -> None:
    records = three_methods(tmp_path / "s")
    pairs = compare(records, baseline="sft").pairs
    assert {(found.first, found.second) for found in pairs} == {("zero_shot", "sft"), ("grpo", "sft")}
    with pytest.raises(UserError, match=r"unknown baseline 'sftt'. Did you mean 'sft'\?"):
        compare(records, baseline="sftt")


def test_streams_are_compared_apart(tmp_path: Path) -> None:
    records = [run(tmp_path / "s", "sft", 1, (50, 50)), run(tmp_path / "s", "sft", 1, (60, 60), stream="digits_dil")]
    comparison = compare(records)
    assert comparison.streams() == ["digits_cil", "digits_dil"]
    assert comparison.pairs == ()


def test_markdown_shows_percent_every_order_and_what_is_undefined(tmp_path: Path) -> None:
    text = to_markdown(comparison_parts(compare(three_methods(tmp_path / "s"))))
    assert "| last_acc | sft | 60.0 ± 10.0 | 50.0 | 60.0 | 70.0 |" in text
    assert "| zero_shot (floor) | 3 | 40.0 ± 0.0 |" in text
    # Mean +10, s 5: p and the bootstrap as in test_paired_tests; Holm: 3 pairs, p = 0.25 each, 3 x 0.25 = 0.75.
    assert "| last_acc | grpo − sft | +10.0 | 5.0 | −2.4 to +22.4 | +5.0 to +15.0 | 0.25 (0.75) | 1 / 2 | 3 |" in text
    assert "With 3 orders p is never below 0.25" in text
    assert "- `fwt`: undefined here (not evaluated: R[j-1,j]: future tasks)" in text
    assert "nan" not in text.lower()


def test_csv_holds_fractions_and_leaves_the_unmeasured_empty(tmp_path: Path) -> None:
    comparison = compare(three_methods(tmp_path / "s"))
    rows = {(row["method"], row["metric"]): row for row in csv.DictReader(io.StringIO(to_csv(comparison)))}
    sft = rows["sft", "last_acc"]
    assert sft["n"] == "3"
    assert (float(sft["mean"]), float(sft["order_3"])) == pytest.approx((0.6, 0.7))
    assert (rows["sft", "fwt"]["mean"], rows["sft", "fwt"]["order_1"]) == ("", "")
    assert rows["sft", "fwt"]["undefined"] == "not evaluated: R[j-1,j]: future tasks"
    pairs = list(csv.DictReader(io.StringIO(pairs_to_csv(comparison.pairs, comparison.mixed_by_stream()))))
    (row,) = [p for p in pairs if (p["metric"], p["first"], p["second"]) == ("last_acc", "grpo", "sft")]
    assert math.isclose(float(row["mean"]), 0.1)


def test_the_terminal_shows_the_floor_the_spread_and_the_pairs(tmp_path: Path) -> None:
    text = shown(compare(three_methods(tmp_path / "s")))
    assert all(piece in text for piece in ("zero_shot (floor)", "60.0 ± 10.0", "grpo − sft", "order 2", "task 2"))
