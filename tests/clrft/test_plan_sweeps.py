"""Plans of sweeps: hardware, streams without data, the command."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clrft.analysis.published_results import published_rows
from clrft.cli.main import main
from clrft.config.run_config import build_config, parse_overrides
from clrft.config.sweeps import load_sweep
from clrft.memory.estimate import with_value
from clrft.memory.phases import ALONE, Sharing
from clrft.planning.advice import suggestions
from clrft.planning.hardware import FAST, LIKELY, SLOW, TABLE, Device, hardware_of, table
from clrft.planning.plan import EXCHANGE, Plan, plan_of, sharding_problems, target_of, this_target
from clrft.planning.stage_work import Cell, Lengths
from clrft.planning.stream_statistics import statistics_of
from clrft.planning.tables import figures
from clrft.runs.layout import DRIFT, EVALUATE, TRAIN
from task_streams.errors import UserError

HARDWARE = ("quickstart", "--hardware", "h100x8")
ONE_STREAM = ("parts=[{streams: [coco_5x16]}]",)


def updates_of(plan: Plan) -> float:
    return figures(plan)["counts"]["updates"]


def plan_on(name: str, *words: str, sweep: str = "quickstart", sharing: Sharing = ALONE) -> Plan:
    return plan_of(load_sweep(sweep, parse_overrides(words)), target_of(hardware_of(name), sharing=sharing))


def test_the_table_of_hardware_holds() -> None:
    for name in table(TABLE):
        one = hardware_of(name)
        assert one.devices == 1
        speeds = one.device.speeds
        assert speeds[SLOW].flops < speeds[LIKELY].flops < speeds[FAST].flops
        assert speeds[SLOW].launch > speeds[LIKELY].launch > speeds[FAST].launch
    eight = hardware_of("h100x8")
    assert (eight.devices, eight.device.memory) == (8, 80)
    assert hardware_of("a100-80gbx4").devices == 4


def test_a_file_of_hardware_takes_the_place_of_the_table(tmp_path: Path) -> None:
    text, file = TABLE.read_text(encoding="utf-8").partition("devices:")[0], tmp_path / "mine.yaml"
    file.write_text(text + "devices:\n  mine: {memory: 10, flops: 1e12, bandwidth: 1e11, share: [0.5, 0.4, 0.6]}\n")
    mine = hardware_of(f"{file}x2")
    assert (mine.devices, mine.device.memory, mine.device.speeds[LIKELY].flops) == (2, 10, 0.5e12)
    assert target_of(mine).jobs == 2  # it states no link, which cells of one device do not need
    with pytest.raises(UserError, match="states no link between devices"):
        target_of(mine, sharing=Sharing(2))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text + "devices:\n  mine: {memory: none, flops: 1e12, bandwith: 1e11, share: 3}\n")
    with pytest.raises(UserError) as error:
        hardware_of(str(wrong))
    known = ", ".join(sorted(f"mine.{field.name}" for field in fields(Device)))
    assert [problem.removeprefix(f"{wrong}: ") for problem in error.value.problems] == [
        "mine.share: got 3, expected three numbers above 0: most likely, slow, fast.",
        "mine.memory: got 'none', expected a number above 0.",
        f"unknown key 'mine.bandwith'. Did you mean 'mine.bandwidth'? Known: {known}.",
        "mine.bandwidth: a value is needed.",
    ]


def test_streams_without_data_are_planned_from_what_is_published() -> None:
    """ImageNet-R, 10 tasks of 20 classes, 5 shots, 2 epochs: 100 images, 12 batches of 8, 24 updates a task.

    Of 6,000 test images each task has 600; with 10 tasks 600 * 55 are asked in all.
    """
    (config,) = [cell for cell in load_sweep("image_cil", {}) if cell.cell == "imagenet_r_10x20-rapo-1993"]
    statistics = statistics_of(config)
    assert (len(statistics.tasks), statistics.here, statistics.exact) == (10, False, False)
    assert {(task.train, task.test) for task in statistics.tasks} == {(100, 600)}
    work = Cell(config, torch.device("cpu"), Lengths(10, 10, 1.3)).work()
    assert list(work.updates[:, TRAIN]) == [24] * 10
    assert work.test_items.sum() == 600 * 55 + 600 * 9 + 200 * 11  # each stage, nine under the final list, the probe
    side = statistics.tasks[0].prompt.grids[0][0]
    assert side[1] * side[2] * 14**2 == pytest.approx(65536, rel=0.25)  # of an image that is shrunk to the limit


def test_boxes_without_data_are_planned_with_images_that_several_tasks_share() -> None:
    """COCO, 5 tasks of 16 of 80 classes, 2.9 in each of 5,000 images: 1 - 0.8^2.9 = 0.4764 of them have one of 16."""
    (config,) = load_sweep("detection_cil", parse_overrides(["methods=[zero_shot]", "seeds=[136]", *ONE_STREAM]))
    statistics = statistics_of(config)
    assert [task.test for task in statistics.tasks] == [2382] * 5
    assert statistics.tasks[0].new == 2382  # then 1 - 0.6^2.9 = 0.7727: 3863 in all, 1481 of them new
    assert statistics.tasks[1].new == 1481
    assert statistics.joint.test == sum(task.new for task in statistics.tasks) == 5000


def test_every_setting_of_the_paper_can_be_planned() -> None:
    settings = dict.fromkeys((row.stream, row.model) for row in published_rows())
    cells = [build_config(stream, "rapo", model, 1990) for stream, model in settings]
    plan = plan_of(cells, target_of(hardware_of("h200x8"), None, None))
    assert plan.wall(FAST) < plan.wall(LIKELY) < plan.wall(SLOW)
    assert {cell.config.model_label for cell in plan.unfit} == {"qwen2_vl_7b", "qwen2_5_vl_7b"}
    assert not any(cell.statistics.here for cell in plan.cells)


def test_a_plan_adds_up_and_gets_cheaper(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_on("h100x2", "seeds=[1990, 1993]")
    assert len(plan.cells) == 8
    assert updates_of(plan) == 2 * 3 * 5 * 30
    assert plan.wall() >= sum(cell.wall() for cell in plan.cells) / 2
    words = ["plan", "quickstart", "seeds=[1990, 1993]", "--hardware", "h100x2", "--json"]
    assert main([*words, "--completion-tokens", "10"]) == 0
    assert {round(cell.lengths.train) for cell in plan.cells} == {24}  # the limit: answers with 60 tokens of thought
    plan = plan_of([cell.config for cell in plan.cells], replace(plan.target, completion=10))
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["counts"]["updates"] == updates_of(plan)
    assert told["wall_seconds"]["likely"] == pytest.approx(plan.wall())
    assert told["twice_as_long"]["wall_seconds"]["likely"] > plan.wall()
    changes = {one["change"]: one for one in told["cheaper"]}
    last = [with_value(cell.config, "run", "keep_weights", "last")[1] for cell in plan.cells]
    kept = changes["run.keep_weights=last"]["disk_bytes"]["kept"]
    assert kept == plan_of(last, plan.target).kept < plan.kept
    for one in changes.values():
        assert one["wall_seconds"]["likely"] < plan.wall() or one["disk_bytes"]["kept"] < plan.kept
    assert changes["one class order"]["cells"] == 4


def test_cells_that_share_devices_are_fewer_at_a_time() -> None:
    plan = plan_on("h100x8", "seeds=[1990, 1993]", sharing=Sharing(4))
    alone = plan_on("h100x8", "seeds=[1990, 1993]")
    assert (plan.target.jobs, alone.target.jobs) == (2, 8)
    assert figures(plan)["device_seconds"] == pytest.approx(4 * sum(cell.wall() for cell in plan.cells))
    assert updates_of(plan) == updates_of(alone)
    one, other = (next(cell for cell in each.cells if cell.config.method_name == "rapo") for each in (plan, alone))
    assert one.seconds[LIKELY][EVALUATE] < other.seconds[LIKELY][EVALUATE]
    assert one.seconds[LIKELY][DRIFT] == other.seconds[LIKELY][DRIFT]
    assert one.seconds[LIKELY][EXCHANGE] > 0 == other.seconds[LIKELY][EXCHANGE]
    assert any(change.word == "--devices-per-cell 1" for change in suggestions(plan))


def test_this_machine_is_measured(tmp_path: Path) -> None:
    words = ["methods=[sft]", "seeds=[1993]", "stream.tasks=2", "stream.shots=8", "stream.test_per_class=6"]
    words += ["train.updates=3", "train.warmup=0", "train.prompts_per_update=4", "evaluate.batch_size=8"]
    words += ["evaluate.probe=8", "evaluate.drift_prompts=3", "run.mlflow=false", f"run.output={tmp_path}"]
    cells = load_sweep("quickstart", parse_overrides(words))
    target = this_target(cells, 1)
    plan = plan_of(cells, target)
    assert target.measured is not None
    assert target.device == torch.device("cpu")
    assert 0 < plan.wall() < 600
    assert plan.cells[0].lengths.test == pytest.approx(10, abs=3)
    assert all(plan.cells[0].seconds[LIKELY][part] > 0 for part in (TRAIN, EVALUATE, DRIFT))
    assert list(tmp_path.iterdir()) == []  # nothing of it is left


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["quickstrt"], "unknown sweep 'quickstrt'. Did you mean 'quickstart'?"),
        (["quickstart", "--hardware", "h10x8"], "unknown hardware 'h10'. Did you mean 'h100'?"),
        (["quickstart", "--hardware", "h100x0"], "hardware 'h100x0': 0 devices; expected 1 to 1024."),
        (["quickstart", "--hardware", "h100", "--jobs", "0"], "--jobs: got 0"),
        (["quickstart", "--completion-tokens", "9"], "on this completions are measured"),
        ([*HARDWARE, "--devices-per-cell", "0"], "--devices-per-cell: got 0, expected a whole number from 1."),
        ([*HARDWARE, "--devices-per-cell", "16"], "got 16, but h100x8 has 8 devices; expected 1 to 8."),
        ([*HARDWARE, "--split"], "--split: got 1 device per cell"),
        ([*HARDWARE, "--devices-per-cell", "3", "--jobs", "3"], "8 devices, 3 for each cell; expected 1 to 2."),
        (["quickstart", "--devices-per-cell", "2"], "on this cells of one process are measured"),
        (["image_cil"], "hardware 'this': nothing can be measured without imagenet_r_10x20 (data/imagenet-r)"),
        (
            ["quickstart", "--hardware", "h100", "model.path=Qwen/Qwen2-VL-72B"],
            "Did you mean 'Qwen/Qwen2-VL-7B-Instruct'",
        ),
    ],
)
def test_bad_input_is_refused(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_model_that_does_not_fit_is_told_with_what_needs_less_and_on_how_many_devices_it_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def told(*words: str) -> str:
        assert main(["plan", "detection_cil", "seeds=[136]", *ONE_STREAM, *words]) == 2
        return " ".join(capsys.readouterr().out.split())

    quiet = "evaluate.drift_prompts=1"
    alone = told("methods=[sft]", "--hardware", "rtx4090", quiet)
    assert "does not fit: qwen2_vl_7b: 1 of the cells (sft) need more than the 21.2 GiB that are there." in alone
    assert "model.adapter=lora (saves" in alone
    some = told("methods=[rapo]", "--hardware", "h100x8")  # docs/planning.md tells of it
    assert (
        "fits split over 4 devices (--devices-per-cell 4 --split) with one of evaluate.drift_prompts=1, train" in some
    )
    assert "; split over 8 devices (--devices-per-cell 8 --split) with one of evaluate.drift_prompts=2, train" in some
    eight = ("methods=[sft, sft+ewc]", "--hardware", "h100x8", quiet)
    assert "1 (sft) of them fit split over 2 devices (--devices-per-cell 2 --split)." in told(*eight)
    split = told(*eight, "--devices-per-cell", "2", "--split")
    assert "4 at a time, each split over 2 devices" in split
    assert "cannot run: sft+ewc (1 of the cells): method 'ewc' looks at weights" in split
    assert "sft) need more than" not in split  # fits now


def test_what_processes_cannot_share_is_told_with_every_reason() -> None:
    def reasons(sharing: Sharing, method: str, *words: str) -> str:
        settings = parse_overrides(["train.prompts_per_update=4", *words])
        return " ".join(sharding_problems(build_config("digits_cil", method, "tiny", 1993, settings), sharing))

    assert reasons(ALONE, "sft+ewc", "model.adapter=lora") == ""
    assert reasons(Sharing(2), "sft+ewc", "model.adapter=lora") == ""
    assert "rollouts in 2 parts are fewer than 20" in reasons(Sharing(20), "grpo", "train.accumulation=2")
    assert "train.share_prefix: got false" in reasons(Sharing(2), "grpo", "train.share_prefix=false")
    assert "train.rollouts: got 'vllm'" in reasons(Sharing(2), "grpo", "train.rollouts=vllm")
    split = Sharing(2, split=True)
    words = ("model.adapter=lora", "model.anchor_memory=cpu", "train.cuda_graphs=true", "method.anchor=first")
    told = reasons(split, "rapo", *words)
    assert all(name in told for name in ("model.adapter", "model.anchor_memory", "train.cuda_graphs", "method.anchor"))
    assert reasons(split, "rapo") == ""
