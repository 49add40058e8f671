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
from clrft.analysis.paired_tests import paired_tests
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


@pytest.mark.parametrize(
    ("values", "mean", "std", "reason", "shown"),
    [
        ([Value(0.5), Value(0.6), Value(0.7)], 0.6, 0.1, None, "60.0 ± 10.0"),  # sqrt((0.01 + 0 + 0.01) / 2)
        ([Value(0.5)], 0.5, None, None, "50.0"),  # one order has no spread
        ([Value(0.5), Value(None, "not evaluated")], None, None, "not evaluated (orders 2)", "–"),
    ],
)
def test_mean_and_sample_deviation_over_orders_with_every_value_beside(
    values: list[Value], mean: float | None, std: float | None, reason: str | None, shown: str
) -> None:
    summary = summarise(dict(enumerate(values, start=1)))
    assert [summary.mean, summary.std] == [None if one is None else pytest.approx(one) for one in (mean, std)]
    assert (summary.reason, show(summary)) == (reason, shown)
    assert list(summary.values.values()) == values


def test_the_interval_is_students_t_by_hand() -> None:
    # Differences 10, 15, 5: mean 10, s = 5, t(0.975, 2) = 4.302653, half = 4.302653 * 5 / sqrt(3) = 12.4207.
    three, one = paired_tests([[10, 15, 5], [10]])
    assert (three.t_low, three.t_high) == pytest.approx((10 - 12.4207, 10 + 12.4207), abs=1e-4)
    assert (one.t_low, one.t_high) == (None, None)


def test_methods_are_paired_over_class_orders(tmp_path: Path) -> None:
    found = pair(compare(three_methods(tmp_path / "s")), "last_acc", "grpo", "sft")
    assert found.differences == pytest.approx({1: 0.10, 2: 0.15, 3: 0.05})
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


def test_joint_training_gives_the_others_their_intransigence(tmp_path: Path) -> None:
    joint = read_run(write_run(tmp_path / "s", "joint_sft", 1, [[None, None], [95, 97]]))
    groups = compare([run(tmp_path / "s", "sft", 1, (50, 85)), joint]).groups
    assert groups[0].metrics["intransigence"].mean == pytest.approx(0.085)  # ((95 - 90) + (97 - 85)) / 2
    assert groups[1].metrics["forgetting"].mean is None
    assert groups[1].metrics["last_acc"].mean == pytest.approx(0.96)


def test_of_two_joint_methods_neither_is_the_upper_bound(tmp_path: Path) -> None:
    joint = [read_run(write_run(tmp_path / "s", f"joint_{m}", 1, [[None, None], [95, 97]])) for m in ("sft", "grpo")]
    groups = compare([run(tmp_path / "s", "sft", 1, (50, 85)), *joint]).groups
    assert groups[0].metrics["intransigence"].mean is None


def test_runs_of_one_method_with_other_settings_are_kept_apart_and_named(tmp_path: Path) -> None:
    slow = {"train": {"learning_rate": 1e-5}}
    records = [run(tmp_path / "a", "sft", 1, (50, 50)), run(tmp_path / "b", "sft", 1, (60, 60), config=slow)]
    labels = [group.label for group in compare(records).groups]
    assert labels == ["sft [train.learning_rate=0.0001]", "sft [train.learning_rate=1e-05]"]


def test_rows_that_differ_from_a_common_one_in_one_setting_each_are_named_by_it(tmp_path: Path) -> None:
    usual = {"learning_rate": 1e-4, "kl": 0.1, "alpha": 20}
    changes: list[dict[str, float]] = [{}, {"kl": 0.0}, {"alpha": 10}, {"alpha": 40}]
    records = [
        run(tmp_path / str(i), "rapo", 1, (50, 50), config={"train": {**usual, **change}})
        for i, change in enumerate(changes)
    ]
    labels = [group.label for group in compare(records).groups]
    assert labels == ["rapo", "rapo [train.alpha=10]", "rapo [train.alpha=40]", "rapo [train.kl=0.0]"]


def test_rows_of_a_grid_are_named_by_all_that_differs(tmp_path: Path) -> None:
    grid = [{"kl": kl, "alpha": alpha} for kl in (0, 1) for alpha in (10, 20)]
    records = [run(tmp_path / str(i), "rapo", 1, (50, 50), config={"train": one}) for i, one in enumerate(grid)]
    labels = [group.label for group in compare(records).groups]
    assert labels == [f"rapo [train.alpha={alpha}, train.kl={kl}]" for alpha in (10, 20) for kl in (0, 1)]


def test_seed_and_place_of_a_run_are_no_settings(tmp_path: Path) -> None:
    def seeded(seed: int) -> dict[str, Any]:
        return {"stream": {"name": "digits_cil", "shots": 5, "order_seed": seed}}

    records = [run(tmp_path / "a", "sft", 5, (50, 50), config=seeded(5))]  # seed 5 is also the number of shots
    records.append(run(tmp_path / "b", "sft", 2, (60, 60), config=seeded(2)))
    assert [group.label for group in compare(records).groups] == ["sft"]


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    records = [run(tmp_path / name, "sft", 1, (50, 50)) for name in ("a", "b")]
    with pytest.raises(UserError, match="order 1 was given 2 times with the same settings"):
        compare(records)


def test_runs_with_different_numbers_of_tasks_are_refused(tmp_path: Path) -> None:
    records = [run(tmp_path / "s", "sft", 1, (50, 50)), read_run(write_run(tmp_path / "s", "grpo", 1, [[50]]))]
    with pytest.raises(UserError, match="1 and 2 tasks"):
        compare(records)
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
    console = Console(width=120)
    with console.capture() as capture:
        console.print(to_terminal(comparison_parts(compare(three_methods(tmp_path / "s")))))
    shown = capture.get()
    for piece in ("zero_shot (floor)", "60.0 ± 10.0", "grpo − sft", "order 2", "task 2"):
        assert piece in shown


def test_labels_with_brackets_are_shown_as_they_are(tmp_path: Path) -> None:
    slow = {"train": {"learning_rate": 1e-5}}
    records = [run(tmp_path / "a", "sft", 1, (50, 50)), run(tmp_path / "b", "sft", 1, (60, 60), config=slow)]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(to_terminal(comparison_parts(compare(records))))
    assert "sft [train.learning_rate=1e-05]" in capture.get()
