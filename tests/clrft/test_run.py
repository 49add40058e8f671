"""Whole runs on the embedded model and real digits: short, but nothing in them is replaced."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
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
from clrft.utils.files import read_json
from clrft.utils.progress import Silent
from methods.settings import KAHAN, PLAIN, WIDE, TrainConfig
from task_streams.errors import UserError
from tests.clrft.counted import Says, until

SMALL = {
    "stream": {"tasks": 2, "classes_per_task": 2, "shots": 8, "test_per_class": 2},
    "train": {"updates": 2, "prompts_per_update": 4},
    "evaluate": {"probe": 4, "drift_prompts": 1},
}
CARRIED = {"carry_optimizer": True}


def small(
    output: Path, method: str, seed: int = 1993, dtype: str = "float32", layer: Any = None, **train: object
) -> RunConfig:
    own = {"run": {"output": str(output), "mlflow": False}, "model": {"dtype": dtype}, "train": train}
    return build_config("digits_cil", method, "tiny", seed, SMALL, own, layer or {})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of finished runs, by what ``small`` takes; who changes one copies it."""

    @cache
    def made(method: str, **words: Any) -> Path:
        return run(small(tmp_path_factory.mktemp(method), method, **words), Silent())

    return made


def weights(folder: Path, stage: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"task_{stage:02d}" / "weights" / "model.safetensors")


def same_weights(first: Path, second: Path, stage: int) -> bool:
    mine, theirs = weights(first, stage), weights(second, stage)
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_rapo_run_leaves_everything_on_disk(finished: Callable[..., Path]) -> None:
    folder = finished("rapo")
    record = read_run(folder)
    assert record.matrix.total.tolist()[1] == [4.0, 4.0]  # 2 classes x 2 items per task
    assert torch.isnan(torch.tensor(record.matrix.value[0, 1]))  # not learned yet: not evaluated
    assert record.metrics["forgetting"].value is not None
    assert record.metrics["general_delta/printed_glyphs"].value is not None
    rows = [json.loads(line) for line in (folder / "task_02" / "steps.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2]
    assert {"reward", "drift", "retention_reward", "kl", "zero_variance_groups", "completion_length"} <= set(rows[0])
    assert rows[0]["drift"] == pytest.approx(0, abs=1e-6)  # nothing has moved before the first update
    state = json.loads((folder / "task_02" / "method_state.json").read_text())
    assert state["task"] == 2 and state["values"]["steps_in_task"] == 2
    first, second = weights(folder, 1), weights(folder, 2)
    assert not all(torch.equal(first[name], second[name]) for name in first)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".") and "partial" in path.name] == []


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("sft", CARRIED),
        ("sft", {"optimizer": KAHAN, "dtype": "bfloat16"}),
        ("rapo", {"optimizer": KAHAN, "dtype": "bfloat16", **CARRIED}),
        ("rapo", {"optimizer": WIDE, "dtype": "bfloat16"}),
    ],
)
def test_a_run_stopped_at_a_boundary_ends_as_if_never_stopped(
    method: str, words: Any, finished: Callable[..., Path], tmp_path: Path
) -> None:
    whole = finished(method, **words)
    config = small(tmp_path, method, **words)
    shutil.copytree(whole, config.folder, ignore=shutil.ignore_patterns("task_02", "matrix.json"))
    (config.folder / "metrics.json").unlink()
    stopped = run(config, Silent())
    assert same_weights(whole, stopped, 2)
    for name in ("matrix.json", "task_02/method_state.json"):
        assert (whole / name).read_text() == (stopped / name).read_text()


def test_the_same_seed_gives_the_same_run_and_another_seed_another_order(
    finished: Callable[..., Path], tmp_path: Path
) -> None:
    assert same_weights(finished("rapo"), run(small(tmp_path, "rapo"), Silent()), 2)
    other = prepare(small(tmp_path, "rapo", seed=1990), Silent()).stream
    assert list(read_run(finished("rapo")).matrix.tasks) != [task.name for task in other.tasks]


def test_zero_shot_trains_nothing_and_is_evaluated_after_every_task(finished: Callable[..., Path]) -> None:
    folder = finished("zero_shot")
    assert not (folder / "task_01" / "weights").exists()
    metrics = read_run(folder).metrics
    assert metrics["last_acc"].value is not None and metrics["general_delta/printed_glyphs"].value == 0


@pytest.mark.parametrize("method", ["joint_sft", "joint_grpo"])
def test_a_joint_run_trains_once_with_the_budget_of_all_tasks(method: str, finished: Callable[..., Path]) -> None:
    folder = finished(method)
    rows = (folder / "task_02" / "steps.jsonl").read_text().splitlines()
    assert len(rows) == 2 * 2  # updates per task x tasks
    assert not (folder / "task_01").exists()
    metrics = read_run(folder).metrics
    assert metrics["last_acc"].value is not None
    assert metrics["forgetting"].value is None and metrics["forgetting"].reason


def test_a_finished_run_is_not_run_again_and_other_settings_are_refused(finished: Callable[..., Path]) -> None:
    folder = finished("sft")
    before = (folder / "metrics.json").stat().st_mtime_ns
    run(small(folder.parents[1], "sft"), Silent())
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"train.updates is 2 there and 3 here"):
        run(small(folder.parents[1], "sft", updates=3), Silent())


def test_a_state_of_another_task_is_refused(finished: Callable[..., Path], tmp_path: Path) -> None:
    config = small(tmp_path, "rapo")
    shutil.copytree(finished("rapo"), config.folder)
    (config.folder / "metrics.json").unlink()
    file = config.folder / "task_02" / "method_state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "task": 999}))
    with pytest.raises(UserError, match=r"task_02/method_state.json: SHA-256 is \w+…, expected \w+…"):
        run(config, Silent())
    state = prepare(config, Silent())
    with pytest.raises(UserError, match="after task 999"):  # and a state says itself which task's it is
        read_learned(file.parent, state.policy, state.method, 2)
    manifest = config.folder / "manifest.json"
    manifest.write_text(json.dumps({key: value for key, value in read_json(manifest).items() if key != "model"}))
    with pytest.raises(UserError, match=r"manifest\.json: model is missing; expected"):
        prepare(config, Silent())


def test_a_prompt_longer_than_the_limit_is_refused_before_any_work(tmp_path: Path) -> None:
    config = small(tmp_path, "sft", max_prompt_tokens=20)
    with pytest.raises(UserError, match=r"max_prompt_tokens: got 20.*expected a limit of at least \d+"):
        run(config, Silent())
    assert not config.folder.exists()


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


def test_an_interrupt_inside_of_executed_text_ends_with_its_code(tmp_path: Path) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text("exec('import os, signal; os.kill(os.getpid(), signal.SIGTERM)')\n")  # dataclasses use exec too
    command = [sys.executable, "-m", "clrft", "show", "stream=digits_cil", "--plugin", str(plugin)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "stopped; finished tasks are kept" in ended.stderr) == (143, True)


def test_an_interrupt_keeps_finished_tasks_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["run", "stream=digits_cil", "method=sft", "stream.shots=8", "stream.test_per_class=1", "stream.tasks=2"]
    words += ["train.updates=20", "evaluate.probe=0", "evaluate.drift_prompts=0", "run.mlflow=false"]
    command = [sys.executable, "-m", "clrft", *words, f"run.output={tmp_path}"]
    folder = tmp_path / "single" / "digits_cil-sft-1993"
    moments = (
        (signal.SIGINT, 130, folder / "task_01" / "metrics.json"),
        (signal.SIGTERM, 143, folder / "unfinished" / "task_02"),  # the same command has gone on
    )
    for number, code, reached in moments:
        shutil.rmtree(folder / "unfinished", ignore_errors=True)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            until(reached.exists)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == code, said
        assert "Go on with the same command: clrft run stream=digits_cil" in said.replace("\n", " ")
        assert (folder / "task_01" / "metrics.json").exists()
        assert not (folder / "metrics.json").exists(), said
        assert not [path for path in folder.iterdir() if "partial" in path.name]


def test_carried_moments_go_on_counting_and_reset_ones_start_anew(finished: Callable[..., Path]) -> None:
    carried, reset = finished("sft", **CARRIED), finished("sft")
    moments = load_file(carried / "task_02" / "optimizer.safetensors")
    assert {float(value) for name, value in moments.items() if name.endswith("|step")} == {4.0}  # 2 in each of 2 tasks
    assert not (reset / "task_02" / "optimizer.safetensors").exists()
    assert same_weights(carried, reset, 1) and not same_weights(carried, reset, 2)


@pytest.mark.parametrize(("method", "carried"), [("rapo", CARRIED), ("sft", {})])
def test_what_weights_have_no_room_for_crosses_a_boundary_with_them(
    method: str, carried: dict[str, bool], finished: Callable[..., Path]
) -> None:
    folder = finished(method, optimizer=KAHAN, dtype="bfloat16", **carried)
    kept = load_file(folder / "task_02" / "optimizer.safetensors")
    kinds = {name.rpartition("|")[2] for name in kept}
    assert kinds == ({"kahan_comp", "step", "exp_avg", "exp_avg_sq"} if carried else {"kahan_comp"})
    assert {values.dtype for values in weights(folder, 2).values()} == {torch.bfloat16}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["carry"]["weight_compensation"] == "carried"
    assert (manifest["model"]["optimizer"], manifest["model"]["weights"]) == (KAHAN, "bfloat16")


def test_a_run_whose_updates_are_lost_says_so_at_once(finished: Callable[..., Path], tmp_path: Path) -> None:
    reporter = Says()
    folder = run(small(tmp_path, "sft", dtype="bfloat16", optimizer=PLAIN, learning_rate=1e-6), reporter)
    warnings = [line for line in reporter.said if "reached the weights" in line]
    assert len(warnings) == 2  # once a task
    assert "of update 2 reached the weights" in warnings[0] and "train.optimizer=adamw;" in warnings[0]
    record = read_run(folder)
    assert record.task_metrics(1)["least_update_applied"] < 0.1
    (note,) = [note for note in compare([record]).notes if "reached the weights" in note]
    assert "of an update of sft" in note
    kept = read_run(finished("sft"))
    assert kept.task_metrics(1)["least_update_applied"] > 0.99
    assert not [note for note in compare([kept]).notes if "reached" in note]


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_future_tasks_the_base_and_an_epoch_when_asked_and_only_the_last_weights_stay(
    method: str, tmp_path: Path
) -> None:
    asked = {"run": {"keep_weights": "last"}, "evaluate": {"future": True}}
    folder = run(small(tmp_path, method, layer=asked, epochs=1.0), Silent())
    # an epoch is one pass: 2 classes x 8 shots = 16 examples, 4 an update
    assert len((folder / "task_01" / "steps.jsonl").read_text().splitlines()) == 4
    record = read_run(folder)
    assert not torch.tensor(record.matrix.value).isnan().any()
    assert not torch.tensor(record.matrix.base).isnan().any()
    # two tasks: R[1,2] - b_2
    expected = record.matrix.value[0, 1] - record.matrix.base[1]
    assert record.metrics["fwt"].value == pytest.approx(expected)
    assert not (folder / "task_01" / "weights").exists()
    assert (folder / "task_02" / "weights" / "model.safetensors").is_file()


def test_sampled_decoding_follows_the_runs_seed(finished: Callable[..., Path], tmp_path: Path) -> None:
    hot = {"evaluate": {"decoding": "sampled", "temperature": 1.5}}
    folders = [finished("zero_shot"), *(run(small(tmp_path / one, "zero_shot", layer=hot), Silent()) for one in "ab")]
    cold, first, second = ((folder / "task_02" / "predictions.jsonl").read_text() for folder in folders)
    assert first == second != cold
