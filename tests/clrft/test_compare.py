"""Means, spreads, paired differences and figures over class orders, and what must not be mixed."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rcParams
from PIL import Image
from scipy import stats

from clrft.analysis import paired_tests as paired
from clrft.analysis.compare import Comparison, Paired, compare, summarise
from clrft.analysis.comparison_tables import comparison_parts, to_csv
from clrft.analysis.figures import comparison_figures, curve_over_orders, styles
from clrft.analysis.pairs import pairs_table, pairs_to_csv
from clrft.analysis.render import to_markdown
from clrft.analysis.table import show
from clrft.report.comparison import write_comparison
from clrft.report.headline import answers as headline_answers
from clrft.report.parts import Subject
from clrft.runs.read import RunRecord
from eval.metrics import Value, forgetting_by_stage, seen_accuracy
from task_streams.errors import UserError
from tests.clrft.run_folders import csv_row, record, terminal


def run(sweep: Path, method: str, seed: int = 1, last: tuple[int, int] = (50, 50), **more: Any) -> RunRecord:
    """A run of two tasks: 90 on the first, then ``last`` on both, in percent."""
    return record(sweep, method, seed, [[90, None], list(last)], **more)


@pytest.fixture(scope="module")
def three_methods(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    """last_acc of orders 1, 2, 3: sft 50, 60, 70; grpo 60, 75, 75; zero_shot 40, 40, 40."""
    sweep, last = tmp_path_factory.mktemp("s"), {"grpo": (60, 75, 75), "sft": (50, 60, 70), "zero_shot": (40, 40, 40)}
    return [run(sweep, name, seed, (x - 5, x + 5)) for name, xs in last.items() for seed, x in enumerate(xs, start=1)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    """What figures are made of: the floor, a method in two orders, joint training."""
    sweep, steps = tmp_path_factory.mktemp("d"), [{"step": n, "reward": 1 + n / 10, "kl": n / 100} for n in range(1, 5)]
    return [
        record(sweep, "zero_shot", 1, [[40, None], [30, 30]]),
        record(sweep, "grpo", 1, [[90, None], [60, 80]], steps=steps),
        record(sweep, "grpo", 2, [[70, None], [60, 60]], steps=steps),
        record(sweep, "joint_grpo", 1, [[None, None], [85, 95]], steps=steps),
    ]


def pair(comparison: Comparison, metric: str, first: str, second: str) -> Paired:
    (found,) = [p for p in comparison.pairs if (p.metric, p.first, p.second) == (metric, first, second)]
    return found


def test_mean_and_sample_deviation_over_orders_with_every_value_beside() -> None:
    values = {1: Value(0.5), 2: Value(0.6), 3: Value(0.7)}
    three, one = summarise(values), summarise({1: Value(0.5)})
    assert (three.mean, three.std) == pytest.approx((0.6, 0.1))  # sqrt((0.01 + 0 + 0.01) / 2)
    assert (three.reason, show(three), three.values) == (None, "60.0 ± 10.0", values)
    assert (one.mean, one.std, one.reason, show(one)) == (0.5, None, None, "50.0")  # one order has no spread
    partly = summarise({1: Value(0.5), 2: Value(None, "not evaluated")})
    assert (partly.mean, partly.std, partly.reason) == (None, None, "not evaluated (orders 2)")
    assert show(partly) == "–" and partly.known() == {1: 0.5}


def test_methods_are_paired_over_class_orders_with_students_interval(three_methods: list[RunRecord]) -> None:
    found = pair(compare(three_methods), "last_acc", "grpo", "sft")
    assert found.differences == pytest.approx({1: 0.10, 2: 0.15, 3: 0.05})
    # Mean 10, s = 5, t(0.975, 2) = 4.302653, half = 4.302653 * 5 / sqrt(3) = 12.4207.
    assert (found.mean, found.std) == pytest.approx((0.10, 0.05))
    assert (found.tests.t_low, found.tests.t_high) == pytest.approx((0.10 - 0.124207, 0.10 + 0.124207), abs=1e-6)


def test_only_orders_that_both_methods_were_run_in_are_paired(tmp_path: Path) -> None:
    records = [run(tmp_path, "sft", 1), run(tmp_path, "sft", 2), run(tmp_path, "grpo", 2, (60, 60))]
    comparison = compare([*records, run(tmp_path, "grpo", 3)])
    found = pair(comparison, "last_acc", "grpo", "sft")
    assert found.differences == pytest.approx({2: 0.1})
    assert (found.std, found.tests.t_low, found.tests.t_high) == (None, None, None)
    assert any("different class orders" in note for note in comparison.notes)


def test_the_floor_comes_first_and_joint_training_last(three_methods: list[RunRecord], tmp_path: Path) -> None:
    records = [*three_methods, run(tmp_path, "mine", 1, (1, 1))]
    comparison = compare([record(tmp_path, "joint_sft", 1, [[None, None], [80, 90]]), *records])
    assert [group.method for group in comparison.groups] == ["zero_shot", "sft", "grpo", "mine", "joint_sft"]
    assert not any("no floor" in note for note in comparison.notes)
    assert any("no zero_shot run" in note for note in compare(records[:2]).notes)


def test_one_joint_method_gives_the_others_their_intransigence_two_do_not(tmp_path: Path) -> None:
    sft = run(tmp_path / "s", "sft", 1, (50, 85))
    joint = [record(tmp_path / "s", f"joint_{m}", 1, [[None, None], [95, 97]]) for m in ("sft", "grpo")]
    groups = compare([sft, joint[0]]).groups
    assert groups[0].metrics["intransigence"].mean == pytest.approx(0.085)  # ((95 - 90) + (97 - 85)) / 2
    assert [groups[1].metrics[key].mean for key in ("forgetting", "last_acc")] == [None, pytest.approx(0.96)]
    assert compare([sft, *joint]).groups[0].metrics["intransigence"].mean is None  # neither is the upper bound


USUAL = {"learning_rate": 1e-4, "kl": 0.1, "alpha": 20}


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        # two settings of one method
        ([{"learning_rate": x} for x in (1e-4, 1e-5)], [f"train.learning_rate={x}" for x in ("0.0001", "1e-05")]),
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
    expected = [f"rapo [{label}]" if label else "rapo" for label in labels]
    comparison = compare([run(tmp_path / str(i), "rapo", config={"train": one}) for i, one in enumerate(settings)])
    assert [group.label for group in comparison.groups] == expected
    text = terminal(comparison_parts(comparison), width=200)
    assert all(label in text for label in expected)  # brackets are shown as they are


def test_seed_place_and_what_changes_no_result_are_no_settings_but_streams_are_compared_apart(tmp_path: Path) -> None:
    streams = {seed: {"name": "digits_cil", "shots": 5, "order_seed": seed} for seed in (5, 2)}  # 5 is both
    records = [run(tmp_path / str(seed), "sft", seed, config={"stream": streams[seed]}) for seed in streams]
    assert [group.label for group in compare(records).groups] == ["sft"]
    sft, more_workers = run(tmp_path, "sft"), {"train": {"learning_rate": 1e-4, "workers": 2}}
    notes = compare([sft, run(tmp_path, "grpo", config=more_workers)]).notes
    assert any("also differ in train.workers" in note for note in notes)
    comparison = compare([sft, run(tmp_path, "sft", stream="digits_dil")])
    assert ([*comparison.streams], comparison.pairs) == (["digits_cil", "digits_dil"], ())


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    first, again = (run(tmp_path / name, "sft") for name in ("a", "b"))
    shorter = record(tmp_path / "a", "grpo", 1, [[50]])
    for records, told in (
        ([first, again], "order 1 was given 2 times with the same settings"),
        ([first, shorter], "1 and 2 tasks"),
        ([], "no complete run"),
    ):
        with pytest.raises(UserError, match=told):
            compare(records)


def test_a_baseline_limits_the_pairs_and_must_exist(three_methods: list[RunRecord]) -> None:
    pairs = compare(three_methods, baseline="sft").pairs
    assert {(found.first, found.second) for found in pairs} == {("zero_shot", "sft"), ("grpo", "sft")}
    with pytest.raises(UserError, match=r"unknown baseline 'sftt'. Did you mean 'sft'\?"):
        compare(three_methods, baseline="sftt")


def test_methods_that_gave_the_same_answers_are_told_as_such_in_place_of_a_difference_of_0(tmp_path: Path) -> None:
    runs = [run(tmp_path, name, seed) for name in ("sft", "sft+idle", "sft+other") for seed in (1, 2)]
    (answers := runs[-1].folder / "task_02" / "predictions.jsonl").write_text(answers.read_text().replace("d/1", "d/2"))
    found = compare(runs)
    # the figures of all three are the same; of one an answer is another
    same = {(one.first, one.second): one.same for one in found.pairs if one.metric == "last_acc"}
    assert same == {("sft+idle", "sft"): True, ("sft+other", "sft"): False, ("sft+other", "sft+idle"): False}
    told = "digits_cil: sft+idle and sft gave the same answers in every order: what tells them apart changed nothing."
    assert told in found.notes and sum("same answers" in note for note in found.notes) == 1
    rows = [line.split() for line in terminal(comparison_parts(found), 120).splitlines()]
    assert ["last_acc", "sft+idle", "−", "sft", "same", "answers", "–", "–", "–", "–", "2"] in rows
    assert any(row[:5] == ["last_acc", "sft+other", "−", "sft", "+0.0"] for row in rows)
    table = pairs_table("pairs", "", [one for one in found.pairs if one.metric == "last_acc"])
    assert {row[1].text: row[2].text for row in table.rows}["sft+idle − sft"] == "same answers"
    answer, *more = headline_answers(compare(runs[:4]).streams["digits_cil"])
    assert answer == "No answer: sft and sft+idle gave the same answers in every order (2 class orders)."
    assert not any("sign-flip" in one for one in more)


def test_answers_that_are_not_there_are_not_the_same(tmp_path: Path) -> None:
    runs = [run(tmp_path, name) for name in ("sft", "sft+idle")]
    for one in runs:
        (one.folder / "task_02" / "predictions.jsonl").unlink()
    assert not any(one.same for one in compare(runs).pairs)


def test_tables_show_percent_every_order_pairs_and_what_is_undefined(three_methods: list[RunRecord]) -> None:
    parts = comparison_parts(compare(three_methods))
    text = terminal(parts, width=200)
    assert all(piece in text for piece in ("zero_shot (floor)", "60.0 ± 10.0", "grpo − sft", "order 2", "task 2"))
    text = to_markdown(parts)
    assert "| last_acc | sft | 60.0 ± 10.0 | 50.0 | 60.0 | 70.0 |" in text
    assert "| zero_shot (floor) | 3 | 40.0 ± 0.0 |" in text
    # Mean +10, s 5: p and the bootstrap as below; Holm: 3 pairs, p = 0.25 each, 3 x 0.25 = 0.75.
    assert "| last_acc | grpo − sft | +10.0 | 5.0 | −2.4 to +22.4 | +5.0 to +15.0 | 0.25 (0.75) | 1 / 2 | 3 |" in text
    assert "With 3 orders p is never below 0.25" in text
    assert "- `fwt`: undefined here (not evaluated: R[j-1,j]: future tasks)" in text
    assert "nan" not in text.lower()


def test_csv_holds_fractions_and_leaves_the_unmeasured_empty(three_methods: list[RunRecord]) -> None:
    comparison = compare(three_methods)
    sft, unmeasured = (csv_row(to_csv(comparison), method="sft", metric=metric) for metric in ("last_acc", "fwt"))
    assert sft["n"] == "3"
    assert (float(sft["mean"]), float(sft["order_3"])) == pytest.approx((0.6, 0.7))
    assert (unmeasured["mean"], unmeasured["order_1"]) == ("", "")
    assert unmeasured["undefined"] == "not evaluated: R[j-1,j]: future tasks"
    pairs = pairs_to_csv(comparison.pairs, comparison.mixed_by_stream())
    assert math.isclose(float(csv_row(pairs, metric="last_acc", first="grpo", second="sft")["mean"]), 0.1)


def test_matrices_and_curves_are_means_over_orders(drawn: list[RunRecord]) -> None:
    floor, grpo, _ = compare(drawn).groups
    mean, std = curve_over_orders(grpo, seen_accuracy)
    np.testing.assert_allclose(mean, [0.8, 0.65])  # (90 + 70)/2; ((60+80)/2 + (60+60)/2)/2
    assert std is not None
    np.testing.assert_allclose(std, [np.sqrt(0.02), np.sqrt(0.005)])  # 0.9, 0.7; 0.7, 0.6: |difference| / sqrt 2
    np.testing.assert_allclose(curve_over_orders(grpo, forgetting_by_stage)[0], [np.nan, 0.2])  # (30 + 10)/2
    assert curve_over_orders(floor, seen_accuracy)[1] is None  # one order has no band


def test_what_is_drawn_is_what_was_computed_in_percent(drawn: list[RunRecord]) -> None:
    made = comparison_figures(compare(drawn).groups, "digits_cil")
    # matrices share one scale from zero to all right
    images = [axis.images[0] for axis in made["matrices"].axes if axis.images]
    assert {image.get_clim() for image in images} == {(0, 100)}
    np.testing.assert_allclose(np.ma.filled(images[1].get_array(), np.nan), [[80, np.nan], [60, 70]])
    assert [axis.get_title(loc="left") for axis in made["training"].axes] == ["task reward", "KL to the base"]
    lines = {str(line.get_label()): line for line in made["curves"].axes[0].get_lines()}
    # joint training has one point, after task 2
    for label, expected in {"grpo": [80, 65], "zero_shot (frozen base)": [40, 30], "joint_grpo": [90]}.items():
        np.testing.assert_allclose(np.asarray(lines[label].get_ydata()), expected)


def test_a_method_looks_the_same_in_every_comparison_and_settings_differ_by_dash(
    drawn: list[RunRecord], tmp_path: Path
) -> None:
    slow = run(tmp_path, "grpo", 1, (9, 9), config={"train": {"learning_rate": 1e-5}})
    both = compare([*drawn, slow]).groups
    fast, other = (styles(both)[group.label] for group in both if group.method == "grpo")
    assert fast == styles(compare(drawn).groups)["grpo"]
    assert (fast.color, fast.marker) == (other.color, other.marker) and fast.dash != other.dash


def test_all_files_are_written_and_the_global_style_is_left_alone(drawn: list[RunRecord], tmp_path: Path) -> None:
    before = dict(rcParams)
    paths = write_comparison(Subject(compare(drawn)), tmp_path)
    names = ["table.md", "table.csv", "pairs.csv", "matrices.png", "curves.png", "orders.png", "training.png"]
    assert [path.name for path in paths] == names
    for path in paths[3:]:
        with Image.open(path) as image:  # something is drawn
            assert image.width > 600 and len(image.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 20
    assert dict(rcParams) == before


@pytest.mark.parametrize("size", [1, 12])
def test_one_task_and_many_tasks_can_be_drawn(tmp_path: Path, size: int) -> None:
    rows = [[50 if j <= i else None for j in range(size)] for i in range(size)]
    steps = [{"step": 1.0, "reward": 0.5}]
    made = comparison_figures(compare([record(tmp_path, "sft", 1, rows, steps=steps)]).groups, "digits_cil")
    for name, figure in made.items():
        figure.savefig(tmp_path / f"{name}.png")
    assert set(made) == {"matrices", "curves", "orders", "training"}
    floor = compare([record(tmp_path, "zero_shot", 1, rows)]).groups
    assert "training" not in comparison_figures(floor, "digits_cil")  # nothing was recorded


def test_the_sign_flip_test_counts_every_pattern() -> None:
    # Of the 8 patterns of signs of (10, 15, 5) only +++ and --- have a sum as far from 0 as 30: p = 2/8.
    # (1, 2, -4), sum -1. Sums by signs: ±7, ±5 (1 flipped: -1+2+4), ±3 (2 flipped), ±1; all 8 are at least 1 from 0.
    # (3, 3, -1), sum 5: ±7 and ±5 of ±7, ±5, ±1, ±1: p = 4/8.
    # Zeros keep the sum under both signs: (2, 0, 0) has |sum| 2 under every pattern. All zeros: nothing to tell.
    table = np.array([[10, 15, 5], [1, 2, -4], [3, 3, -1], [2, 0, 0], [0, 0, 0], [0.1, 0.1, 0.1]])
    np.testing.assert_allclose(paired.sign_flip_p(table), [0.25, 1.0, 0.5, 1, 1, 0.25])


@pytest.mark.parametrize("count", [2, 5, 9])
def test_the_sign_flip_test_agrees_with_scipys_permutation_test(count: int) -> None:
    table = np.random.default_rng(count).normal(0.4, 1, size=(4, count)).round(2)
    for row, ours in zip(table, paired.sign_flip_p(table), strict=True):
        theirs = stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert ours == pytest.approx(theirs.pvalue, abs=1e-12)


def test_more_orders_than_can_be_counted_out_have_no_p_and_are_none_of_those_that_are_corrected(tmp_path: Path) -> None:
    orders = {"zero_shot": 3, "sft": paired.MOST_EXACT + 1, "grpo": paired.MOST_EXACT + 1}
    last = {"zero_shot": (40, 40)}  # 10 points less than the others, in every order
    some = [(name, seed) for name, count in orders.items() for seed in range(count)]
    found = compare([run(tmp_path, name, seed, last.get(name, (50, 50))) for name, seed in some])
    many, three = (pair(found, "last_acc", *names).tests for names in (("grpo", "sft"), ("sft", "zero_shot")))
    assert (many.p, many.holm) == (None, None)
    assert (three.p, three.smallest_p, three.holm) == (0.25, 0.25, 0.5)  # of two tests that have a p


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    # Sorted 0.01 x 3, 0.03 x 2, 0.04 x 1 = 0.03, 0.06, 0.04; the last is raised to 0.06.
    assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert paired.holm([0.25, 0.75]) == pytest.approx([0.5, 0.75])
    assert paired.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert paired.holm([]) == []


def test_a_bootstrap_interval_of_three_counts_all_resamples_and_reaches_from_the_smallest_to_the_largest() -> None:
    # 27 draws: 3 with one value thrice, 6 patterns (a, a, b) of 3 draws each, 1 pattern (a, b, c) of 6 draws.
    counts, weights = paired.resamples(3)
    assert len(counts) == 10
    assert weights.sum() == pytest.approx(1)
    assert sorted((27 * weights).round().astype(int)) == [1, 1, 1, 3, 3, 3, 3, 3, 3, 6]
    # Symmetric differences: no bias, no acceleration, so the plain percentiles. The smallest mean, 5, has the weight
    # 1/27 = 3.7 % > 2.5 %, and likewise 15.
    np.testing.assert_allclose(paired.bootstrap_intervals(np.array([[10.0, 15, 5]])), [[5, 15]])


@pytest.mark.parametrize("count", [6, 7, 12])
def test_the_bootstrap_agrees_with_scipys(count: int) -> None:
    table = np.random.default_rng(count).normal(0.5, 1, size=(3, count))
    theirs = stats.bootstrap((table,), np.mean, axis=-1, n_resamples=20_000, rng=np.random.default_rng(1))
    np.testing.assert_allclose(
        paired.bootstrap_intervals(table), np.column_stack(theirs.confidence_interval), atol=0.06 * table.std()
    )


def test_equal_differences_and_one_order_say_why_there_is_nothing() -> None:
    equal, one, zero = paired.paired_tests([[1.0, 1, 1], [1.0], [1.0, -1, 0]])
    assert (equal.boot_low, equal.boot_reason) == (None, "all differences are equal")
    assert equal.for_interval == equal.for_power == "all differences are equal"
    assert (one.t_low, one.boot_reason, one.for_power) == (None, *["one order has no spread"] * 2)
    assert zero.for_interval == "the mean difference is 0"


def test_how_many_orders_a_difference_needs() -> None:
    # Two-sided paired t-test at 5 %, power 80 %: G*Power's numbers of pairs for d = 0.2, 0.5, 0.8, 1.0.
    np.testing.assert_array_equal(
        paired.orders_needed(np.array([0.2, 0.5, 0.8, 1.0]), for_power=True), [199, 34, 15, 10]
    )
    np.testing.assert_array_equal(paired.orders_needed(np.array([1e-4, 100.0]), for_power=True), [0, 2])
    # An interval without zero, by the table of t:
    # Mean / s = 1: t(0.975, n-1) / sqrt n is 2.5706 / 2.4495 = 1.05 for n = 6 and 2.4469 / 2.6458 = 0.92 for n = 7.
    # Mean / s = 2: 4.3027 / 1.7321 = 2.48 for n = 3 and 3.1824 / 2 = 1.59 for n = 4.
    np.testing.assert_array_equal(paired.orders_needed(np.array([1.0, 2.0, 1e-4]), for_power=False), [7, 4, 0])
    # (10, 15, 5): mean 10, s 5, d = 2: interval from 4 orders, power from 5 (0.77 with 4 by G*Power, 0.91 with 5).
    few, hopeless = paired.paired_tests([[10, 15, 5], [1, -1, 1e-6]])
    assert (few.for_interval, few.for_power) == (4, 5)
    assert hopeless.for_power == f"more than {paired.MOST_NEEDED} orders"


def test_rows_of_different_lengths_keep_their_places() -> None:
    # Means 2 and 7/3, s 1 and sqrt(7/3); t(0.975, 2) / sqrt(3) = 2.4841.
    tests = paired.paired_tests([[1.0, 2, 3], [5.0], [1.0, 2, 4]])
    assert [test.smallest_p for test in tests] == [0.25, 1.0, 0.25]
    assert (tests[0].t_low, tests[2].t_low) == pytest.approx((2 - 2.4841, 7 / 3 - 2.4841 * (7 / 3) ** 0.5), abs=1e-3)
    assert tests[1].t_low is None
