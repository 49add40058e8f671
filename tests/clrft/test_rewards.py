"""What rewards were made of: hand-made steps with means derived by hand, and a real run recomputed from its files."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clrft.analysis.compare import Study, compare
from clrft.analysis.render import Part, to_markdown
from clrft.analysis.rewards import (
    BATCHES,
    REWARD,
    SHAPED,
    UPDATES,
    Figure,
    GroupRewards,
    reward_parts,
    reward_report,
    rewards_to_csv,
    task_rewards,
)
from clrft.analysis.study_figures import rewards_figure
from clrft.cli.main import main
from clrft.config.run_config import build_config
from clrft.report.comparison import write_comparison
from clrft.report.parts import Subject
from clrft.runner.run import run
from clrft.runs.read import RunRecord, read_run
from clrft.utils.progress import Silent
from tests.clrft.run_folders import LEARNED, csv_row, record, terminal, write_run

ACCURACY, FORMAT = Figure("component", "accuracy"), Figure("component", "format")
ADDED, RERANKED = Figure("added", "par"), Figure("reranked", "par")
# Two updates on each batch of rollouts: figures of rewards stand in the row of the first.
STEPS = [
    {"step": 1, "reward_accuracy": 0.5, "reward_format": 1.0, "reward": 1.5, "par_added": -1.0, "par_reranked": 0.0},
    {"step": 2, "loss": 0.1},
    {"step": 3, "reward_accuracy": 0.75, "reward_format": 0.5, "reward": 1.25, "par_added": -0.5, "par_reranked": 0.2},
    {"step": 4, "loss": 0.2},
]


def report_of(*records: RunRecord) -> Study[list[GroupRewards]]:
    return reward_report(compare(records))


def two_orders(folder: Path, second: Sequence[Mapping[str, float]]) -> Study[list[GroupRewards]]:
    """Order 1 with ``STEPS``, order 2 with others."""
    return report_of(*(record(folder, "grpo+par", seed, steps=steps) for seed, steps in ((1, STEPS), (2, second))))


def parts(report: Study[list[GroupRewards]]) -> list[Part]:
    return [*reward_parts(report), *report.comparison.closing(report.without)]


def test_a_batch_of_rollouts_counts_once_however_many_updates_were_made_on_it() -> None:
    means = {figure: value.value for figure, value in task_rewards(STEPS, [ACCURACY, REWARD, ADDED, RERANKED]).items()}
    # (0.5 + 0.75) / 2, (1.5 + 1.25) / 2, (-1 - 0.5) / 2, (0 + 0.2) / 2
    expected = {UPDATES: 4, BATCHES: 2, ACCURACY: 0.625, REWARD: 1.375, ADDED: -0.75, RERANKED: 0.1}
    assert means == pytest.approx(expected)


@pytest.mark.parametrize(
    ("accuracies", "mean"), [([], None), ([None], None), ([math.nan], None), ([math.nan, 0.5, 1.0], 0.75)]
)
def test_a_row_without_a_number_is_left_out_of_the_mean(accuracies: list[Any], mean: float | None) -> None:
    value = task_rewards([{"step": 1}, *({"reward_accuracy": one} for one in accuracies)], [ACCURACY])[ACCURACY]
    assert (value.value, value.reason) == (mean, "not measured" if mean is None else None)


def test_means_over_class_orders_stand_beside_those_of_every_order(tmp_path: Path) -> None:
    report = two_orders(tmp_path, [{**STEPS[0], "reward_accuracy": 0.125}])
    row = csv_row(rewards_to_csv(report), task="2", kind="component", name="accuracy")  # (0.625 + 0.125) / 2
    assert [float(row[key]) for key in ("n", "mean", "order_1", "order_2")] == pytest.approx([2, 0.375, 0.625, 0.125])
    text = to_markdown(reward_parts(report))
    # (1.375 + 1.5) / 2; no reward_shaped; (-0.75 - 1) / 2; (10 % + 0) / 2
    assert "| grpo+par | 2 | 1 | 1–4 | 1–2 | 0.375 | 0.875 | 1.438 | – |" in text
    assert "| grpo+par | 1 | par | −0.875 | 5.0 |" in text


def test_a_figure_missing_in_one_order_is_a_dash_and_not_zero(tmp_path: Path) -> None:
    report = two_orders(tmp_path, [{name: value for name, value in STEPS[0].items() if name != "reward_format"}])
    assert "| 0.562 | – | 1.438 |" in to_markdown(reward_parts(report))  # (0.625 + 0.5) / 2; (1.375 + 1.5) / 2
    row = csv_row(rewards_to_csv(report), task="1", name="format")
    assert (row["mean"], row["order_1"], row["order_2"]) == ("", "0.75", "")


def test_components_and_shapers_are_those_of_the_configuration_in_its_order(tmp_path: Path) -> None:
    more = {"rapo_added": 0.5, "rapo_reranked": 0.25}
    like = {"reward_shaped": 0.5, "reward_std_batch": 0.3, "tokens_added": 9.0}  # look like them and are none
    config = {"method": {"name": "rapo", "label": "mine", "parts": {"replay": {}, "par": {}}}}
    ((one,),) = report_of(record(tmp_path, "mine", 1, steps=[STEPS[0] | more | like], config=config)).streams.values()
    assert (one.components, one.shapers) == (("accuracy", "format"), ("rapo", "par"))  # replay shaped nothing


def test_runs_without_rewards_are_named(tmp_path: Path) -> None:
    steps = {"sft": [{"step": 1.0, "loss": 0.5}], "zero_shot": [], "grpo+par": STEPS}
    report = report_of(*(record(tmp_path, method, 1, steps=rows) for method, rows in steps.items()))
    assert [one.group.method for one in report.streams["digits_cil"]] == ["grpo+par"]
    assert report.without == [
        "digits_cil: zero_shot has no rewards: nothing was trained.",
        "digits_cil: sft has no rewards: it learned from targets.",
    ]
    assert report.without[1] in terminal(parts(report))
    assert report.without[0] in to_markdown(parts(report))


def test_the_table_fits_a_terminal_and_has_one_row_for_all_tasks_of_joint_training(tmp_path: Path) -> None:
    steps = [{**STEPS[0], "gradient_novelty_added": 0.25, "gradient_novelty_reranked": 0.5}]
    text = terminal(parts(report_of(record(tmp_path, "grpo+gradient_novelty+par", 1, steps=steps))))
    rows = [line.split()[1:] for line in text.splitlines() if line.split()[:1] == ["grpo+gradient_novelty+par"]]
    assert rows[0] == ["1", "1", "1", "0.500", "1.000", "1.500", "–"]
    assert rows[2:4] == [["1", "gradient_novelty", "+0.250", "50.0"], ["1", "par", "−1.000", "0.0"]]
    report = report_of(record(tmp_path, "joint_grpo", 1, [[None, None], [60, 80]], steps=STEPS))
    assert "| joint_grpo | 1 | all | 4 | 2 | 0.625 | 0.750 | 1.375 | – |" in to_markdown(reward_parts(report))


def test_the_bars_are_the_means_and_what_was_not_measured_has_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "grpo+par", 1, LEARNED, steps=STEPS)
    for tasks in (2, 1):
        bars = rewards_figure(report_of(read_run(folder)).streams["digits_cil"], "digits_cil").axes[0].patches
        heights = [0.625, 0.75, -0.75]  # accuracy, format, what par took away
        assert [bar.get_height() for bar in bars] == pytest.approx([h for h in heights for _ in range(tasks)])
        (folder / "task_02" / "steps.jsonl").unlink(missing_ok=True)


def test_the_command_writes_beside_the_comparison_and_a_comparison_has_the_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "s", "grpo+par", 1, LEARNED, steps=STEPS)
    assert main(["analyze", "rewards", str(tmp_path / "s")]) == 0
    out = tmp_path / "s" / "comparison"
    assert str(out / "rewards.csv") in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"rewards.md", "rewards.csv", "rewards.png"}
    with Image.open(out / "rewards.png") as image:
        assert image.width > 500
    rewarded = read_run(folder)
    for name, one in (("with", rewarded), ("without", record(tmp_path / "t", "sft", 1))):
        write_comparison(Subject(compare([one])), tmp_path / name)
    text = (tmp_path / "with" / "table.md").read_text()
    assert text.endswith(to_markdown(reward_parts(report_of(rewarded))))
    assert "## Rewards" in text and "| grpo+par | 1 | par | −0.750 | 10.0 |" in text
    assert "ewards" not in (tmp_path / "without" / "table.md").read_text()


def test_a_damaged_file_of_steps_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = record(tmp_path, "grpo+par", 1, steps=STEPS).folder / "task_02" / "steps.jsonl"
    file.write_text('{"step": 1,')
    assert main(["analyze", "rewards", str(tmp_path)]) == 2
    assert f"cannot read {file}" in " ".join(capsys.readouterr().err.split())


def test_a_real_run_shows_what_its_steps_say(tmp_path: Path) -> None:
    small = {
        "stream": {"tasks": 2, "classes_per_task": 2, "shots": 4, "test_per_class": 1},
        "train": {"updates": 4, "prompts_per_update": 4, "warmup": 0, "accumulation": 2},
        "method": {"group_size": 4, "updates_per_batch": 2},
        "evaluate": {"probe": 0, "drift_prompts": 0},
        "run": {"output": str(tmp_path), "mlflow": False},
    }
    folder = run(build_config("digits_cil", "grpo+retention+par", "tiny", 1993, small), Silent())
    ((one,),) = report_of(read_run(folder)).streams.values()
    assert (one.components, one.shapers) == (("accuracy", "format"), ("retention", "par"))
    for task, figures in one.tasks.items():
        rows = [json.loads(line) for line in (folder / f"task_{task:02d}" / "steps.jsonl").open()]
        for name in ("reward_accuracy", "par_added"):  # two batches, two updates on each, of two micro-batches
            assert [row["step"] for row in rows if name in row] == [1, 3]
        assert (figures[UPDATES].mean, figures[BATCHES].mean) == (4, 2)
        for figure, summary in figures.items():
            if figure.column:
                assert summary.mean == pytest.approx((rows[0][figure.column] + rows[2][figure.column]) / 2), figure
        total = sum(figures[name].mean or 0 for name in (ACCURACY, FORMAT))
        assert figures[REWARD].mean == pytest.approx(total, abs=1e-6)
        changes = sum(figures[Figure("added", name)].mean or 0 for name in one.shapers)
        # each pair of par's shares one between them
        assert [figures[SHAPED].mean, total + changes] == pytest.approx([0.5, 0.5], abs=1e-5)
    assert one.tasks[1][Figure("added", "retention")].mean == 0  # there is no anchor in task 1
    assert 0 < (one.tasks[2][Figure("added", "retention")].mean or 0) <= 0.5
