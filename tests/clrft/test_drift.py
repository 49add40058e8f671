"""Drift: correlations against scipy, fits by hand, tables and pictures of written runs, real runs; mixed runs."""

import csv
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from clrft.analysis.compare import Comparison, compare
from clrft.analysis.drift import DriftStudy, correlation, drift_parts, drift_study, quadratic
from clrft.analysis.outputs import pictures_of
from clrft.analysis.render import to_markdown
from clrft.analysis.study_figures import drift_figures
from clrft.cli.main import main
from clrft.config.run_config import RunConfig, build_config
from clrft.runner import stage
from clrft.runner.run import run
from clrft.runs.read import find_runs, read_run
from clrft.utils.progress import Silent
from eval.metrics import mean_kl
from tests.clrft.run_folders import LEARNED, record, write_run
from tests.clrft.test_costs import TRAIN, spent, with_costs
from tests.clrft.test_run import same_weights


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
    for method, kl, first in (("sft", 0.4, 40), ("grpo", 0.2, 60), ("rapo", 0.1, 70)):
        for seed, last in ((1, first), (2, first - 2)):
            folder = write_run(sweep, method, seed, [[90, None, None], [90, 80, None], [last, last - 10, 85]])
            with_drift(folder, {task: figures(kl + 0.01 * seed, task, kl * task / 10) for task in (1, 2, 3)})
    write_run(sweep, "zero_shot", 1, [[50, None, None], [40, 50, None], [40, 40, 50]])
    return sweep


@pytest.fixture(scope="module")
def study(sweep: Path) -> DriftStudy:
    return drift_study(compare(find_runs([sweep]).runs))


def test_the_correlation_is_scipys_and_its_interval_that_of_drawn_orders() -> None:
    generator = np.random.RandomState(0)
    rows = [(seed, *generator.normal(size=2).tolist()) for seed in (1, 2, 3) for _ in range(5)]
    found = correlation(rows)
    points = np.array(rows).reshape(3, 5, 3)[:, :, 1:]

    def scipys(*orders: int) -> float:
        return float(stats.spearmanr(np.concatenate([points[order] for order in orders])).statistic)

    assert (found.rho, found.n, found.orders) == (pytest.approx(scipys(0, 1, 2)), 15, 3)
    assert found.by_order == pytest.approx({seed: scipys(seed - 1) for seed in (1, 2, 3)})
    # the ten ways to draw three orders out of three; one order three times has a chance of 1/27
    ways = [scipys(*orders) for orders in itertools.combinations_with_replacement(range(3), 3)]
    # 2.5 % lies inside of the lowest way, whose chance is at least 1/27 = 3.7 %
    assert (found.low, found.high) == pytest.approx((min(ways), max(ways)), abs=1e-9)


def test_one_order_has_no_interval_and_too_few_points_no_correlation() -> None:
    one = correlation([(1, float(i), float(i * i)) for i in range(5)])
    assert (one.rho, one.low, one.high) == (pytest.approx(1.0), None, None)
    few, flat = correlation([(1, 0.0, 1.0), (2, 1.0, 2.0)]), correlation([(1, float(i), 1.0) for i in range(5)])
    assert few.reason == "2 points, expected at least 4" and "does not vary" in str(flat.reason)
    assert (few.rho, flat.rho, correlation([]).rho) == (None, None, None)


def test_a_quadratic_is_found_again_and_its_r2_is_the_share_explained() -> None:
    exact = quadratic([(x, 1 + 2 * x - 3 * x * x) for x in (0.0, 1.0, 2.0, 3.0)])
    assert exact == pytest.approx((1.0, 2.0, -3.0, 1.0))
    # y = x^2 at -1, 0, 1 twice each, once 1 too high and once 1 too low; residual 6, about the mean 2/3: 6 + 4/3
    points = [(x, x * x + e) for x in (-1.0, 0.0, 1.0) for e in (-1.0, 1.0)]
    assert quadratic(points) is None  # three places bear no curve of three coefficients
    points += [(2.0, 3.0), (2.0, 5.0)]
    # heights 0 2 -1 1 0 2 3 5: mean 1.5, squares about it 26; residuals 8 times 1
    assert quadratic(points) == pytest.approx((0.0, 0.0, 1.0, 1 - 8 / 26), abs=1e-9)
    assert quadratic([(float(i), 1.0) for i in range(6)]) is None


def test_kl_of_a_run_is_the_mean_over_the_stages_that_have_one() -> None:
    stages = {1: figures(0.2, 1, None), 2: figures(0.4, 2, 0.1)}
    assert mean_kl("kl_base", stages)["kl_base/forward"].value == pytest.approx(0.3)
    assert mean_kl("kl_prev", stages)["kl_prev/reverse"].value == pytest.approx(0.2)
    assert mean_kl("kl_prev", {1: stages[1]})["kl_prev/forward"].reason == "before task 1 there is only the base"
    assert "not measured" in str(mean_kl("kl_base", {})["kl_base/forward"].reason)


def test_points_relations_and_spreads_are_those_of_the_files(study: DriftStudy) -> None:
    (one,) = study.streams.values()
    assert len(one.points) == 6
    sft = next(point for point in one.points if (point.label, point.seed) == ("sft", 1))
    names = ("kl_base_forward", "kl_prev_forward", "forgetting")
    assert [sft.values[name] for name in names] == pytest.approx([0.41, 0.205, 0.5])
    assert "forgetting_weights" not in sft.values  # undefined in these runs
    found = next(r for r in one.relations if (r.measure, r.outcome) == ("kl_base_forward", "forgetting"))
    assert found.correlation.rho == pytest.approx(1.0)
    assert found.correlation.low in (None, pytest.approx(1.0))
    spread = next(s for s in one.spreads if (s.group.label, s.name) == ("grpo", "spread_prev"))
    assert spread.means() == pytest.approx({2: 0.04, 3: 0.06})
    assert spread.trend.rho == pytest.approx(1.0)


def test_results_that_are_not_those_of_the_stages_are_left_out(sweep: Path, tmp_path: Path) -> None:
    file = shutil.copytree(sweep / "digits_cil-sft-1", tmp_path / "digits_cil-sft-1") / "metrics.json"
    file.write_text(file.read_text().replace("0.41", "0.43"))
    (left_out,) = find_runs([tmp_path]).left_out
    assert left_out.fault == "damaged" and "kl_base/forward" in left_out.reason


def test_tables_have_units_and_dashes(study: DriftStudy) -> None:
    text = to_markdown(drift_parts(study))
    for piece in (
        *("| forgetting | kl_base_forward | 6 | +1.00 |", "| sft | 2 | 51.0 | – | 0.4150 |", "thousandths of a nat"),
        *("| method | groups | task 2 | task 3 |", "| grpo | equal rewards | 40.0 | 60.0 | +1.00 |"),
    ):
        assert piece in text
    assert study.without == ["digits_cil: zero_shot has no drift: nothing was trained, or it was not measured."]
    assert study.without[0] in text


def test_every_run_is_a_mark_and_the_curve_is_drawn(study: DriftStudy) -> None:
    made = drift_figures(study.streams["digits_cil"])
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


def small(output: Path, method: str, prompts: int = 2, **model: object) -> RunConfig:
    """Two tasks of two updates."""
    layer = {
        "stream": {"tasks": 2, "shots": 4, "test_per_class": 2},
        "train": {"updates": 2, "prompts_per_update": 4},
        "evaluate": {"probe": 0, "drift_prompts": prompts},
        "model": model,
        "run": {"output": str(output), "mlflow": False},
    }
    return build_config("digits_cil", method, "tiny", 1993, layer)


def drift_of(folder: Path, task: int) -> dict[str, Any]:
    return json.loads((folder / f"task_{task:02d}" / "metrics.json").read_text())["drift"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("method", "adapter"), [("rapo", "none"), ("sft", "lora")])
def test_a_test_that_was_cut_is_done_again_with_the_same_drift(
    method: str, adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(small(tmp_path / "whole", method, adapter=adapter), Silent())
    cut = small(tmp_path / "cut", method, adapter=adapter)

    def fails(state: Any, number: int, record: Any) -> None:
        if number == 2:
            raise InterruptedError("cut")
        tested(state, number, record)

    tested = stage.evaluate_stage
    with monkeypatch.context() as patch:
        patch.setattr(stage, "evaluate_stage", fails)
        with pytest.raises(InterruptedError):
            run(cut, Silent())
    run(cut, Silent())
    for task in (1, 2):
        assert drift_of(cut.folder, task) == drift_of(whole, task)
        rows, again = ((folder / f"task_{task:02d}" / "drift.jsonl").read_text() for folder in (whole, cut.folder))
        assert again == rows and len(rows.splitlines()) == 2
    first, second = drift_of(whole, 1), drift_of(whole, 2)
    assert first["kl_prev_forward"] is None and "only the base" in first["undefined"]["kl_prev_forward"]
    assert second["kl_prev_forward"] > 0 and second["kl_base_reverse"] > 0
    metrics = read_run(whole).metrics
    assert metrics["kl_base/forward"].value == pytest.approx((first["kl_base_forward"] + second["kl_base_forward"]) / 2)
    assert metrics["kl_prev/reverse"].value == pytest.approx(second["kl_prev_reverse"])


def test_measuring_leaves_training_as_it_is(tmp_path: Path) -> None:
    measured = run(small(tmp_path / "measured", "grpo"), Silent())
    plain = run(small(tmp_path / "plain", "grpo", prompts=0), Silent())
    assert same_weights(measured, plain, 2)
    assert len({(folder / "task_02" / "predictions.jsonl").read_text() for folder in (measured, plain)}) == 1
    assert drift_of(plain, 2) == {} and not (plain / "task_02" / "drift.jsonl").exists()
    assert "not measured" in str(read_run(plain).metrics["kl_base/forward"].reason)


def test_joint_training_is_compared_with_the_base_alone_and_the_frozen_base_with_nothing(tmp_path: Path) -> None:
    found = drift_of(run(small(tmp_path, "joint_sft"), Silent()), 2)
    assert found["kl_base_forward"] > 0 and found["kl_prev_forward"] is None
    assert found["undefined"]["drift_prev"] == "joint training has no task before it"
    folder = run(small(tmp_path, "zero_shot"), Silent())
    assert drift_of(folder, 1) == {} and read_run(folder).metrics["kl_prev/forward"].value is None


def differing(tmp_path: Path) -> list[Path]:
    """A run each of two methods, with 30 and with 60 updates, in two sweeps."""
    folders, steps = [], [{"step": 1, "reward": 0.5, "shaped_reward": 0.5}]
    for sweep, method, updates in (("a", "grpo", 30), ("b", "rapo", 60)):
        config = {"train": {"learning_rate": 1e-4, "updates": updates}}
        folder = write_run(tmp_path / sweep, method, 1, LEARNED, config=config, steps=steps)
        with_costs(folder, {stage: {TRAIN: spent(1e12)} for stage in (1, 2)})
        folders.append(with_drift(folder, {stage: figures(0.1, stage, 0.1) for stage in (1, 2)}))
    return folders


def words(command: str, folders: list[Path], out: Path, *mix: str) -> list[str]:
    return ["analyze", command, *map(str, folders), "-o", str(out), *mix]


@pytest.mark.parametrize(
    ("command", "files"),
    [("costs", ["costs"]), ("drift", ["drift", "drift_runs", "drift_spread"]), ("rewards", ["rewards"])],
)
def test_runs_that_differ_are_refused_or_what_is_mixed_is_told_in_every_output(
    command: str, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, out = differing(tmp_path), tmp_path / "out"
    if command != "rewards":  # each method's own: nothing is set against another
        assert main(words(command, folders, out)) == 2
        said = capsys.readouterr().err
        assert "train.updates is 30 in" in said and "--mix train.updates" in said
        assert not out.exists()
    assert main(words(command, folders, out, *([] if command == "rewards" else ["--mix", "budget"]))) == 0
    told = "the runs differ: digits_cil: train.updates is 30 in"
    assert told in " ".join(capsys.readouterr().out.split())
    assert told in (out / f"{command}.md").read_text()
    for name in files:
        assert {row["mixed"] for row in csv.DictReader((out / f"{name}.csv").open())} == {"train.updates"}


def test_nothing_is_told_where_nothing_is_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(words("costs", differing(tmp_path)[:1], out)) == 0
    assert "the runs differ" not in capsys.readouterr().out + (out / "costs.md").read_text()
    assert {row["mixed"] for row in csv.DictReader((out / "costs.csv").open())} == {""}


def test_a_picture_says_what_is_mixed_and_has_its_streams_name_where_there_are_several(tmp_path: Path) -> None:
    records = [read_run(folder) for folder in differing(tmp_path)]

    def drawn(comparison: Comparison, stream: str) -> tuple[str, Figure]:
        (only,) = pictures_of(comparison, [stream], lambda _: {"costs": Figure()})
        return only

    name, picture = drawn(compare(records, mix=["all"]), "digits_cil")
    assert name == "costs" and [text.get_text() for text in picture.texts] == ["the runs differ: train.updates"]
    other = record(tmp_path / "c", "grpo", 1, stream="signs")
    name, picture = drawn(compare([records[0], other]), "signs")
    assert name == "costs-signs" and not picture.texts


@pytest.mark.parametrize("name", ["rewards", "kinds", "costs", "drift", "ledger"])
def test_a_command_under_its_former_name_says_where_it_went_and_does_the_same(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", name, str(tmp_path / "none")]) == 2
    found = capsys.readouterr()
    assert main([name, str(tmp_path / "none")]) == 2
    assert capsys.readouterr() == (found.out, f"clrft {name} is now clrft analyze {name}.\n{found.err}")
