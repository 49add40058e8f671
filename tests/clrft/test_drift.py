"""Drift in real runs: measured after every training, the same after a stop, and without a trace in what is learned."""

import json
from pathlib import Path
from typing import Any

import pytest

from clrft.config.run_config import RunConfig, build_config
from clrft.runner import stage
from clrft.runner.run import run
from clrft.runs.read import read_run
from clrft.utils.progress import Silent
from tests.clrft.test_run import same_weights


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


def rows_of(folder: Path, task: int) -> str:
    return (folder / f"task_{task:02d}" / "drift.jsonl").read_text()


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
        assert rows_of(cut.folder, task) == rows_of(whole, task)
    first, second = drift_of(whole, 1), drift_of(whole, 2)
    assert first["kl_prev_forward"] is None and "only the base" in first["undefined"]["kl_prev_forward"]
    assert second["kl_prev_forward"] > 0 and second["kl_base_reverse"] > 0
    metrics = read_run(whole).metrics
    assert metrics["kl_base/forward"].value == pytest.approx((first["kl_base_forward"] + second["kl_base_forward"]) / 2)
    assert metrics["kl_prev/reverse"].value == pytest.approx(second["kl_prev_reverse"])
    assert len(rows_of(whole, 2).splitlines()) == 2


def test_measuring_leaves_training_as_it_is(tmp_path: Path) -> None:
    measured = run(small(tmp_path / "measured", "grpo"), Silent())
    plain = run(small(tmp_path / "plain", "grpo", prompts=0), Silent())
    assert same_weights(measured, plain, 2)
    answers = [(folder / "task_02" / "predictions.jsonl").read_text() for folder in (measured, plain)]
    assert answers[0] == answers[1]
    assert drift_of(plain, 2) == {} and not (plain / "task_02" / "drift.jsonl").exists()
    assert "not measured" in str(read_run(plain).metrics["kl_base/forward"].reason)


def test_joint_training_is_compared_with_the_base_alone_and_the_frozen_base_with_nothing(tmp_path: Path) -> None:
    found = drift_of(run(small(tmp_path, "joint_sft"), Silent()), 2)
    assert found["kl_base_forward"] > 0 and found["kl_prev_forward"] is None
    assert found["undefined"]["drift_prev"] == "joint training has no task before it"
    folder = run(small(tmp_path, "zero_shot"), Silent())
    assert drift_of(folder, 1) == {}
    assert read_run(folder).metrics["kl_prev/forward"].value is None
