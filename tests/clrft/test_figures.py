"""Figures: what they are computed from, and that every case is drawn and written."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import rcParams
from PIL import Image

from clrft.analysis.compare import compare
from clrft.analysis.figures import comparison_figures, curve_over_orders, mean_matrix, styles
from clrft.report.comparison import write_comparison
from clrft.report.parts import Subject
from clrft.runs.read import RunRecord, read_run
from eval.metrics import forgetting_by_stage, seen_accuracy
from tests.clrft.run_folders import Rows, write_run

STEPS = [{"step": n, "reward": 1.0 + n / 10, "kl": 0.01 * n} for n in range(1, 5)]


def run(sweep: Path, method: str, seed: int, rows: Rows, stream: str = "digits_cil") -> RunRecord:
    steps = [] if method == "zero_shot" else STEPS
    return read_run(write_run(sweep, method, seed, rows, stream=stream, steps=steps))


def records(sweep: Path, stream: str = "digits_cil") -> list[RunRecord]:
    return [
        run(sweep, "zero_shot", 1, [[40, None], [30, 30]], stream),
        run(sweep, "grpo", 1, [[90, None], [60, 80]], stream),
        run(sweep, "grpo", 2, [[70, None], [60, 60]], stream),
        run(sweep, "joint_grpo", 1, [[None, None], [85, 95]], stream),
    ]


def test_matrices_and_curves_are_means_over_orders(tmp_path: Path) -> None:
    floor, grpo, _ = compare(records(tmp_path / "s")).groups
    np.testing.assert_allclose(mean_matrix(grpo), [[0.8, np.nan], [0.6, 0.7]])
    mean, std = curve_over_orders(grpo, seen_accuracy)
    np.testing.assert_allclose(mean, [0.8, 0.65])  # (90 + 70)/2; ((60+80)/2 + (60+60)/2)/2
    assert std is not None
    np.testing.assert_allclose(std, [np.sqrt(0.02), np.sqrt(0.005)])  # 0.9, 0.7; 0.7, 0.6: |difference| / sqrt 2
    np.testing.assert_allclose(curve_over_orders(grpo, forgetting_by_stage)[0], [np.nan, 0.2])  # (30 + 10)/2
    assert curve_over_orders(floor, seen_accuracy)[1] is None  # one order has no band


def test_what_is_drawn_is_what_was_computed_in_percent(tmp_path: Path) -> None:
    made = comparison_figures(compare(records(tmp_path / "s")).groups, "digits_cil")
    # matrices share one scale from zero to all right
    assert {axis.images[0].get_clim() for axis in made["matrices"].axes if axis.images} == {(0, 100)}
    assert [axis.get_title(loc="left") for axis in made["training"].axes] == ["task reward", "KL to the base"]
    lines = {str(line.get_label()): line for line in made["curves"].axes[0].get_lines()}
    np.testing.assert_allclose(np.asarray(lines["grpo"].get_ydata()), [80, 65])
    np.testing.assert_allclose(np.asarray(lines["zero_shot (frozen base)"].get_ydata()), [40, 30])
    np.testing.assert_allclose(np.asarray(lines["joint_grpo"].get_ydata()), [90])  # one point, after task 2


def test_a_method_looks_the_same_in_every_comparison_and_settings_differ_by_dash(tmp_path: Path) -> None:
    slow = write_run(tmp_path / "b", "grpo", 1, [[9, None], [9, 9]], config={"train": {"learning_rate": 1e-5}})
    both = compare([*records(tmp_path / "s"), read_run(slow)]).groups
    fast, other = (styles(both)[group.label] for group in both if group.method == "grpo")
    assert fast == styles(compare(records(tmp_path / "t")).groups)["grpo"]
    assert (fast.color, fast.marker) == (other.color, other.marker)
    assert fast.dash != other.dash


def test_all_files_are_written_and_the_global_style_is_left_alone(tmp_path: Path) -> None:
    before = dict(rcParams)
    found = records(tmp_path / "s")
    paths = write_comparison(Subject(compare(found)), tmp_path / "out")
    names = ["table.md", "table.csv", "pairs.csv", "matrices.png", "curves.png", "orders.png", "training.png"]
    assert [path.name for path in paths] == names
    for path in paths[3:]:
        with Image.open(path) as image:
            assert image.width > 600
            assert len(image.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 20  # something is drawn
    assert dict(rcParams) == before


@pytest.mark.parametrize("size", [1, 12])
def test_one_task_and_many_tasks_can_be_drawn(tmp_path: Path, size: int) -> None:
    rows = [[50 if j <= i else None for j in range(size)] for i in range(size)]
    made = comparison_figures(compare([run(tmp_path / "s", "sft", 1, rows)]).groups, "digits_cil")
    for name, figure in made.items():
        figure.savefig(tmp_path / f"{name}.png")
    assert set(made) == {"matrices", "curves", "orders", "training"}
    floor = compare([run(tmp_path / "f", "zero_shot", 1, rows)]).groups
    assert "training" not in comparison_figures(floor, "digits_cil")  # nothing was recorded
