"""Whole runs on the embedded model and real digits: short, but nothing in them is replaced."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clrft.analysis.compare import compare
from clrft.config.run_config import RunConfig, build_config
from clrft.runner.checkpoint import read_learned
from clrft.runner.prepare import prepare
from clrft.runner.run import run
from clrft.runs.read import read_run
from clrft.utils.progress import Silent
from methods.base import Method
from methods.model.policy import Policy
from methods.settings import KAHAN, PLAIN, WIDE, TrainConfig
from task_streams.errors import UserError

SMALL = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 8, "test_per_class": 4},
    "train": {"updates": 2, "prompts_per_update": 4},
    "evaluate": {"probe": 8, "drift_prompts": 1},
}


def small(output: Path, method: str, seed: int = 1993, **train: object) -> RunConfig:
    own = {"run": {"output": str(output), "mlflow": False}, "train": train}
    return build_config("digits_cil", method, "tiny", seed, SMALL, own)


def weights(folder: Path, stage: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"task_{stage:02d}" / "weights" / "model.safetensors")


def same_weights(first: Path, second: Path, stage: int) -> bool:
    mine, theirs = weights(first, stage), weights(second, stage)
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_rapo_run_leaves_everything_on_disk(tmp_path: Path) -> None:
    folder = run(small(tmp_path, "rapo"), Silent())
    record = read_run(folder)
    assert record.matrix.total.tolist()[1] == [8.0, 8.0]  # 2 classes x 4 items per task
    assert torch.isnan(torch.tensor(record.matrix.value[0, 1]))  # not learned yet: not evaluated
    assert record.metrics["forgetting"].value is not None
    assert record.metrics["general_delta/printed_glyphs"].value is not None
    rows = [json.loads(line) for line in (folder / "task_02" / "steps.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2]
    assert {"reward", "drift", "retention_reward", "kl", "zero_variance_groups", "completion_length"} <= set(rows[0])
    assert rows[0]["drift"] == pytest.approx(0, abs=1e-6)  # nothing has moved before the first update
    state = json.loads((folder / "task_02" / "method_state.json").read_text())
    assert state["task"] == 2 and state["values"]["steps_in_task"] == 2
    assert not same_weights_between(folder, 1, 2)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".") and "partial" in path.name] == []


def same_weights_between(folder: Path, first: int, second: int) -> bool:
    mine, theirs = weights(folder, first), weights(folder, second)
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("sft", {"carry_optimizer": True}),
        ("rapo", {"carry_optimizer": True}),
        ("sft", {"optimizer": KAHAN}),
        ("rapo", {"optimizer": KAHAN, "carry_optimizer": True}),
        ("rapo", {"optimizer": WIDE}),
    ],
)
def test_a_run_stopped_at_a_boundary_ends_as_if_never_stopped(method: str, words: Any, tmp_path: Path) -> None:
    def config_in(folder: str) -> RunConfig:
        config = small(tmp_path / folder, method, **words)
        return replace(config, model=replace(config.model, dtype="bfloat16")) if "optimizer" in words else config

    whole = run(config_in("whole"), Silent())
    config = config_in("stopped")
    stopped = run(config, Silent())
    for name in ("metrics.json", "matrix.json"):
        (stopped / name).unlink()
    shutil.rmtree(stopped / "task_02")
    run(config, Silent())
    assert same_weights(whole, stopped, 2)
    assert (whole / "matrix.json").read_text() == (stopped / "matrix.json").read_text()
    assert (whole / "task_02" / "method_state.json").read_text() == (
        stopped / "task_02" / "method_state.json"
    ).read_text()


def test_the_same_seed_gives_the_same_run_and_another_seed_another_order(tmp_path: Path) -> None:
    first = run(small(tmp_path / "a", "grpo"), Silent())
    second = run(small(tmp_path / "b", "grpo"), Silent())
    assert same_weights(first, second, 2)
    assert read_run(first).matrix.tasks != read_run(run(small(tmp_path / "a", "grpo", 1990), Silent())).matrix.tasks


def test_zero_shot_trains_nothing_and_is_evaluated_after_every_task(tmp_path: Path) -> None:
    folder = run(small(tmp_path, "zero_shot"), Silent())
    assert not (folder / "task_01" / "weights").exists()
    assert read_run(folder).metrics["last_acc"].value is not None
    assert read_run(folder).metrics["general_delta/printed_glyphs"].value == 0


@pytest.mark.parametrize("method", ["joint_sft", "joint_grpo"])
def test_a_joint_run_trains_once_with_the_budget_of_all_tasks(method: str, tmp_path: Path) -> None:
    folder = run(small(tmp_path, method), Silent())
    rows = (folder / "task_02" / "steps.jsonl").read_text().splitlines()
    assert len(rows) == 2 * 2  # updates per task x tasks
    assert not (folder / "task_01").exists()
    record = read_run(folder)
    assert record.metrics["last_acc"].value is not None
    assert record.metrics["forgetting"].value is None and record.metrics["forgetting"].reason


def test_a_finished_run_is_not_run_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    folder = run(small(tmp_path, "sft"), Silent())
    before = (folder / "metrics.json").stat().st_mtime_ns
    run(small(tmp_path, "sft"), Silent())
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"train.updates is 2 there and 3 here"):
        run(small(tmp_path, "sft", updates=3), Silent())


def test_a_state_of_another_task_is_refused(tmp_path: Path) -> None:
    config = small(tmp_path, "rapo")
    folder = run(config, Silent())
    (folder / "metrics.json").unlink()
    state = json.loads((folder / "task_02" / "method_state.json").read_text())
    (folder / "task_02" / "method_state.json").write_text(json.dumps({**state, "task": 999}))
    with pytest.raises(UserError, match=r"task_02/method_state.json: SHA-256 is \w+…, expected \w+…"):
        run(config, Silent())
    with pytest.raises(UserError, match="after task 999"):  # and a state says itself which task's it is
        read_learned(folder / "task_02", *fresh(config), 2)


def fresh(config: RunConfig) -> tuple[Policy, Method]:
    state = prepare(config, Silent())
    return state.policy, state.method


def test_a_lora_run_saves_adapters_and_resumes(tmp_path: Path) -> None:
    own = {"run": {"output": str(tmp_path), "mlflow": False}, "model": {"adapter": "lora", "lora_rank": 4}}
    config = build_config("digits_cil", "rapo", "tiny", 1993, SMALL, own)
    folder = run(config, Silent())
    assert (folder / "task_02" / "weights" / "adapter_model.safetensors").is_file()
    whole = load_file(folder / "task_02" / "weights" / "adapter_model.safetensors")
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "task_02")
    run(config, Silent())
    again = load_file(folder / "task_02" / "weights" / "adapter_model.safetensors")
    # small adapter products are not bit-reproducible on a CPU: 7e-9 was seen between two equal runs
    assert all(torch.allclose(whole[name], again[name], atol=1e-7) for name in whole)


def test_a_prompt_longer_than_the_limit_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_prompt_tokens: got 20.*expected a limit of at least \d+"):
        run(small(tmp_path, "sft", max_prompt_tokens=20), Silent())
    assert not small(tmp_path, "sft").folder.exists()


@pytest.mark.parametrize("method", ["rapo", "sft"])
def test_decoding_is_recorded_where_a_gpu_allows_it_and_asking_for_it_elsewhere_is_refused(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"train.cuda_graphs: got true, but there is no GPU; expected false, or null"):
        prepare(small(tmp_path, method, cuda_graphs=True), Silent())
    assert not prepare(small(tmp_path, method), Silent()).policy.recorded
    monkeypatch.setattr("clrft.runner.prepare.graph_obstacle", lambda *_: None)
    records = TrainConfig.records
    monkeypatch.setattr(TrainConfig, "records", lambda train, _: records(train, "cuda"))
    with pytest.raises(UserError, match=r"train.cuda_graphs: got true, but train.share_prefix is false"):
        prepare(small(tmp_path, method, cuda_graphs=True, share_prefix=False), Silent())
    for train, recorded in (({}, True), ({"cuda_graphs": False}, False), ({"share_prefix": False}, False)):
        policy = prepare(small(tmp_path, method, **train), Silent()).policy
        assert policy.recorded == recorded
        assert (policy.session().steps is not None) == recorded


def test_a_task_smaller_than_one_update_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prompts_per_update: got 17, but task"):
        run(small(tmp_path, "sft", prompts_per_update=17), Silent())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_keeps_finished_tasks_and_says_how_to_go_on(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    words = ["run", "stream=digits_cil", "method=sft", "stream.shots=8", "stream.test_per_class=4", "stream.tasks=3"]
    words += [
        "train.updates=40",
        "evaluate.probe=0",
        "evaluate.drift_prompts=0",
        "run.mlflow=false",
        f"run.output={tmp_path}",
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "clrft", *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    folder = tmp_path / "single" / "digits_cil-sft-1993"
    deadline = time.monotonic() + 120
    while not (folder / "task_01" / "metrics.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, said
    assert "Go on with the same command: clrft run stream=digits_cil" in said.replace("\n", " ")
    assert (folder / "task_01" / "metrics.json").exists()
    assert not (folder / "metrics.json").exists(), said
    assert not [path for path in folder.iterdir() if "partial" in path.name]


def test_carried_moments_go_on_counting_and_reset_ones_start_anew(tmp_path: Path) -> None:
    carried = run(small(tmp_path / "carried", "sft", carry_optimizer=True), Silent())
    reset = run(small(tmp_path / "reset", "sft"), Silent())
    moments = load_file(carried / "task_02" / "optimizer.safetensors")
    steps = {float(value) for name, value in moments.items() if name.endswith("|step")}
    assert steps == {4.0}  # 2 updates in each of 2 tasks
    assert not (reset / "task_02" / "optimizer.safetensors").exists()
    assert same_weights(carried, reset, 1)
    assert not same_weights(carried, reset, 2)


@pytest.mark.parametrize("carried", [True, False])
def test_what_weights_have_no_room_for_crosses_a_boundary_with_them(carried: bool, tmp_path: Path) -> None:
    config = small(tmp_path, "sft", optimizer=KAHAN, carry_optimizer=carried, learning_rate=1e-6)
    folder = run(replace(config, model=replace(config.model, dtype="bfloat16")), Silent())
    kept = load_file(folder / "task_02" / "optimizer.safetensors")
    kinds = {name.rpartition("|")[2] for name in kept}
    assert kinds == ({"kahan_comp", "step", "exp_avg", "exp_avg_sq"} if carried else {"kahan_comp"})
    assert {values.dtype for name, values in weights(folder, 2).items()} == {torch.bfloat16}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["carry"]["weight_compensation"] == "carried"
    assert (manifest["model"]["optimizer"], manifest["model"]["weights"]) == (KAHAN, "bfloat16")


def test_a_run_whose_updates_are_lost_says_so_at_once(tmp_path: Path) -> None:
    said: list[str] = []

    class Said(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    config = small(tmp_path, "sft", optimizer=PLAIN, learning_rate=1e-6)
    folder = run(replace(config, model=replace(config.model, dtype="bfloat16")), Said())
    warnings = [line for line in said if "reached the weights" in line]
    assert len(warnings) == 2  # once a task
    assert "of update 2 reached the weights" in warnings[0] and "train.optimizer=adamw;" in warnings[0]
    record = read_run(folder)
    assert record.task_metrics(1)["least_update_applied"] < 0.1
    (note,) = [note for note in compare([record]).notes if "reached the weights" in note]
    assert "of an update of sft" in note
    kept = run(small(tmp_path / "kept", "sft"), Silent())
    assert read_run(kept).task_metrics(1)["least_update_applied"] > 0.99
    assert not [note for note in compare([read_run(kept)]).notes if "reached" in note]


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_an_epoch_is_one_pass_over_the_tasks_examples(method: str, tmp_path: Path) -> None:
    folder = run(small(tmp_path, method, epochs=1.0), Silent())
    # 2 classes x 8 shots = 16 examples, 4 an update
    assert len((folder / "task_01" / "steps.jsonl").read_text().splitlines()) == 4


def test_future_tasks_and_the_base_are_tested_when_asked(tmp_path: Path) -> None:
    own = {"run": {"output": str(tmp_path), "mlflow": False}, "evaluate": {"future": True}}
    record = read_run(run(build_config("digits_cil", "sft", "tiny", 1993, SMALL, own), Silent()))
    assert not torch.tensor(record.matrix.value).isnan().any()
    assert not torch.tensor(record.matrix.base).isnan().any()
    # two tasks: R[1,2] - b_2
    expected = record.matrix.value[0, 1] - record.matrix.base[1]
    assert record.metrics["fwt"].value == pytest.approx(expected)


def test_only_the_last_weights_stay_when_asked(tmp_path: Path) -> None:
    own = {"run": {"output": str(tmp_path), "mlflow": False, "keep_weights": "last"}}
    folder = run(build_config("digits_cil", "sft", "tiny", 1993, SMALL, own), Silent())
    assert not (folder / "task_01" / "weights").exists()
    assert (folder / "task_02" / "weights" / "model.safetensors").is_file()


def test_sampled_decoding_follows_the_runs_seed(tmp_path: Path) -> None:
    own = {"run": {"output": str(tmp_path), "mlflow": False}}
    greedy = build_config("digits_cil", "zero_shot", "tiny", 1993, SMALL, own)
    hot = {"evaluate": {"decoding": "sampled", "temperature": 1.5}}
    texts = []
    for name in ("a", "b"):
        layer = {"run": {"name_suffix": name}}
        folder = run(build_config("digits_cil", "zero_shot", "tiny", 1993, SMALL, own, hot, layer), Silent())
        texts.append((folder / "task_02" / "predictions.jsonl").read_text())
    assert texts[0] == texts[1]
    assert texts[0] != (run(greedy, Silent()) / "task_02" / "predictions.jsonl").read_text()
