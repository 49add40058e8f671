"""What runs cost: sums over stages by hand, means over class orders, tables, a picture, and seconds over processes."""

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clrft.analysis.compare import Study, compare
from clrft.analysis.costs import GroupCost, cost_of_run, cost_parts, cost_report, costs_to_csv
from clrft.analysis.render import to_markdown
from clrft.analysis.study_figures import costs_figure
from clrft.analysis.table import short
from clrft.cli.main import main
from clrft.config.run_config import RunConfig, build_config
from clrft.runner.cost_timer import Clock, cpu_seconds
from clrft.runner.run import run
from clrft.runs.layout import COUNTS, CPU, EVALUATE, TRAIN, WALL
from clrft.runs.read import read_run
from clrft.utils.progress import Silent
from methods.costs import meter
from tests.clrft.run_folders import write_run

LEARNED = [[90, None], [60, 80]]


def with_costs(folder: Path, stages: dict[int, dict[str, Any]], peak: float = 100.0) -> Path:
    """Write costs into a run's stages."""
    for stage, cost in stages.items():
        file = folder / f"task_{stage:02d}" / "metrics.json"
        more = {"cost": cost, "seconds": dict.fromkeys(cost, 1.0), "peak_memory_mb": {"peak_memory_mb": peak + stage}}
        file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return folder


def spent(flops: float, **more: float) -> dict[str, float]:
    return {"model_flops": flops, "tokens_generated": 10.0, WALL: 7200.0, CPU: 3600.0, **more}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two orders of grpo with 3e12 and 5e12 operations, one order of sft with 1e12, and the floor."""
    root = tmp_path_factory.mktemp("runs")
    for method, seed, activity, first, second in (
        ("grpo", 1, TRAIN, 1e12, 2e12),
        ("grpo", 2, TRAIN, 3e12, 2e12),
        ("sft", 1, TRAIN, 4e11, 6e11),
        ("zero_shot", 1, EVALUATE, 1e9, 1e9),
    ):
        folder = write_run(root, method, seed, LEARNED)
        with_costs(folder, {1: {activity: spent(first)}, 2: {activity: spent(second)}})
    return root


@pytest.fixture(scope="module")
def report(runs: Path) -> Study[list[GroupCost]]:
    return cost_report(compare([read_run(file.parent) for file in sorted(runs.rglob("manifest.json"))]))


def test_costs_are_sums_over_stages_and_means_over_orders(report: Study[list[GroupCost]]) -> None:
    assert COUNTS == meter.COUNTS
    floor, sft, grpo = report.streams["digits_cil"]
    flops = grpo.figures[TRAIN, "model_flops"]
    assert flops.mean == 4e12 and flops.std == pytest.approx(2**0.5 * 1e12)  # 3e12 and 5e12
    assert sft.figures[TRAIN, "model_flops"].mean == 1e12 and sft.figures[TRAIN, CPU].mean == 7200
    assert (TRAIN, "model_flops") not in floor.figures
    assert grpo.memory == {"peak_memory_mb": 102.0}  # the highest of any stage


def test_what_was_not_counted_is_undefined_and_no_zero_and_runs_without_any_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "sft", 1, LEARNED)
    without = cost_report(compare([read_run(folder)]))
    assert not without.streams and "sft: its runs did not count" in without.without[0]
    with_costs(folder, {1: {TRAIN: spent(1.0)}, 2: {TRAIN: {WALL: 5.0}}})
    figures, _ = cost_of_run(read_run(folder))
    assert figures[TRAIN, "model_flops"].value is None
    assert figures[TRAIN, "model_flops"].reason == "not counted in stage 2"
    assert figures[TRAIN, WALL].value == 7205.0


def test_tables_hold_the_numbers(report: Study[list[GroupCost]]) -> None:
    text = to_markdown(cost_parts(report))
    assert "| grpo | 2 | 20 |" in text and "4 T ± 1.41 T" in text  # 10 generated tokens in each of two stages
    table = csv.DictReader(io.StringIO(costs_to_csv(report)))
    rows = {(row["method"], row["activity"], row["figure"]): row for row in table}
    row = rows["grpo", TRAIN, "model_flops"]
    assert (float(row["mean"]), float(row["order_1"]), float(row["order_2"])) == (4e12, 3e12, 5e12)
    assert rows["sft", TRAIN, "model_flops"]["order_2"] == ""
    assert float(rows["zero_shot", "", "peak_memory_mb"]["mean"]) == 102
    assert [short(value) for value in (0, 12.345, 999.6, 1.234e12)] == ["0", "12.3", "1 k", "1.23 T"]


def test_quality_is_drawn_against_every_cost_that_was_counted(report: Study[list[GroupCost]]) -> None:
    figure = costs_figure(report.streams["digits_cil"], "digits_cil")
    assert figure is not None and len(figure.axes) == 4  # two costs, two qualities; no GPU
    assert all(axis.get_xscale() == "log" for axis in figure.axes)
    assert costs_figure(report.streams["digits_cil"][:1], "digits_cil") is None  # the floor alone


def test_the_command_writes_all_of_it(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "costs", str(runs), "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["costs.csv", "costs.md", "costs.png"]
    write_run(tmp_path / "old", "sft", 1, LEARNED)
    assert main(["analyze", "costs", str(tmp_path / "old")]) == 2
    assert "did not count" in capsys.readouterr().err


def test_a_clock_goes_on_where_an_earlier_process_stopped_and_counts_ended_children() -> None:
    before = cpu_seconds()
    clock = Clock({"seconds": 100.0, CPU: 40.0})
    sum(range(200_000))
    kept = clock.kept()
    assert kept["seconds"] >= 100.0 and 40.0 <= kept[CPU] <= 40.0 + cpu_seconds() - before
    assert CPU not in Clock({"seconds": 1.0}).kept()  # a process that did not count them
    own = cpu_seconds() - time.process_time()
    subprocess.run([sys.executable, "-c", "sum(range(2_000_000))"], check=True)
    assert cpu_seconds() - time.process_time() > own


class Stops(Silent):
    """Ends a run at one of its updates, as a kill would."""

    def __init__(self, update: int) -> None:
        self.update = update
        self.training = False

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.training = activity.endswith("train")

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.update -= self.training
        if self.update < 0:
            raise KeyboardInterrupt


def test_a_run_that_goes_on_inside_a_task_has_the_counts_of_one_never_stopped(tmp_path: Path) -> None:
    def config_in(name: str) -> RunConfig:
        words = {
            "stream": {"tasks": 2, "classes_per_task": 2, "shots": 4, "test_per_class": 1},
            "train": {"updates": 3, "prompts_per_update": 2},
            "evaluate": {"probe": 0, "final_list": False, "drift_prompts": 0},
            "run": {"output": str(tmp_path / name), "mlflow": False, "checkpoint_every": 1},
        }
        return build_config("digits_cil", "sft+ewc", "tiny", 1993, words)

    whole = read_run(run(config_in("whole"), Silent()))
    stopped = config_in("stopped")
    for update in (2, 5):  # before the third update of the first task, then of the second; rows kept are told again
        with pytest.raises(KeyboardInterrupt):
            run(stopped, Stops(update))
    mine = read_run(run(stopped, Silent()))
    for stage in (1, 2):
        both = [record.task_metrics(stage)["cost"] for record in (mine, whole)]
        for activity in (TRAIN, EVALUATE):
            counts = [{name: cost[activity][name] for name in COUNTS} for cost in both]
            assert counts[0] == counts[1]
        # 3 updates of 2 images each, then the Fisher information: 8 examples are answered and passed through again.
        assert sum(row["images"] for row in mine.steps(stage)) == 6 and both[0][TRAIN]["images"] == 6 + 2 * 8
