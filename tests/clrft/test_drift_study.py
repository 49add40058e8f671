"""The study of drift over runs: correlations against scipy, fits by hand, tables and pictures of written runs."""

import csv
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from clrft.analysis.compare import compare
from clrft.analysis.drift import DriftStudy, correlation, drift_parts, drift_study, quadratic
from clrft.analysis.render import to_markdown
from clrft.analysis.study_figures import drift_figures
from clrft.cli.main import main
from clrft.runs.read import find_runs
from eval.metrics import mean_kl
from tests.clrft.run_folders import write_run

METHODS = {"sft": 0.4, "grpo": 0.2, "rapo": 0.1}


def figures(kl: float, task: int, spread: float | None) -> dict[str, Any]:
    """What a probe leaves; the first task has no previous policy."""
    names = ("kl_prev_forward", "kl_prev_reverse", "drift_prev", "retention_prev", "spread_prev", "spread_prev_correct")
    before = dict.fromkeys(names) if task == 1 else {name: kl / 2 for name in names} | {"spread_prev": spread}
    base = {name: kl for name in ("kl_base_forward", "kl_base_reverse", "drift_base", "retention_base")}
    missing = {name: "before task 1 there is only the base" for name, value in before.items() if value is None}
    return {**base, **before, "undefined": missing}


def with_drift(folder: Path, by_task: Mapping[int, Mapping[str, Any]]) -> Path:
    """A written run with figures of its probes."""
    for task, drift in by_task.items():
        file = folder / f"task_{task:02d}" / "metrics.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "drift": drift}))
    results = json.loads((folder / "metrics.json").read_text())
    values = mean_kl("kl_base", by_task) | mean_kl("kl_prev", by_task)
    results["metrics"] |= {key: {"value": one.value, "reason": one.reason} for key, one in values.items()}
    (folder / "metrics.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods in two orders: forgetting 50 points for sft, 30 for grpo, 20 for rapo, 2 more in order 2."""
    sweep = tmp_path_factory.mktemp("drift") / "pilot"
    for method, kl in METHODS.items():
        for seed in (1, 2):
            last = {"sft": 40, "grpo": 60, "rapo": 70}[method] - 2 * (seed - 1)
            run = write_run(sweep, method, seed, [[90, None, None], [90, 80, None], [last, last - 10, 85]])
            with_drift(run, {task: figures(kl + 0.01 * seed, task, kl * task / 10) for task in (1, 2, 3)})
    write_run(sweep, "zero_shot", 1, [[50, None, None], [40, 50, None], [40, 40, 50]])
    return sweep


@pytest.fixture(scope="module")
def study(sweep: Path) -> DriftStudy:
    return drift_study(compare(find_runs([sweep]).runs))


def test_the_correlation_is_scipys_and_its_interval_that_of_drawn_orders() -> None:
    generator = np.random.RandomState(0)
    rows = [(seed, *generator.normal(size=2).tolist()) for seed in (1, 2, 3) for _ in range(5)]
    found = correlation(rows)
    x, y = np.array(rows)[:, 1:].T
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert (found.n, found.orders) == (15, 3)
    for place, seed in enumerate((1, 2, 3)):
        part = slice(5 * place, 5 * place + 5)
        assert found.by_order[seed] == pytest.approx(stats.spearmanr(x[part], y[part]).statistic)
    # the ten ways to draw three orders out of three; one order three times has a chance of 1/27
    ways = []
    for orders in itertools.combinations_with_replacement(range(3), 3):
        drawn = [place for order in orders for place in range(5 * order, 5 * order + 5)]
        ways.append(stats.spearmanr(x[drawn], y[drawn]).statistic)
    # 2.5 % lies inside of the lowest way, whose chance is at least 1/27 = 3.7 %
    assert (found.low, found.high) == pytest.approx((min(ways), max(ways)))


def test_one_order_has_no_interval_and_too_few_points_no_correlation() -> None:
    one = correlation([(1, float(i), float(i * i)) for i in range(5)])
    assert (one.rho, one.low, one.high) == (pytest.approx(1.0), None, None)
    few = correlation([(1, 0.0, 1.0), (2, 1.0, 2.0)])
    assert few.rho is None and few.reason == "2 points, expected at least 4"
    flat = correlation([(1, float(i), 1.0) for i in range(5)])
    assert flat.rho is None and "does not vary" in str(flat.reason)
    assert correlation([]).rho is None


def test_a_quadratic_is_found_again_and_its_r2_is_the_share_explained() -> None:
    exact = quadratic([(x, 1 + 2 * x - 3 * x * x) for x in (0.0, 1.0, 2.0, 3.0)])
    assert exact is not None
    assert exact == pytest.approx((1.0, 2.0, -3.0, 1.0))
    # y = x^2 at -1, 0, 1 twice each, once 1 too high and once 1 too low; residual 6, about the mean 2/3: 6 + 4/3
    points = [(x, x * x + e) for x in (-1.0, 0.0, 1.0) for e in (-1.0, 1.0)]
    assert quadratic(points) is None  # three places bear no curve of three coefficients
    points += [(2.0, 3.0), (2.0, 5.0)]
    noisy = quadratic(points)
    # heights 0 2 -1 1 0 2 3 5: mean 1.5, squares about it 26; residuals 8 times 1
    assert noisy == pytest.approx((0.0, 0.0, 1.0, 1 - 8 / 26), abs=1e-9)
    assert quadratic([(float(i), 1.0) for i in range(6)]) is None


def test_kl_of_a_run_is_the_mean_over_the_stages_that_have_one() -> None:
    stages = {1: figures(0.2, 1, None), 2: figures(0.4, 2, 0.1)}
    assert mean_kl("kl_base", stages)["kl_base/forward"].value == pytest.approx(0.3)
    assert mean_kl("kl_prev", stages)["kl_prev/reverse"].value == pytest.approx(0.2)
    assert mean_kl("kl_prev", {1: stages[1]})["kl_prev/forward"].reason == "before task 1 there is only the base"
    assert "not measured" in str(mean_kl("kl_base", {})["kl_base/forward"].reason)


def test_points_relations_and_spreads_are_those_of_the_files(study: DriftStudy) -> None:
    (one,) = study.streams
    assert len(one.points) == 6
    sft = next(point for point in one.points if (point.label, point.seed) == ("sft", 1))
    names = ("kl_base_forward", "kl_prev_forward", "forgetting")
    assert [sft.values[name] for name in names] == pytest.approx([0.41, 0.205, 0.5])
    assert "forgetting_weights" not in sft.values  # undefined in these runs
    found = next(r for r in one.relations if (r.measure, r.outcome) == ("kl_base_forward", "forgetting"))
    assert found.correlation.rho == pytest.approx(1.0)
    assert (found.correlation.low, found.correlation.high) == (None, None) or found.correlation.low == pytest.approx(1)
    spread = next(s for s in one.spreads if (s.group.label, s.name) == ("grpo", "spread_prev"))
    assert spread.means() == pytest.approx({2: 0.04, 3: 0.06})
    assert spread.trend.rho == pytest.approx(1.0)
    assert study.without == ["digits_cil: zero_shot has no drift: nothing was trained, or it was not measured."]


def test_results_that_are_not_those_of_the_stages_are_left_out(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "digits_cil-sft-1", tmp_path / "digits_cil-sft-1")
    file = tmp_path / "digits_cil-sft-1" / "metrics.json"
    file.write_text(file.read_text().replace("0.41", "0.43"))
    (left_out,) = find_runs([tmp_path]).left_out
    assert left_out.fault == "damaged" and "kl_base/forward" in left_out.reason


def test_tables_have_units_and_dashes(study: DriftStudy) -> None:
    text = to_markdown(drift_parts(study))
    assert "| forgetting | kl_base_forward | 6 | +1.00 |" in text
    assert "| sft | 2 | 51.0 | – | 0.4150 |" in text
    assert "thousandths of a nat" in text and "| method | groups | task 2 | task 3 |" in text
    assert "| grpo | equal rewards | 40.0 | 60.0 | +1.00 |" in text
    assert "zero_shot has no drift" in text


def test_every_run_is_a_mark_and_the_curve_is_drawn(study: DriftStudy) -> None:
    made = drift_figures(study.streams[0])
    axis = made["drift_forgetting"].axes[0]
    assert sum(len(marks.get_offsets()) for marks in axis.collections) == 6
    assert max(y for marks in axis.collections for _, y in marks.get_offsets()) == pytest.approx(52.0)
    (curve,) = axis.lines
    assert len(curve.get_xdata()) == 100
    lines = {line.get_label(): line for line in made["drift_spread"].axes[0].lines}
    assert list(lines["sft"].get_ydata()) == pytest.approx([0.08, 0.12])


def test_the_command_writes_tables_and_pictures(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "drift", str(sweep), "-o", str(tmp_path)]) == 0
    pictures = {f"{name}.{ending}" for name in ("drift_forgetting", "drift_spread") for ending in ("png", "pdf")}
    tables = {"drift.md", "drift.csv", "drift_runs.csv", "drift_spread.csv"}
    assert {path.name for path in tmp_path.iterdir()} == tables | pictures
    rows = list(csv.DictReader((tmp_path / "drift_runs.csv").open()))
    assert [row["label"] for row in rows] == ["sft", "sft", "grpo", "grpo", "rapo", "rapo"]
    assert [float(rows[0][name]) for name in ("kl_base_forward", "forgetting")] == pytest.approx([0.41, 0.5])
    assert "forgetting against drift" in capsys.readouterr().out


def test_runs_without_drift_are_refused_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "s", "zero_shot", 1, [[50, None], [40, 50]])
    assert main(["analyze", "drift", str(tmp_path / "s"), "-o", str(tmp_path / "out")]) == 2
    assert "evaluate.drift_prompts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
