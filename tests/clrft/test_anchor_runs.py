"""Whole runs by each anchor rule: what stays on disk, and a restart at a task boundary."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clrft.config.run_config import RunConfig, build_config
from clrft.config.sweeps import load_sweep
from clrft.runner.prepare import prepare
from clrft.runner.run import run
from clrft.runs.read import read_run
from clrft.utils.progress import Silent
from task_streams.errors import UserError

SMALL: dict[str, Any] = {
    "stream": {"tasks": 3, "classes_per_task": 2, "shots": 2, "test_per_class": 1},
    "train": {"updates": 1, "prompts_per_update": 4, "warmup": 0, "learning_rate": 1e-3},
    "evaluate": {"probe": 0, "drift_prompts": 0},
    "model": {"device": "cpu", "dtype": "float32"},
}
LORA = {"adapter": "lora", "lora_rank": 4}


def small(output: Path, anchor: str, model: dict[str, Any] | None = None, **run: Any) -> RunConfig:
    method = {"anchor": anchor, "group_size": 2}
    own = {"run": {"output": str(output), "mlflow": False, **run}, "model": model or {}, "method": method}
    return build_config("digits_cil", "rapo", "tiny", 1993, SMALL, own)


def learned(folder: Path, stage: int) -> dict[str, torch.Tensor]:
    (file,) = (folder / f"task_{stage:02d}" / "weights").glob("*.safetensors")
    return load_file(file)


def kept_anchor(folder: Path, stage: int) -> dict[str, torch.Tensor]:
    """The anchor that a stage left, by the names of its checkpoint."""
    checkpoint = (("model.language_model.", "model."), ("model.visual.", "visual."), (".anchor.", "."))
    renamed = {}
    for name, weight in load_file(folder / f"task_{stage:02d}" / "anchor.safetensors").items():
        for inside, saved in checkpoint[2:] if ".anchor." in name else checkpoint:
            name = name.replace(inside, saved)
        renamed[name] = weight
    return renamed


def stop_after(folder: Path, stage: int) -> None:
    """Make a finished run of three tasks one that stopped after a stage."""
    for name in ("metrics.json", "matrix.json"):
        (folder / name).unlink()
    for later in range(stage + 1, 4):
        shutil.rmtree(folder / f"task_{later:02d}")


def first_drift(folder: Path, task: int) -> float:
    """Mean drift before a task's first update."""
    with (folder / f"task_{task:02d}" / "steps.jsonl").open() as rows:
        return json.loads(next(rows))["drift"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("anchor", "model", "off"),
    # small adapter products are not bit-reproducible on a CPU: 7e-9 was seen between two equal runs
    [("average", {}, 0.0), ("first", {}, 0.0), ("base", {}, 0.0), ("first", LORA, 1e-7)],
)
def test_a_run_stopped_ends_as_if_never_stopped(anchor: str, model: dict[str, Any], off: float, tmp_path: Path) -> None:
    config = small(tmp_path, anchor, model)
    folder = run(config, Silent())
    weights, drift, matrix = learned(folder, 3), first_drift(folder, 3), read_run(folder).matrix
    state = (folder / "task_03" / "method_state.json").read_text()
    saved = "adapter_model.safetensors" if model else "model.safetensors"
    assert [path.name for path in (folder / "task_03" / "weights").glob("*.safetensors")] == [saved]
    # only an anchor behind the policy differs from it before the first update
    assert drift > (1e-6 if model else 1e-4)
    assert (first_drift(folder, 2) > 1e-4) == (anchor == "base")
    assert "drift" not in (folder / "task_01" / "steps.jsonl").read_text()  # the first task has no anchor
    kept = [path.parent.name for path in sorted(folder.glob("task_*/anchor.safetensors"))]
    assert kept == (["task_02"] if anchor in ("average", "first") else [])
    if kept:
        one, two, found = learned(folder, 1), learned(folder, 2), kept_anchor(folder, 2)
        expected = one if anchor == "first" else {name: 0.9 * one[name] + (1 - 0.9) * two[name] for name in one}
        near = 0.0 if anchor == "first" else 1e-6
        assert found.keys() == one.keys()
        assert all(torch.allclose(found[name], expected[name], rtol=near, atol=near / 100) for name in one)
    stop_after(folder, 2)
    run(config, Silent())
    assert first_drift(folder, 3) == pytest.approx(drift, rel=1e-4 if model else 0)
    assert all(torch.allclose(weights[name], one, rtol=0, atol=off) for name, one in learned(folder, 3).items())
    if not model:
        assert (folder / "task_03" / "method_state.json").read_text() == state
        assert read_run(folder).matrix.value.tobytes() == matrix.value.tobytes()


def test_a_kept_anchor_goes_with_older_weights(tmp_path: Path) -> None:
    folder = run(small(tmp_path, "average", keep_weights="last"), Silent())
    left = [str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")]
    assert left == ["task_03/weights/model.safetensors"]  # nor does the last task leave one: no task follows


def test_an_average_of_adapters_is_refused_before_any_work(tmp_path: Path) -> None:
    config = small(tmp_path, "average", LORA)
    with pytest.raises(UserError, match=r"method 'rapo': the anchor average cannot be made of LoRA adapters"):
        run(config, Silent())
    assert not config.folder.exists()


def test_the_base_is_kept_once_as_anchor_and_reference(tmp_path: Path) -> None:
    for anchor in ("base", "first"):
        state = prepare(small(tmp_path, anchor), Silent())
        assert state.anchors is not None and state.reference is not None
        assert (state.anchors.begin().model is state.reference.model) == (anchor == "base")


PLUGIN = '''
import torch

from methods.base import AnchorRule, LossContext, Method, Need
from methods.parts.l2 import L2Config


class Spoils(Method):
    """Changes the base that it holds to."""

    name = "spoils"
    family = "part"
    Config = L2Config
    needs = frozenset({"anchor"})
    anchor_rule = AnchorRule("base")

    def loss_terms(self, context: LossContext) -> dict:
        if context.anchor is not None:
            with context.anchor.active() as model, torch.no_grad():
                next(model.parameters()).add_(1.0)
        return {}
'''


def test_a_plugin_has_the_rule_too_and_its_anchor_is_watched(tmp_path: Path) -> None:
    (tmp_path / "spoils.py").write_text(PLUGIN)
    own = {"run": {"output": str(tmp_path), "mlflow": False, "plugins": [str(tmp_path / "spoils.py")]}}
    config = build_config("digits_cil", "sft+spoils", "tiny", 1993, SMALL, own)
    with pytest.raises(UserError, match=r"method 'spoils' \(.*spoils.py\): the anchor's weights were changed"):
        run(config, Silent())
    assert (config.folder / "task_01" / "metrics.json").is_file()  # the first task has no anchor to change
    assert not (config.folder / "task_02").exists()


def test_every_row_of_the_ablation_resolves_to_what_it_is_called() -> None:
    cells = load_sweep("ablation", {})
    assert len(cells) == 3 * 26
    assert len({cell.cell for cell in cells}) == len(cells)
    (named,) = [cell for cell in cells if cell.seed == 1993 and cell.cell.endswith("-anchor=average")]
    assert (named.method_name, named.method.anchor, named.method.anchor_momentum) == ("rapo", "average", 0.9)
    values = {cell.cell.partition("-1993-")[2]: cell for cell in cells if cell.method_name == "rapo"}
    assert values["retention_weight=0.2"].method.retention_weight == 0.2
    assert values["retention_sharpness=40.0"].method.retention_sharpness == 40.0
    assert values["scale_momentum=0.9999"].method.scale_momentum == 0.9999
    assert values["think=False"].stream.think is False
    assert values["group_size=10"].method.group_size == 10
    assert values["scale_init_batches=10"].method.scale_init_batches == 10
