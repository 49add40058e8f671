"""Qwen2.5-VL: presets beside Qwen2-VL's, sizes as published, and runs of a checkpoint of random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clrft.config.run_config import RunConfig, build_config
from clrft.memory.model_sizes import PUBLISHED, known_sizes
from clrft.planning.hardware import hardware_of
from clrft.planning.plan import plan_of, target_of
from clrft.planning.stream_statistics import TokenLengths
from clrft.runner.run import run
from clrft.runs.read import RunRecord, read_run
from clrft.utils.progress import Silent
from tests.clrft.test_plan import assert_counted, cell_of
from tests.methods.qwen2_5 import write_qwen2_5_vl

BESIDE = {"qwen2_5_vl_3b": "qwen2_vl_2b", "qwen2_5_vl_7b": "qwen2_vl_7b"}
SMALL: dict[str, Any] = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 4, "test_per_class": 2},
    "train": {"updates": 2, "prompts_per_update": 4, "warmup": 0},
    "evaluate": {"probe": 0, "drift_prompts": 2},
    "method": {"group_size": 4},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen2_5_vl(tmp_path_factory.mktemp("qwen2_5"))


def cell(checkpoint: Path, output: Path, method: str, **train: Any) -> RunConfig:
    model = {"path": str(checkpoint), "device": "cpu", "dtype": "float32"}
    own = {"model": model, "train": train, "run": {"output": str(output), "mlflow": False}}
    return build_config("digits_cil", method, "tiny", 1993, SMALL, own)


def learned(checkpoint: Path, output: Path, method: str, **train: Any) -> RunRecord:
    return read_run(run(cell(checkpoint, output, method, **train), Silent()))


def weights(record: RunRecord, stage: int) -> dict[str, torch.Tensor]:
    return load_file(record.folder / f"task_{stage:02d}" / "weights" / "model.safetensors")


def test_a_run_takes_the_fast_path_and_learns_what_the_plain_path_learns(checkpoint: Path, tmp_path: Path) -> None:
    shared = learned(checkpoint, tmp_path / "shared", "rapo")
    plain = learned(checkpoint, tmp_path / "plain", "rapo", share_prefix=False)
    assert shared.manifest["model"]["model_type"] == "qwen2_5_vl"
    assert {"training", "testing"} <= shared.manifest["memory"].keys()
    for record, once in ((shared, True), (plain, False)):
        cost = record.task_metrics(2)["cost"]["train"]
        assert (cost["prompt_tokens_computed"] < cost["prompt_tokens"]) == once
        assert all("retention_reward" in row for row in record.steps(2))
    before, after, other = weights(shared, 1), weights(shared, 2), weights(plain, 2)
    assert any(not torch.equal(before[name], after[name]) for name in after if "visual." in name)
    for name, weight in after.items():
        assert torch.allclose(weight, other[name], atol=1e-4), name


def test_a_plan_counts_what_a_run_does(checkpoint: Path, tmp_path: Path) -> None:
    record = learned(checkpoint, tmp_path, "grpo")
    assert_counted(cell_of(cell(checkpoint, tmp_path, "grpo")), record, operations=False)


@pytest.mark.parametrize(("name", "beside"), BESIDE.items())
def test_presets_show_an_image_in_as_many_tokens_as_qwen2_vl(name: str, beside: str) -> None:
    mine, theirs = (build_config("digits_cil", "rapo", one) for one in (name, beside))
    settings = mine.to_dict()["model"] | {"path": theirs.model.path, "label": beside}
    assert settings == theirs.to_dict()["model"]
    assert json.dumps(mine.to_dict()["evaluate"]) == json.dumps(theirs.to_dict()["evaluate"])
    shown = [TokenLengths(one.model) for one in (mine, theirs)]
    for size in ((500, 375), (64, 64), (1920, 1080)):
        grids = [ruler._grid(Image.new("RGB", size)) for ruler in shown]
        assert grids[0] == grids[1]


@pytest.mark.parametrize(("name", "parameters"), [("qwen2_5_vl_3b", 3754622976), ("qwen2_5_vl_7b", 8292166656)])
def test_sizes_are_those_of_the_published_weights(name: str, parameters: int) -> None:
    # half of total_size in the published model.safetensors.index.json, which counts bytes of bfloat16
    config = build_config("digits_cil", "rapo", name)
    assert config.model.path in PUBLISHED
    made = known_sizes(config.model)
    assert made.parameters == made.trained == parameters
    assert (made.patch, made.shape.merge, made.gated) == (14, 2, True)
    assert (made.shape.vision_layers, made.shape.window_layers, made.shape.window) == (4, 28, 4)


def test_they_are_planned_without_a_checkpoint() -> None:
    asked = [("imagenet_r_10x20", "qwen2_5_vl_3b"), ("ucf101_5", "qwen2_5_vl_3b"), ("coco_5x16", "qwen2_5_vl_7b")]
    cells = [build_config(stream, "rapo", model) for stream, model in asked]
    plan = plan_of(cells, target_of(hardware_of("h200x8"), None, None))
    needed = [one.memory.peak.total / 2**30 for one in plan.cells]
    assert all(one.wall() > 0 for one in plan.cells)
    assert needed[0] < needed[2]
